import type { ServerResponse, IncomingMessage } from 'node:http'
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { InputTimer } from '../base/abort.ts'
import { Places } from '../base/collections.ts'

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

/** A GOAWAY frame without an error that refuses no stream: RFC 9113, 6.8. */
const GOAWAY_NOTICE = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])
/** The maximum time for which a session without streams waits for the next one, in milliseconds. */
const NEXT_STREAM_MS = 1000
/** The maximum time for which a session waits for its client's acknowledgements, in milliseconds. A client can be gone, or send none. */
const MAX_WAIT_MS = 10_000

/**
 * Closes a session. GOAWAY is sent before a response, so that a client reads it before it begins another stream: a client of Node's fails a
 * request that it has not sent when it reads GOAWAY. So a session without streams waits some time for the next one.
 *
 * The first GOAWAY refuses no stream, because the client may have begun some. The second one, after a round trip, names the last stream (RFC
 * 9113, 6.8). Node's `goaway()` is no such first one: behind it nghttp2 ignores new streams (session_allow_incoming_new_stream). So that frame is
 * written to the socket. With TLS this is not possible, since Node aborts when two writes of a TLSWrap overlap, nor on Deno, which has sockets of
 * its own: there is one GOAWAY, which refuses the streams that arrive behind it.
 */
export class Http2Closing {
  readonly session: ServerHttp2Session
  readonly #streams = new Places<ServerHttp2Stream>()
  #hasBegun = false
  #timer: InputTimer | undefined
  #limit: InputTimer | undefined

  /** Create it before the session has streams. */
  constructor(session: ServerHttp2Session) {
    this.session = session
    session.on('stream', (stream: ServerHttp2Stream) => {
      this.#streams.addUntilClosed(stream)
      // The bytes that have arrived can begin further streams. No response is written before the next tick.
      if (this.#timer === undefined) return
      this.#stopTimer()
      process.nextTick(() => this.#announce())
    })
    session.once('close', () => {
      this.#stopTimer()
      this.#limit?.[Symbol.dispose]()
    })
  }

  /** Closes the session when its streams have ended. */
  start(): void {
    const { session } = this
    if (session.closed || session.destroyed || this.#hasBegun) return
    this.#hasBegun = true
    this.#limit = new InputTimer(MAX_WAIT_MS, () => this.close())
    // The first frame of a server is SETTINGS.
    if (session.pendingSettingsAck) session.once('localSettings', () => this.#begin())
    else this.#begin()
  }

  /** Refuses new streams from now on, and closes the session when its streams have ended. */
  close(): void {
    this.session.close()
  }

  #begin(): void {
    if ([...this.#streams].some((stream) => !stream.writableEnded)) this.#announce()
    else this.#timer = new InputTimer(NEXT_STREAM_MS, () => this.#announce())
  }

  #stopTimer(): void {
    this.#timer?.[Symbol.dispose]()
    this.#timer = undefined
  }

  #announce(): void {
    const { session } = this
    this.#timer = undefined
    if (session.closed || session.destroyed) return
    try {
      if (session.encrypted === false && process.versions.deno === undefined) {
        // The session's own `write` throws. nghttp2's frames are written as a whole, so this one is between two.
        Reflect.apply(Duplex.prototype.write, session.socket, [GOAWAY_NOTICE])
        if (session.ping(() => process.nextTick(() => this.close()))) return
      }
    } catch {
      // Too many pings are on their way.
    }
    this.close()
  }
}

/** A close frame of a server with the status 1001, "going away": RFC 6455, 5.5.1 and 7.4.1. */
const GOING_AWAY = Buffer.from([0x88, 2, 1001 >> 8, 1001 & 0xff])

/** A WebSocket connection. */
interface Upgraded {
  readonly socket: Socket
  /** The number of bytes written before the response that upgrades it. */
  readonly bytesBefore: number
}

/** The WebSocket connections of a server, by the requests that it has upgraded. The program's library speaks the protocol. */
export class WebSockets implements Disposable {
  readonly #server: Server
  readonly #connections = new Places<Upgraded>()
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
    for (const { socket, bytesBefore } of this.#connections) sayGoingAway(socket, bytesBefore)
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
    const bytesBefore = socket.bytesWritten
    const upgraded = { socket, bytesBefore }
    const place = this.#connections.add(upgraded)
    socket.once('close', () => this.#connections.remove(upgraded, place))
    if (this.#isClosing) sayGoingAway(socket, bytesBefore)
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
