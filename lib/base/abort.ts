import { clearImmediate, clearTimeout, setImmediate, setTimeout } from 'node:timers'
import { addAbortListener } from 'node:events'
import { invalidType, withCode, timedOut } from './errors.ts'
import { Places } from './collections.ts'

/** Returns the AbortError of an operation whose signal was aborted. */
export function aborted(signal: AbortSignal): Error {
  const error = withCode(new Error('The operation was aborted', { cause: signal.reason }), 'ABORT_ERR')
  error.name = 'AbortError'
  return error
}

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
const abortions = new WeakMap<AbortSignal, { readonly callbacks: Places<() => void>; readonly listener: Disposable }>()

/**
 * Calls `abort` when the signal is aborted; disposing of the result removes the callback.
 *
 * All operations of a signal share one listener, because Node warns of a leak if a signal has more than ten.
 */
export function onAbort(signal: AbortSignal | undefined, abort: () => void): Disposable | undefined {
  if (signal === undefined) return undefined
  let abortion = abortions.get(signal)
  if (abortion === undefined) {
    const callbacks = new Places<() => void>()
    const listener = addAbortListener(signal, () => {
      for (const callback of callbacks) callback()
    })
    abortion = { callbacks, listener }
    abortions.set(signal, abortion)
  }
  const { callbacks, listener } = abortion
  const place = callbacks.add(abort)
  return {
    [Symbol.dispose]() {
      callbacks.remove(abort, place)
      if (callbacks.size > 0) return
      listener[Symbol.dispose]()
      abortions.delete(signal)
    }
  }
}

/**
 * A timer that fires when what had arrived by then was read: in a turn of the event loop timers precede input, so that a timer of a process
 * that was late would overtake what it waits for.
 */
export class InputTimer implements Disposable {
  readonly #timer: NodeJS.Timeout
  #immediate: NodeJS.Immediate | undefined

  constructor(milliseconds: number, act: () => void) {
    this.#timer = setTimeout(() => (this.#immediate = setImmediate(act)), milliseconds)
  }

  /** Has it not keep the process alive. */
  unref(): this {
    this.#timer.unref()
    return this
  }

  /** Has it keep the process alive. */
  ref(): void {
    this.#timer.ref()
  }

  /** Starts it anew. */
  refresh(): void {
    this.#timer.refresh()
  }

  /** Stops it. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
  }
}

/** The limits of a pending operation: its caller's signal, and a time. Disposing of it lifts both. */
export interface Limit extends Disposable {
  /** Whether the timer keeps the process alive (default true). */
  referenced: boolean
}

/** Calls `end` with the error to throw when the signal is aborted, or when `milliseconds` have passed. `syscall` is named by ETIMEDOUT. */
export function onLimit(
  signal: AbortSignal | undefined,
  milliseconds: number | undefined,
  syscall: string,
  end: (error: () => Error) => void
): Limit | undefined {
  if (signal === undefined && milliseconds === undefined) return undefined
  const abortion = onAbort(signal, () => end(() => aborted(signal!)))
  const timer =
    milliseconds === undefined
      ? undefined
      : new InputTimer(milliseconds, () => end(() => timedOut(milliseconds, syscall)))
  return {
    set referenced(on: boolean) {
      if (on) timer?.ref()
      else timer?.unref()
    },
    [Symbol.dispose]() {
      abortion?.[Symbol.dispose]()
      timer?.[Symbol.dispose]()
    }
  }
}

/**
 * Runs an operation within limits: aborts the signal that the operation receives when its caller's signal is aborted, or when
 * `milliseconds` have passed. Rejects with an AbortError or ETIMEDOUT if that ended the operation, and otherwise as the operation does.
 */
export async function withLimit<T>(
  signal: AbortSignal | undefined,
  milliseconds: number | undefined,
  syscall: string,
  operation: (signal: AbortSignal) => Promise<T>
): Promise<T> {
  const controller = new AbortController()
  let reason: (() => Error) | undefined
  using _limit = onLimit(signal, milliseconds, syscall, (error) => {
    reason ??= error
    controller.abort()
  })
  try {
    return await operation(controller.signal)
  } catch (error) {
    throw reason !== undefined && (error as NodeJS.ErrnoException).code === 'ABORT_ERR' ? reason() : error
  }
}
