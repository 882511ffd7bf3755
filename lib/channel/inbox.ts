import { Queue } from '../base/queue.ts'
import { rejection } from '../base/rejection.ts'
import { type Waiter, Waiters, settle } from '../base/waiters.ts'
import type { ChannelMessage, Received } from './message.ts'

/** The limits of a channel, in either direction. */
export interface ChannelLimits {
  /** The maximum number of bytes of an encoded message. */
  readonly maxBytes: number
  /** The maximum number of descriptors of a message. */
  readonly maxFds: number
  /** The maximum number of pending operations of each kind. */
  readonly maxPending: number
}

/** Converts a message, or null for the end of the channel, to the result of a call. */
export interface Shape<T> {
  (message: ChannelMessage | null): T
  /** Whether a pending call resolves when this side closes the channel; otherwise it rejects. */
  readonly endsQuietly?: boolean
}

/** A pending receive. */
interface PendingReceive extends Waiter<unknown> {
  /** Keeps the socket from being collected. */
  readonly owner: object
  readonly shape: Shape<unknown>
}

interface HeldMessage {
  readonly received: Received
  readonly size: number
}

/**
 * The messages of a channel, and the receives that wait for them.
 *
 * Messages are held that arrive while only a response, a request or the end of the channel is awaited. Held messages together are
 * bounded by the limits of one message, which the last of them may exceed.
 */
export class Inbox {
  readonly #limits: ChannelLimits
  readonly #receives: Waiters<PendingReceive>
  readonly #held = new Queue<HeldMessage>()
  #heldBytes = 0
  #heldFds = 0

  /** @param onAborted called after a pending receive was aborted */
  constructor(limits: ChannelLimits, onAborted: () => void) {
    this.#limits = limits
    this.#receives = new Waiters(onAborted)
  }

  /** Whether no message is held. */
  get isEmpty(): boolean {
    return this.#held.length === 0
  }

  /** Whether a receive is pending. */
  get isAwaited(): boolean {
    return this.#receives.length > 0
  }

  /** Whether another message may be held. */
  get hasRoom(): boolean {
    const { maxBytes, maxFds, maxPending } = this.#limits
    return this.#held.length < maxPending && this.#heldBytes <= maxBytes && this.#heldFds <= maxFds
  }

  /** Removes and returns the first held message. */
  take(): Received | undefined {
    const held = this.#held.shift()
    if (held === undefined) return undefined
    const { received, size } = held
    this.#heldBytes -= size
    if (typeof received !== 'function') this.#heldFds -= received.fds.length
    return received
  }

  /** Adds a pending receive. */
  add<T>(owner: object, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    const receive: PendingReceive = { owner, shape, resolve: undefined!, abortion: undefined }
    return this.#receives.add<unknown>(receive, signal) as Promise<T>
  }

  /** Settles the first pending receive, or holds the message. */
  deliver(received: Received, size: number): void {
    const receive = this.#receives.shift()
    if (receive !== undefined) {
      settle(receive, typeof received === 'function' ? rejection(received) : receive.shape(received))
      return
    }
    this.#held.push({ received, size })
    this.#heldBytes += size
    if (typeof received !== 'function') this.#heldFds += received.fds.length
  }

  /**
   * Settles the pending receives at the end of the channel. An error rejects one receive, the first pending one or the next call.
   *
   * @param error null for an orderly end
   */
  end(error: Error | null): void {
    if (error !== null) this.deliver(() => error, 0)
    this.#receives.settleAll(({ shape }) =>
      error === null || shape.endsQuietly === true ? shape(null) : rejection(() => error)
    )
  }

  /** Settles the pending receives because this side closed the channel, and closes held messages. */
  close(error: () => Error): void {
    this.#receives.settleAll(({ shape }) => (shape.endsQuietly === true ? shape(null) : rejection(error)))
    this.clear()
  }

  /** Closes held messages. */
  clear(): void {
    for (let received = this.take(); received !== undefined; received = this.take()) {
      if (typeof received !== 'function') received.close()
    }
  }
}
