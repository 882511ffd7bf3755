import { onAbort, aborted } from './abort.ts'
import { rejection } from './errors.ts'

/** A pending operation. */
export interface Pending<T> {
  /** Settles the promise. */
  readonly resolve: (value: T | PromiseLike<T>) => void
  /** Stops listening for an abort. */
  abortion: Disposable | undefined
}

/** A pending operation in a {@link Waiters} queue, which sets all fields. */
export class Waiter<T> implements Pending<T> {
  resolve!: (value: T | PromiseLike<T>) => void
  abortion: Disposable | undefined = undefined
  isQueued = false
  previous: this | undefined = undefined
  next: this | undefined = undefined

  /** Adds to the error that rejects the operation what was done before it. */
  annotate(error: unknown): unknown {
    return error
  }
}

// One executor for all promises: a closure for each would be an allocation for each.
let lastResolve: Pending<unknown>['resolve'] | undefined
const keepResolve = (resolve: Pending<unknown>['resolve']): void => {
  lastResolve = resolve
}

/** Settles an operation that is in no queue any more. To reject it, pass a {@link rejection}. */
export function settle<T>(waiter: Pending<T>, value: T | PromiseLike<T>): void {
  waiter.abortion?.[Symbol.dispose]()
  waiter.abortion = undefined
  waiter.resolve(value)
}

/** What a queue of pending operations belongs to. */
export interface WaitersOwner<W> {
  /** Called after an abort has removed and rejected a waiter. */
  waiterAborted(waiter: W): void
}

/**
 * Pending operations in the order of their calls: each settles once, with a value, an error, or an AbortError.
 *
 * A linked list: one abort can remove thousands from the middle of the queue, each in constant time.
 */
export class Waiters<W extends Waiter<any>> {
  #first: W | undefined
  #last: W | undefined
  #length = 0
  readonly #owner: WaitersOwner<W> | undefined

  constructor(owner?: WaitersOwner<W>) {
    this.#owner = owner
  }

  get length(): number {
    return this.#length
  }

  /** The first waiter, which stays in the queue. */
  get first(): W | undefined {
    return this.#first
  }

  /** Appends a waiter, and returns its promise. */
  add<T>(waiter: W & Waiter<T>, signal?: AbortSignal | undefined): Promise<T> {
    const promise = new Promise<unknown>(keepResolve)
    waiter.resolve = lastResolve!
    lastResolve = undefined // it would keep the promise, whose error keeps the objects of its stack
    if (signal !== undefined) {
      waiter.abortion = onAbort(signal, () => {
        if (!this.reject(waiter, () => aborted(signal))) return
        this.#owner?.waiterAborted(waiter)
      })
    }
    waiter.isQueued = true
    waiter.previous = this.#last
    if (this.#last === undefined) this.#first = waiter
    else this.#last.next = waiter
    this.#last = waiter
    this.#length++
    return promise as Promise<T>
  }

  /** Removes and returns the first waiter, for `settle`. */
  shift(): W | undefined {
    const waiter = this.#first
    if (waiter !== undefined) this.#remove(waiter)
    return waiter
  }

  /** Removes a waiter; returns false if it is not in the queue. */
  #remove(waiter: W): boolean {
    if (!waiter.isQueued) return false
    const { previous, next } = waiter
    if (previous === undefined) this.#first = next
    else previous.next = next
    if (next === undefined) this.#last = previous
    else next.previous = previous
    waiter.isQueued = false
    waiter.previous = waiter.next = undefined
    this.#length--
    return true
  }

  /** The position of a waiter, 0 for the first; negative if it is not in the queue. */
  indexOf(waiter: W): number {
    if (!waiter.isQueued) return -1
    let index = 0
    for (let before = waiter.previous; before !== undefined; before = before.previous) index++
    return index
  }

  /** Removes a waiter and settles it with a value; returns false if it has settled. */
  resolve<T>(waiter: W & Waiter<T>, value: T): boolean {
    if (!this.#remove(waiter)) return false
    settle(waiter, value)
    return true
  }

  /** Removes a waiter and rejects it; returns false if it has settled. */
  reject(waiter: W, error: () => unknown): boolean {
    if (!this.#remove(waiter)) return false
    settle(
      waiter,
      rejection(() => waiter.annotate(error()))
    )
    return true
  }

  /** Settles all waiters with what `value` returns for each. */
  settleAll(value: (waiter: W) => unknown): void {
    for (let waiter = this.shift(); waiter !== undefined; waiter = this.shift()) {
      settle(waiter, value(waiter))
    }
  }

  /** Rejects all waiters. */
  fail(error: () => unknown): void {
    this.settleAll((waiter) => rejection(() => waiter.annotate(error())))
  }
}
