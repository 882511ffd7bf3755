import { Queue } from '../base/collections.ts'
import { MAX_INT } from '../base/validate.ts'
import { rejection } from '../base/errors.ts'
import { Waiter, Waiters, settle } from '../base/waiters.ts'
import { type ChannelMessage, type Received, closeReceived } from './message.ts'

/** The limits of a channel, other than that of `encode`. */
export interface ChannelLimits {
  /** The maximum number of descriptors of a message to send. */
  readonly maxFds: number
  /** The maximum number of bytes, and of descriptors, of the peer's message. */
  readonly maxReceivedBytes: number
  readonly maxReceivedFds: number
  /** Whether the peer may send messages that are no requests. */
  readonly messages: boolean
  /** The maximum number of pending operations of each kind. */
  readonly maxPending: number
  /** The maximum number of bytes, and of descriptors, of the peer's requests that are handled at a time. */
  readonly maxRequestBytes: number
  readonly maxRequestFds: number
}

/** Converts a message, or null for the end of the channel, to the result of a call. */
export interface Shape<T> {
  (message: ChannelMessage | null): T
  /** Whether a pending call resolves when this side closes the channel; otherwise it rejects. */
  readonly endsQuietly?: boolean
}

/** A pending receive. */
class PendingReceive extends Waiter<unknown> {
  /** Keeps the socket from being collected. */
  readonly owner: object
  readonly shape: Shape<unknown>

  constructor(owner: object, shape: Shape<unknown>) {
    super()
    this.owner = owner
    this.shape = shape
  }
}

interface HeldMessage {
  readonly received: Received
  readonly size: number
}

/**
 * The messages of a channel, and the receives that wait for them.
 *
 * Messages are held that arrive while only a response, a request or the end of the channel is awaited. Held messages together are
 * bounded by the limits of one message. The first one that does not fit stays in the socket, and so does everything behind it.
 */
export class Inbox {
  readonly #limits: ChannelLimits
  readonly #receives: Waiters<PendingReceive>
  readonly #held = new Queue<HeldMessage>()
  #heldBytes = 0
  #heldFds = 0
  /** Whether the next message does not fit. */
  #isFull = false

  /** @param onAborted called after a pending receive was aborted */
  constructor(limits: ChannelLimits, onAborted: () => void) {
    this.#limits = limits
    this.#receives = new Waiters({ waiterAborted: onAborted })
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
    return !this.#isFull && this.#held.length < this.#limits.maxPending
  }

  /** The maximum number of bytes of the next message. */
  get roomForBytes(): number {
    return this.isEmpty ? MAX_INT : this.#limits.maxReceivedBytes - this.#heldBytes
  }

  /** The maximum number of descriptors of the next message. */
  get roomForFds(): number {
    return this.isEmpty ? MAX_INT : this.#limits.maxReceivedFds - this.#heldFds
  }

  /** Holds no further message until one was taken, because the next one does not fit. */
  postpone(): void {
    this.#isFull = true
  }

  /** Removes and returns the first held message. */
  take(): Received | undefined {
    const held = this.#held.shift()
    if (held === undefined) return undefined
    const { received, size } = held
    this.#isFull = false
    this.#heldBytes -= size
    if (typeof received !== 'function') this.#heldFds -= received.fds.length
    return received
  }

  /** Adds a pending receive. */
  add<T>(owner: object, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    const receive = new PendingReceive(owner, shape)
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
    for (let received = this.take(); received !== undefined; received = this.take()) closeReceived(received)
  }
}
