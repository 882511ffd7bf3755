import type { Server, Socket } from 'node:net'
import type { Abortable } from '../base/index.ts'
import { invalidType, optionsOf, raceAbort, signalOf } from '../base/internal.ts'
import { KILL_MARGIN_MS, ServerDrain, type ServerOptions, isServer, serveConnection } from '../handover/internal.ts'
import { type ConnectionHandler, ConnectionIntake, checkSockets, openSocketOf } from './connection-intake.ts'
import { worker } from './worker-channel.ts'

/** Options of {@link serve}. */
export interface ServeOptions extends Abortable {
  /**
   * Called when the superserver drains this worker: it can send a last message to WebSocket clients, or end streams of events. WebSocket
   * clients get the close frame 1001 (going away) when what it returns has resolved.
   *
   * @param deadline when the superserver kills this worker, on the clock of `Date.now()`; Infinity if it does not
   */
  onDrain?: ((deadline: number) => unknown) | undefined
}

/** The connections of this process, which a second call of `serve` continues to take. */
let intake: ConnectionIntake<Socket> | undefined

/** The drains of all servers that have been given connections. */
const drains: ServerDrain[] = []

/**
 * Serves the connections that a superserver passes to this worker with a server that does not listen itself: one of `node:http`,
 * `node:https`, `node:http2`, `node:tls` or `node:net`. The server serves each one as if it had accepted it, within its own options and
 * limits, as `adoptConnection` of `fdpass` describes.
 *
 * When the superserver drains this worker, or has exited, no client is cut off that expects an answer:
 *
 * - HTTP/1: each connection is closed after its next response, whatever `Connection` header the program sets, and idle connections after
 *   the server's `keepAliveTimeout`. A client therefore never sends a request over a connection that is being closed.
 * - HTTP/2: each session gets GOAWAY before a response, or a second later, and ends with its last stream.
 * - WebSocket: each connection gets the close frame 1001 (going away), after `onDrain`.
 *
 * Shortly before the superserver kills this worker (5 s, or half of a `drainTimeout` of less than 10 s), the connections that would never
 * end are ended: idle ones, streams of server-sent events, and connections of other protocols.
 *
 * @param server the server, which the caller keeps
 * @param options `onDrain`, `signal`
 * @returns resolves when the superserver will send nothing more, and all connections are closed
 *
 *   Rejects with ERR_INVALID_STATE, ERR_INVALID_ARG_TYPE or ERR_UNSUPPORTED_PLATFORM, as `connections()` throws; with an AbortError, after
 *   which open connections are served, and further ones wait for the next call; with what `onDrain` throws
 */
export async function serve(server: Server, options?: ServeOptions): Promise<void> {
  checkSockets()
  const signal = signalOf(optionsOf(options))
  const { onDrain } = options ?? {}
  if (onDrain !== undefined && typeof onDrain !== 'function') {
    throw invalidType('options.onDrain', 'of type function', onDrain)
  }
  if (!isServer(server)) throw invalidType('server', 'an instance of net.Server', server)
  using drain = new ServerDrain(server)
  drains.push(drain)
  const taken = takeConnections(server)
  try {
    await raceAbort(taken.drained, signal)
    const { deadline } = await worker.draining
    const farewell = drain.start(deadline - Date.now(), KILL_MARGIN_MS, onDrain && (() => onDrain(deadline)))
    const emptied = drains.map((each) => each.emptied)
    await Promise.all([raceAbort(Promise.all([taken.finished, ...emptied]), signal), farewell])
  } catch (error) {
    taken.paused = true
    throw error
  }
}

/** Gives the connections of this process to a server. */
function takeConnections(server: Server): ConnectionIntake<Socket> {
  const { allowHalfOpen = false, highWaterMark } = server as Server & ServerOptions
  const handler: ConnectionHandler<Socket> = {
    waitsForAccepted: true,
    open: (fd, name) => openSocketOf(fd, name, allowHalfOpen, highWaterMark),
    serve(socket, _name, track) {
      track?.(socket)
      serveConnection(server, socket)
    }
  }
  if (intake === undefined) {
    intake = new ConnectionIntake(handler)
  } else {
    intake.handler = handler
    intake.paused = false
  }
  return intake
}
