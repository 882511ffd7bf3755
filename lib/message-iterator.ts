import type { Endpoint } from './endpoint.ts'
import { aborted } from './errors.ts'
import type { Message } from './message.ts'
import type { Limits, Shape } from './receiver.ts'

type Result = IteratorResult<Message, undefined>

const end: Result = { done: true, value: undefined }

/** The end of the connection ends an iteration, and so does this side's close. */
const toResult: Shape<Result> = Object.assign(
  (message: Message | null): Result => (message === null ? end : { done: false, value: message }),
  { ahead: true, closed: () => end }
)

/**
 * The messages of a socket, one after the other. Not an async generator: that takes three microtasks a message, which
 * made a stream of messages slower than one `await recv()` each.
 */
export class MessageIterator implements AsyncIterableIterator<Message, undefined> {
  readonly #socket: object
  readonly #endpoint: Endpoint
  readonly #limits: Limits
  readonly #signal: AbortSignal | undefined
  #left = false

  constructor(socket: object, endpoint: Endpoint, limits: Limits, signal: AbortSignal | undefined) {
    this.#socket = socket
    this.#endpoint = endpoint
    this.#limits = limits
    this.#signal = signal
  }

  next(): Promise<Result> {
    if (this.#left || this.#endpoint.closed) return Promise.resolve(end)
    const signal = this.#signal
    if (signal?.aborted === true) return Promise.reject(aborted(signal))
    return this.#endpoint.receiver.receive(this.#socket, this.#limits, toResult, signal)
  }

  /** Leaving a `for await` leaves the socket open, and with it what was received ahead. */
  return(): Promise<Result> {
    this.#left = true
    return Promise.resolve(end)
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}
