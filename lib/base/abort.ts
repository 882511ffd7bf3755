import { addAbortListener } from 'node:events'
import { aborted } from './errors/abort.ts'
import { invalidType } from './errors/argument.ts'

/** The option that aborts an operation. */
export interface Abortable {
  /** Aborts the operation: it rejects with an `AbortError` whose `cause` is the signal's reason. */
  signal?: AbortSignal | undefined
}

/** Returns the `signal` option; throws an AbortError if it is aborted already. */
export function signalOf(options: Abortable | undefined): AbortSignal | undefined {
  const signal = options?.signal
  if (signal === undefined) return undefined
  if (!isSignal(signal)) {
    throw invalidType('options.signal', 'an instance of AbortSignal', signal)
  }
  if (signal.aborted) throw aborted(signal)
  return signal
}

/** Returns whether a value works as an AbortSignal. Not `instanceof`: other realms, and jsdom, have classes of their own. */
function isSignal(value: unknown): value is AbortSignal {
  if (typeof value !== 'object' || value === null) return false
  const { aborted: state, addEventListener: add, removeEventListener: remove } = value as Partial<AbortSignal>
  return typeof state === 'boolean' && typeof add === 'function' && typeof remove === 'function'
}

/** Resolves or rejects as a promise does, or rejects with an `AbortError` if the signal aborts first. The operation goes on. */
export function raceAbort<T>(promise: T | PromiseLike<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return Promise.resolve(promise)
  return new Promise((resolve, reject) => {
    const fail = () => reject(aborted(signal))
    if (signal.aborted) fail()
    const abortion = onAbort(signal, fail)!
    Promise.resolve(promise)
      .then(resolve, reject)
      .finally(() => abortion[Symbol.dispose]())
  })
}

/** The callbacks of each signal's operations. */
const abortions = new WeakMap<AbortSignal, { readonly callbacks: Set<() => void>; readonly listener: Disposable }>()

/**
 * Calls `abort` when the signal is aborted; disposing of the result removes the callback.
 *
 * All operations of a signal share one listener, because Node warns of a leak if a signal has more than ten.
 */
export function onAbort(signal: AbortSignal | undefined, abort: () => void): Disposable | undefined {
  if (signal === undefined) return undefined
  let abortion = abortions.get(signal)
  if (abortion === undefined) {
    const callbacks = new Set<() => void>()
    const listener = addAbortListener(signal, () => {
      for (const callback of callbacks) callback()
    })
    abortion = { callbacks, listener }
    abortions.set(signal, abortion)
  }
  const { callbacks, listener } = abortion
  callbacks.add(abort)
  return {
    [Symbol.dispose]() {
      callbacks.delete(abort)
      if (callbacks.size > 0) return
      listener[Symbol.dispose]()
      abortions.delete(signal)
    }
  }
}
