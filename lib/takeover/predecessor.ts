import type { Socket } from 'node:net'
import type { Abortable } from '../base/index.ts'
import { Iteration, boolean, end, optionsOf, signalOf, invalidState } from '../base/internal.ts'
import type { ChannelMessage } from '../channel/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { openReceivedConnection, receiveNextConnection } from '../handover/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { type ConnectionInfo, parseConnection } from './protocol.ts'

/** A live connection that a predecessor has handed over. */
export interface TakenConnection extends ConnectionInfo {
  /** The connection, which the caller owns and must close. Its first bytes are those that the predecessor's Node had read. */
  readonly socket: Socket
}

/** Options of {@link Predecessor.connections}. */
export interface TakenConnectionsOptions extends Abortable {
  /** Whether the sockets stay writable after their peer has ended its sending half (default false). HTTP servers need it. */
  allowHalfOpen?: boolean | undefined
}

/** The process that served before this one. */
export class Predecessor {
  /** Its pid, as the predecessor itself reports it. */
  readonly pid: number
  /** The bytes that its `state` option returned; empty without one. */
  readonly state: Uint8Array
  /** The descriptors that its `state` option returned. The caller owns them and must close them. */
  readonly fds: readonly Descriptor[]
  readonly #connections: UnixSocket | undefined

  /** @internal */
  constructor(pid: number, state: ChannelMessage, connections: UnixSocket | undefined) {
    this.pid = pid
    this.state = state.value instanceof Uint8Array ? state.value : new Uint8Array()
    this.fds = state.fds
    this.#connections = connections
  }

  /**
   * Iterates over the live connections that the predecessor hands over, until it exits or closes its side.
   *
   * The iterator throws as `receiveConnection` rejects; a new iteration continues after the failed connection. Leaving the loop early
   * loses nothing.
   *
   * @param options `allowHalfOpen`, `signal`
   * @returns the connections, each with its name and state
   * @throws ERR_INVALID_STATE without the `connections` option; ERR_INVALID_ARG_TYPE
   */
  connections(options?: TakenConnectionsOptions): AsyncIterableIterator<TakenConnection, undefined> {
    const signal = signalOf(optionsOf(options))
    const { allowHalfOpen = false } = options ?? {}
    boolean('options.allowHalfOpen', allowHalfOpen)
    const channel = this.#connections
    if (channel === undefined) throw invalidState("Receiving connections needs takeover's `connections` option")
    const take = async (): Promise<IteratorResult<TakenConnection, undefined>> => {
      const received = await receiveNextConnection(channel, signal)
      if (received === null) return end
      const [connection, info] = parseConnection(received)
      return { done: false, value: { socket: openReceivedConnection(connection, allowHalfOpen), ...info } }
    }
    return new Iteration(channel, take, signal)
  }

  /** @internal */
  close(): void {
    this.#connections?.close()
  }
}
