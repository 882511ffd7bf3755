import { aborted } from './errors/abort.ts'

type Result<T> = IteratorResult<T, undefined>

/** What ends an iteration. */
export const end: Result<never> = { done: true, value: undefined }

/**
 * What comes out of a socket, one after the other. Not an async generator: that takes three microtasks an item, which
 * made a stream of messages slower than one `await recv()` each.
 */
export class Iteration<T> implements AsyncIterableIterator<T, undefined> {
  readonly #source: { readonly closed: boolean }
  readonly #take: () => Promise<Result<T>>
  readonly #signal: AbortSignal | undefined
  #left = false

  /** `take` takes one item, or waits for it, and keeps the public object over the source from being collected. */
  constructor(source: { readonly closed: boolean }, take: () => Promise<Result<T>>, signal: AbortSignal | undefined) {
    this.#source = source
    this.#take = take
    this.#signal = signal
  }

  next(): Promise<Result<T>> {
    try {
      if (this.#left || this.#source.closed) return Promise.resolve(end)
      if (this.#signal?.aborted === true) throw aborted(this.#signal)
      return this.#take()
    } catch (error) {
      return Promise.reject(error) // that of a call on something else included
    }
  }

  /** Leaving a `for await` leaves the socket open, and with it what was taken ahead. */
  return(): Promise<Result<T>> {
    try {
      this.#left = true
      return Promise.resolve(end)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}
