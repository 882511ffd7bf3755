import { Channel, type ChannelMessage } from '../channel/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { Hold } from '../base/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { MAX_BYTES, MAX_ENTRY_FDS, type Wish } from './protocol.ts'

const LIMITS = { maxBytes: MAX_BYTES, maxFds: MAX_ENTRY_FDS } as const

/** A connection to a store, until the store ends it, or says that it has moved. */
export class Line {
  readonly #channel: Channel
  readonly #hold: Hold
  #waiting = 0
  #left = false

  constructor(socket: UnixSocket) {
    const channel = new Channel(socket, LIMITS).unref()
    this.#channel = channel
    this.#hold = new Hold((on) => (on ? channel.ref() : channel.unref()))
    void this.#watch()
  }

  /** Whether nothing new is to be asked over it. */
  get left(): boolean {
    return this.#left
  }

  async ask(wish: Wish, fds: readonly Descriptor[], signal: AbortSignal | undefined): Promise<ChannelMessage> {
    using _waiting = this.#hold.wait()
    this.#waiting++
    try {
      return await this.#channel.request(wish, fds, { signal })
    } finally {
      this.#waiting--
      this.#closeIfDone()
    }
  }

  /** Asks nothing new; it is closed when what was asked is answered. */
  leave(): void {
    this.#left = true
    this.#closeIfDone()
  }

  close(): void {
    this.#left = true
    this.#channel.close()
  }

  #closeIfDone(): void {
    if (this.#left && this.#waiting === 0) this.#channel.close()
  }

  /** A store sends no message but that it has moved. */
  async #watch(): Promise<void> {
    const message = await this.#channel.receive().catch(() => null)
    message?.close()
    this.leave()
  }
}
