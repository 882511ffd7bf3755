import { Queue, rejection, settle, Waiter, Waiters } from '../base/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'

/** The type of values that `process.send()` accepts. */
export type NodeValue = string | number | boolean | object | null

/** A message received over a {@link NodeChannel}: a value, and the descriptor that was sent with it. */
export class NodeMessage implements Disposable {
  /** The value, decoded from JSON. */
  readonly message: unknown
  /** The descriptor of the handle that was sent with the value, which the receiver must close; null without a handle. */
  readonly fd: Descriptor | null

  /** @internal */
  constructor(message: unknown, fd: Descriptor | null) {
    this.message = message
    this.fd = fd
  }

  /** Closes the descriptor if there is one and it is open; for `using`. */
  [Symbol.dispose](): void {
    this.fd?.closeSync()
  }
}

/** The maximum number of descriptors in held messages. */
const MAX_HELD_FDS = 64

/** The messages that arrived, and the receives that wait for them. */
export class Inbox {
  readonly #maxBytes: number
  readonly #receives: Waiters<Waiter<NodeMessage | null>>
  readonly #held = new Queue<NodeMessage>()
  /** The number of bytes that arrived since no message was held. */
  #heldBytes = 0
  #heldFds = 0

  /**
   * @param maxBytes the number of bytes above which no further message is held
   * @param onAborted called after a pending receive was aborted
   */
  constructor(maxBytes: number, onAborted: () => void) {
    this.#maxBytes = maxBytes
    this.#receives = new Waiters({ waiterAborted: onAborted })
  }

  /** Whether a receive is pending. */
  get isAwaited(): boolean {
    return this.#receives.length > 0
  }

  /** Whether another message may be held. */
  get hasRoom(): boolean {
    return this.#heldBytes <= this.#maxBytes && this.#heldFds < MAX_HELD_FDS
  }

  /** Removes and returns the first held message. */
  take(): NodeMessage | undefined {
    const message = this.#held.shift()
    if (message === undefined) return undefined
    if (message.fd !== null) this.#heldFds--
    if (this.#held.length === 0) this.#heldBytes = 0
    return message
  }

  /** Adds a pending receive. */
  add(signal: AbortSignal | undefined): Promise<NodeMessage | null> {
    return this.#receives.add<NodeMessage | null>(new Waiter(), signal)
  }

  /** Settles the first pending receive, or holds the message. */
  deliver(message: NodeMessage, bytes: number): void {
    const receive = this.#receives.shift()
    if (receive !== undefined) return settle(receive, message)
    this.#held.push(message)
    this.#heldBytes += bytes
    if (message.fd !== null) this.#heldFds++
  }

  /** Settles all pending receives: with null at an orderly end, which has no error. */
  end(error: (() => Error) | undefined): void {
    this.#receives.settleAll(() => (error === undefined ? null : rejection(error)))
  }

  /** Closes all held messages. */
  clear(): void {
    for (let message = this.take(); message !== undefined; message = this.take()) message[Symbol.dispose]()
  }
}
