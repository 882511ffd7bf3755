import type { ServerResponse, IncomingMessage } from 'node:http'
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'

/** Returns a listener for `'close'`, which is emitted once. One for all sockets costs less than a closure for each. */
export function closeListener(act: (socket: Socket) => void): (this: Socket) => void {
  return function (this: Socket) {
    act(this)
  }
}

/**
 * Has a response close its connection, and say so in its header. Node does so for `shouldKeepAlive = false` only if the program sets no
 * `Connection` header.
 */
export function closeAfter(response: ServerResponse): void {
  response.shouldKeepAlive = false
  // Node calls it for an implicit header too.
  const writeHead = response.writeHead.bind(response) as (...args: unknown[]) => ServerResponse
  const writeClosingHead = (status: number, ...rest: unknown[]): ServerResponse => {
    if (status < 200 || response.headersSent) return writeHead(status, ...rest)
    const text = typeof rest[0] === 'string' ? [rest[0]] : []
    const headers = rest[text.length] ?? rest[1]
    if (headers !== undefined && headers !== null) return writeHead(status, ...text, withClose(headers))
    response.setHeader('Connection', 'close')
    return writeHead(status, ...text)
  }
  response.writeHead = writeClosingHead as ServerResponse['writeHead']
}

const isConnection = (name: unknown): boolean => String(name).toLowerCase() === 'connection'

/** Returns headers in their form, an object, an array of pairs or a flat array, with `Connection: close` only. */
function withClose(headers: unknown): unknown {
  if (!Array.isArray(headers)) {
    const others = Object.entries(headers as object).filter(([name]) => !isConnection(name))
    return { ...Object.fromEntries(others), Connection: 'close' }
  }
  const list = headers as unknown[]
  if (Array.isArray(list[0])) {
    return [...(list as unknown[][]).filter(([name]) => !isConnection(name)), ['Connection', 'close']]
  }
  return [...list.filter((_, index) => !isConnection(list[index - (index % 2)])), 'Connection', 'close']
}

/** The highest id of a client's stream. */
const LAST_STREAM = 2 ** 31 - 1

/**
 * Closes a session as RFC 9113, 6.8 describes it: the first GOAWAY refuses no stream, because the client may have begun one. The second one,
 * after a round trip, names the last stream.
 */
export class Http2Closing {
  readonly session: ServerHttp2Session
  #streams = 0
  #hasBegun = false

  /** Create it before the session has streams. */
  constructor(session: ServerHttp2Session) {
    this.session = session
    session.on('stream', (stream: ServerHttp2Stream) => {
      this.#streams++
      stream.once('close', () => {
        this.#streams--
        // Behind a GOAWAY and the last stream nghttp2 reads nothing more, not even the answer to a ping (nghttp2_session_want_read).
        if (this.#hasBegun && this.#streams === 0) session.close()
      })
    })
  }

  /** Closes the session when its streams have ended. */
  start(): void {
    const { session } = this
    if (session.closed || session.destroyed || this.#hasBegun) return
    this.#hasBegun = true
    if (this.#streams === 0) return session.close()
    session.goaway(0, LAST_STREAM)
    try {
      if (session.ping(() => session.close())) return
    } catch {
      // Too many pings are on their way.
    }
    session.close()
  }
}

/** A close frame of a server with the status 1001, "going away": RFC 6455, 5.5.1 and 7.4.1. */
const GOING_AWAY = Buffer.from([0x88, 2, 1001 >> 8, 1001 & 0xff])

/** The WebSocket connections of a server, by the requests that it has upgraded. The program's library speaks the protocol. */
export class WebSockets implements Disposable {
  readonly #server: Server
  /** The connections, each with the number of bytes written before the response that upgrades it. */
  readonly #sockets = new Map<Socket, number>()
  #isClosing = false

  constructor(server: Server) {
    this.#server = server
    server.on('newListener', this.#follow)
    server.on('removeListener', this.#unfollow)
    if (server.listenerCount('upgrade') > 0) server.prependListener('upgrade', this.#upgraded)
  }

  /** Sends each client a close frame, to which it answers by closing, and each later one. A library writes the frames of one turn together. */
  close(): void {
    this.#isClosing = true
    for (const [socket, before] of this.#sockets) sayGoingAway(socket, before)
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
    const { bytesWritten } = socket
    this.#sockets.set(socket, bytesWritten)
    socket.once('close', () => this.#sockets.delete(socket))
    if (this.#isClosing) sayGoingAway(socket, bytesWritten)
  }
}

/** Sends a close frame, but not before the response that upgrades the connection, which the program may write later. */
function sayGoingAway(socket: Socket, bytesBefore: number): void {
  if (!socket.writable) return
  if (socket.bytesWritten > bytesBefore) {
    socket.write(GOING_AWAY)
    return
  }
  const { write } = socket
  socket.write = ((...args: Parameters<Socket['write']>): boolean => {
    socket.write = write
    // The frames that the program writes with the response go first.
    queueMicrotask(() => sayGoingAway(socket, bytesBefore))
    return write.apply(socket, args)
  }) as Socket['write']
}
