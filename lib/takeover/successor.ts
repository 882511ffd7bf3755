import type { Socket } from 'node:net'
import type { Abortable, Bytes } from '../base/index.ts'
import { optionsOf, invalidState } from '../base/internal.ts'
import { handOver } from '../handover/index.ts'
import type { Credentials, UnixSocket } from '../socket/index.ts'
import { connectionMessage } from './protocol.ts'

/** Options of {@link Successor.handOver}. */
export interface SuccessorHandOverOptions extends Abortable {
  /** The connection's name, for the successor (default `''`). */
  name?: string | undefined
  /** The connection's state, for the successor (default: empty). */
  state?: Bytes | undefined
}

/** The process that has taken over from this one. */
export class Successor {
  /** Its credentials, which the kernel recorded when it connected. */
  readonly credentials: Credentials
  readonly #connections: UnixSocket | undefined

  /** @internal */
  constructor(credentials: Credentials, connections: UnixSocket | undefined) {
    this.credentials = credentials
    this.#connections = connections
  }

  /** Whether it accepts live connections: its `connections` option. */
  get takesConnections(): boolean {
    return this.#connections !== undefined
  }

  /**
   * Hands a live connection over, as `handOver` does: its descriptor, and the bytes that Node has already read from it.
   *
   * @param socket the connection: TCP or Unix domain. Do not use it after the call
   * @param options `name`, `state`, `signal`
   * @returns resolves when the kernel has taken the connection, and the socket is destroyed here
   *
   *   If it rejects, the socket continues to work. Rejects as `handOver`, with ERR_INVALID_STATE if the successor accepts no
   *   connections, and with `EPIPE` if it has exited.
   */
  async handOver(socket: Socket, options?: SuccessorHandOverOptions): Promise<void> {
    const { name = '', state = '', signal } = optionsOf(options) ?? {}
    const message = connectionMessage(name, state)
    if (this.#connections === undefined) throw invalidState('The successor does not receive connections')
    await handOver(this.#connections, socket, message, { signal })
  }

  /** @internal Ends the stream of connections. */
  close(): void {
    this.#connections?.close()
  }
}
