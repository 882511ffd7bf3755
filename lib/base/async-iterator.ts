import { aborted } from './abort.ts'

type Result<T> = IteratorResult<T, undefined>

/** The result that ends an iteration. */
export const end: Result<never> = { done: true, value: undefined }

/**
 * An asynchronous iterator over what a socket receives. Not an async generator: its three microtasks per item made a stream of
 * messages slower than one `await recv()` for each.
 */
export class Iteration<T> implements AsyncIterableIterator<T, undefined> {
  readonly #source: { readonly closed: boolean }
  readonly #take: () => Promise<Result<T>>
  readonly #signal: AbortSignal | undefined
  #left = false

  /** @param take takes one item or waits for it; it refers to the public object, which is not collected meanwhile */
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
      return Promise.reject(error) // including that of a call on another object
    }
  }

  /** Ends the iteration. The socket stays open and keeps what it has received ahead. */
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
