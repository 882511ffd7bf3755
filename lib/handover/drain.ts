import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Server as HttpServer, ServerResponse } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Server, Socket } from 'node:net'
import { InputTimer } from '../base/abort.ts'
import { Places } from '../base/collections.ts'
import { MAX_INT } from '../base/validate.ts'
import { headOf, isHttp2Socket } from '../descriptor/node-internals.ts'
import { closeAfter, Http2Closing, WebSockets } from './closing.ts'

/** The shortest time for which a draining HTTP server keeps idle connections, in milliseconds. */
const MIN_IDLE_MS = 100
/** Node's `keepAliveTimeout`, which an HTTP/2 server has for its HTTP/1 connections since Node 24. */
const KEEP_ALIVE_MS = 5000
/** The longest time before the deadline at which what would never end is ended, in milliseconds. */
const MAX_LAST_CALL_MS = 5000

/**
 * The time after its deadline at which a worker resets its connections itself, in milliseconds. Its superserver, unless it is gone, kills the
 * worker before, resets these connections and counts them as lost.
 */
export const KILL_MARGIN_MS = 5000

/** Node reports each HTTP/1 request here before it emits 'request', 'checkContinue' or 'checkExpectation', or answers by itself. */
const REQUEST_STARTS = 'http.server.request.start'

/** The part of a report of `REQUEST_STARTS` that is used. */
interface RequestStart {
  readonly server: Server
  readonly response: ServerResponse
}

/**
 * Drains a server: lets its clients finish, and ends connections as the clients expect.
 *
 * - HTTP/1: each connection is closed after its next response, which says so, whatever headers the program sets. Idle connections are
 *   closed after `keepAliveTimeout`, and not immediately, because a client may be sending a request over a connection that was kept alive.
 *   Meanwhile `closeIdleConnections` of the server, which Node's `close` calls, spares what still has a response to send.
 * - HTTP/2: each session gets GOAWAY, and ends with its last stream. Streams that the client begins before it reads GOAWAY are served; with TLS,
 *   and on Deno, they can be refused.
 * - WebSocket: each connection gets the close frame 1001 (going away).
 *
 * Some time before the deadline, idle HTTP connections and those of other protocols are ended, and so are streams of server-sent events,
 * which would never end. At the deadline the remaining TCP connections are reset, so that no HTTP/1 client takes half a response for a whole one;
 * HTTP/2 sessions and other sockets are destroyed.
 *
 * Create it before the server has connections, and dispose of it when all of them are closed.
 */
export class ServerDrain implements Disposable {
  readonly #server: Server
  readonly #sockets = new Places<Socket>()
  readonly #sessions = new Places<Http2Closing>()
  readonly #webSockets: WebSockets
  /** The HTTP/1 responses that are not sent yet. */
  readonly #responses = new Places<ServerResponse>()
  #draining = false
  #emptied: Promise<void> | undefined
  readonly #timers: InputTimer[] = []
  #idleTimer: InputTimer | undefined

  constructor(server: Server) {
    this.#server = server
    this.#webSockets = new WebSockets(server)
    server.prependListener('connection', this.#addSocket)
    server.prependListener('secureConnection', this.#addSocket)
    if (isHttp2(server)) server.prependListener('session', this.#addSession)
    if (!isHttp(server)) return
    if (process.versions.deno === undefined) subscribe(REQUEST_STARTS, this.#requestStarted)
    // With such a listener an HTTP/2 server would emit 'request' for each 'stream' too.
    else if (!isHttp2(server)) server.prependListener('request', this.#requested)
  }

  /**
   * Starts to drain.
   *
   * @param timeout the time until the deadline, in milliseconds (default: there is none)
   * @param margin the time from the deadline until the remaining connections are reset, in milliseconds
   * @param farewell called first. WebSocket clients get their close frame when it has resolved, so that the program can send them a last message
   * @returns settles as `farewell`
   */
  start(timeout = Infinity, margin = 0, farewell?: () => unknown): Promise<void> {
    this.#draining = true
    if (timeout < MAX_INT) {
      this.#after(Math.min(timeout + margin, MAX_INT), () => this.#resetAll())
      this.#after(timeout - Math.min(MAX_LAST_CALL_MS, timeout / 2), () => this.#endEndless())
    }
    if (isHttp(this.#server)) {
      this.#spareResponses(this.#server)
      this.#closeWhenIdle(this.#server)
    }
    for (const response of this.#responses) {
      if (!response.headersSent) closeAfter(response)
      // Its header may have promised to keep the connection alive, which becomes idle with its end.
      else response.once('close', () => this.#idleTimer?.refresh())
    }
    for (const session of this.#sessions) session.start()
    return this.#closeWebSockets(farewell)
  }

  /** Resolves when the server has no connection. */
  get emptied(): Promise<void> {
    return (this.#emptied ??= new Promise((resolve) => {
      this.#sockets.onEmpty = resolve
      if (this.#sockets.size === 0) resolve()
    }))
  }

  async #closeWebSockets(farewell: (() => unknown) | undefined): Promise<void> {
    try {
      await farewell?.()
    } finally {
      this.#webSockets.close()
    }
  }

  /** Stops timers and removes listeners. */
  [Symbol.dispose](): void {
    for (const timer of this.#timers) timer[Symbol.dispose]()
    this.#idleTimer = undefined
    const server = this.#server
    server.off('connection', this.#addSocket)
    server.off('secureConnection', this.#addSocket)
    server.off('session', this.#addSession)
    server.off('request', this.#requested)
    unsubscribe(REQUEST_STARTS, this.#requestStarted)
    this.#webSockets[Symbol.dispose]()
  }

  #after(milliseconds: number, act: () => void): InputTimer {
    const timer = new InputTimer(milliseconds, act)
    this.#timers.push(timer)
    return timer
  }

  /** Has `closeIdleConnections` spare connections whose response is not sent as a whole. Node destroys them once `end` was called. */
  #spareResponses(server: HttpServer): void {
    const closeIdleConnections = server.closeIdleConnections.bind(server)
    server.closeIdleConnections = () => {
      const sockets = [...this.#responses].flatMap(({ socket }) => socket ?? [])
      const restore = sockets.map((socket) => {
        const { destroy } = socket
        socket.destroy = () => socket
        return () => (socket.destroy = destroy)
      })
      closeIdleConnections()
      for (const each of restore) each()
    }
  }

  #closeWhenIdle(server: HttpServer): void {
    const delay = Math.max(server.keepAliveTimeout ?? KEEP_ALIVE_MS, MIN_IDLE_MS)
    const timer = this.#after(delay, () => {
      server.closeIdleConnections()
      timer.refresh() // no event reports that a connection without a request has become idle
    })
    this.#idleTimer = timer
  }

  readonly #addSocket = (socket: Socket): void => {
    this.#sockets.addUntilClosed(socket)
  }

  readonly #addSession = (session: ServerHttp2Session): void => {
    const closing = new Http2Closing(session)
    const place = this.#sessions.add(closing)
    session.once('close', () => this.#sessions.remove(closing, place))
    if (this.#draining) closing.start()
  }

  readonly #requestStarted = (message: unknown): void => {
    const { server, response } = message as RequestStart
    if (server === this.#server) this.#addResponse(response)
  }

  readonly #requested = (_request: unknown, response: ServerResponse): void => this.#addResponse(response)

  #addResponse(response: ServerResponse): void {
    this.#responses.addUntilClosed(response)
    if (this.#draining) closeAfter(response)
  }

  /** Ends what ends only by chance: idle connections, streams of events, and connections of other protocols. */
  #endEndless(): void {
    const server = this.#server
    if (isHttp(server)) server.closeIdleConnections()
    for (const session of this.#sessions) session.close()
    const answering = new Set<Socket>()
    for (const response of this.#responses) {
      const { socket } = response
      if (!socket || isEventStream(response)) continue
      answering.add(socket)
      response.once('close', () => socket.end()) // otherwise it would become idle
    }
    const sockets = [...this.#sockets]
    // The end of a TCP connection would not be the end of the TLS connection over it.
    const below = new Set(sockets.map(parentOf))
    for (const socket of sockets) if (!answering.has(socket) && !below.has(socket) && !isBusy(socket)) socket.end()
  }

  /** Resets TCP connections, and destroys others. An HTTP/2 session is destroyed: it sends RST_STREAM for the streams that are cut only. */
  #resetAll(): void {
    const sockets = [...this.#sockets]
    const others = new Set(sockets.flatMap((socket) => (canReset(socket) ? [] : [socket, parentOf(socket)])))
    for (const { session } of this.#sessions) session.destroy()
    for (const socket of sockets) {
      if (isTcp(socket) && !others.has(socket)) socket.resetAndDestroy()
      else socket.destroy()
    }
  }
}

/** Returns whether a server has HTTP/1 connections: one of `node:http` or `node:https`, or of `node:http2` with TLS. */
function isHttp(server: Server): server is HttpServer {
  return 'closeIdleConnections' in server
}

function isHttp2(server: Server): boolean {
  return 'updateSettings' in server
}

function isEventStream(response: ServerResponse): boolean {
  return /^content-type: *text\/event-stream/im.test(headOf(response))
}

/** Returns whether a connection may be reset. libuv refuses it when the end is being sent: uv_tcp_close_reset. */
function canReset(socket: Socket): boolean {
  return !socket.writableEnded && !isHttp2Socket(socket)
}

/** Returns whether a socket is a TCP connection of this process. */
function isTcp(socket: Socket): boolean {
  // A connection that was sent to another process has no local address here, and nothing to reset.
  return socket.localFamily !== undefined && !('encrypted' in socket)
}

/** Returns the TCP connection below a TLS connection. */
function parentOf(socket: Socket): Socket | null | undefined {
  return (socket as Socket & { readonly _parent?: Socket | null })._parent
}

/** Returns whether a connection has a part of an HTTP/1 request, whose response is still to come, or an HTTP/2 session. */
function isBusy(socket: Socket): boolean {
  const { parser, _httpMessage: message } = socket as Socket & {
    parser?: unknown
    _httpMessage?: ServerResponse | null
  }
  return isHttp2Socket(socket) || (Boolean(parser) && !(message && isEventStream(message)))
}
