import { Channel, type ChannelMessage } from '../channel/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { KeepAlive } from '../event-loop/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { MAX_BYTES, MAX_ENTRY_FDS, type StoreRequest } from './protocol.ts'

const LIMITS = { maxBytes: MAX_BYTES, maxFds: MAX_ENTRY_FDS } as const

/** A connection to a store, until the store closes it or reports that it has moved. */
export class StoreConnection {
  readonly #channel: Channel
  readonly #keepAlive: KeepAlive
  #pending = 0
  #retired = false

  constructor(socket: UnixSocket) {
    const channel = new Channel(socket, LIMITS).unref()
    this.#channel = channel
    this.#keepAlive = new KeepAlive((on) => (on ? channel.ref() : channel.unref()))
    void this.#watch()
  }

  /** Whether the connection accepts no new requests. */
  get retired(): boolean {
    return this.#retired
  }

  async request(
    request: StoreRequest,
    fds: readonly Descriptor[],
    signal: AbortSignal | undefined
  ): Promise<ChannelMessage> {
    using _keptAlive = this.#keepAlive.acquire()
    this.#pending++
    try {
      return await this.#channel.request(request, fds, { signal })
    } finally {
      this.#pending--
      this.#closeIfIdle()
    }
  }

  /** Accepts no new requests, and closes when the pending ones have settled. */
  retire(): void {
    this.#retired = true
    this.#closeIfIdle()
  }

  close(): void {
    this.#retired = true
    this.#channel.close()
  }

  #closeIfIdle(): void {
    if (this.#retired && this.#pending === 0) this.#channel.close()
  }

  /** Retires at the first message, which always reports that the store has moved, and at the end. */
  async #watch(): Promise<void> {
    const message = await this.#channel.receive().catch(() => null)
    message?.close()
    this.retire()
  }
}
