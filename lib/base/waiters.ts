import { onAbort } from './abort.ts'
import { aborted } from './errors/abort.ts'
import { Queue } from './queue.ts'
import { rejection } from './rejection.ts'

/** A pending operation in a {@link Waiters} queue. */
export interface Waiter<T> {
  /** Settles the promise; `Waiters.add` sets it. */
  resolve: (value: T | PromiseLike<T>) => void
  /** Stops listening for an abort. */
  abortion: Disposable | undefined
}

// One executor for all promises: a closure for each would be an allocation for each.
let lastResolve: Waiter<unknown>['resolve']
const keepResolve = (resolve: Waiter<unknown>['resolve']): void => {
  lastResolve = resolve
}

/** Settles a waiter that is in no queue any more. To reject it, pass a {@link rejection}. */
export function settle<T>(waiter: Waiter<T>, value: T | PromiseLike<T>): void {
  waiter.abortion?.[Symbol.dispose]()
  waiter.abortion = undefined
  waiter.resolve(value)
}

/** Pending operations in the order of their calls: each settles once, with a value, an error, or an AbortError. */
export class Waiters<W extends Waiter<any>> {
  readonly #queue = new Queue<W>()
  readonly #aborted: ((waiter: W) => void) | undefined

  /** @param onAborted called after an abort has removed and rejected a waiter */
  constructor(onAborted?: (waiter: W) => void) {
    this.#aborted = onAborted
  }

  get length(): number {
    return this.#queue.length
  }

  /** The first waiter, which stays in the queue. */
  get first(): W | undefined {
    return this.#queue.peek()
  }

  /** Appends a waiter, and returns its promise. */
  add<T>(waiter: W & Waiter<T>, signal?: AbortSignal | undefined): Promise<T> {
    const promise = new Promise<unknown>(keepResolve)
    waiter.resolve = lastResolve
    if (signal !== undefined) {
      waiter.abortion = onAbort(signal, () => {
        if (!this.reject(waiter, () => aborted(signal))) return
        this.#aborted?.(waiter)
      })
    }
    this.#queue.push(waiter)
    return promise as Promise<T>
  }

  /** Removes and returns the first waiter, for `settle`. */
  shift(): W | undefined {
    return this.#queue.shift()
  }

  /** The position of a waiter, 0 for the first; negative if it is not in the queue. */
  indexOf(waiter: W): number {
    return this.#queue.indexOf(waiter)
  }

  /** Removes a waiter and settles it with a value; returns false if it has settled. */
  resolve<T>(waiter: W & Waiter<T>, value: T): boolean {
    if (!this.#queue.remove(waiter)) return false
    settle(waiter, value)
    return true
  }

  /** Removes a waiter and rejects it; returns false if it has settled. */
  reject(waiter: W, error: () => unknown): boolean {
    if (!this.#queue.remove(waiter)) return false
    settle(waiter, rejection(error))
    return true
  }

  /** Settles all waiters with what `value` returns for each. */
  settleAll(value: (waiter: W) => unknown): void {
    for (let waiter = this.#queue.shift(); waiter !== undefined; waiter = this.#queue.shift()) {
      settle(waiter, value(waiter))
    }
  }

  /** Rejects all waiters. */
  fail(error: () => unknown): void {
    this.settleAll(() => rejection(error))
  }
}
