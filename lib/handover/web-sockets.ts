import type { IncomingMessage } from 'node:http'
import type { Server, Socket } from 'node:net'

/** A close frame of a server with the status 1001, "going away": RFC 6455, 5.5.1 and 7.4.1. */
const GOING_AWAY = Buffer.from([0x88, 2, 1001 >> 8, 1001 & 0xff])

/** The WebSocket connections of a server, by the requests that it has upgraded. The program's library speaks the protocol. */
export class WebSockets implements Disposable {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  constructor(server: Server) {
    this.#server = server
    server.on('newListener', this.#follow)
    server.on('removeListener', this.#unfollow)
    if (server.listenerCount('upgrade') > 0) server.prependListener('upgrade', this.#upgraded)
  }

  /** Sends each client a close frame, to which it answers by closing. A library writes the frames of one turn together. */
  close(): void {
    for (const socket of this.#sockets) if (socket.writable) socket.write(GOING_AWAY)
  }

  /** Removes its listeners. */
  [Symbol.dispose](): void {
    this.#server.off('newListener', this.#follow)
    this.#server.off('removeListener', this.#unfollow)
    this.#server.off('upgrade', this.#upgraded)
  }

  /** Adds the listener with the program's first one only: with a listener, Node treats the requests of every client as upgraded. */
  readonly #follow = (event: string): void => {
    if (event === 'upgrade' && this.#server.listenerCount('upgrade') === 0) {
      queueMicrotask(() => {
        if (this.#server.listenerCount('upgrade') > 0) this.#server.prependListener('upgrade', this.#upgraded)
      })
    }
  }

  readonly #unfollow = (event: string): void => {
    if (event === 'upgrade' && this.#server.listenerCount('upgrade') === 1) this.#server.off('upgrade', this.#upgraded)
  }

  readonly #upgraded = ({ headers }: IncomingMessage, socket: Socket): void => {
    if (headers.upgrade?.toLowerCase() !== 'websocket') return
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
  }
}
