import { addAbortListener } from 'node:events'
import { types } from 'node:util'
import { aborted } from './errors/abort.ts'
import { invalidType, outOfRange } from './errors/argument.ts'

/** What can be sent; a string goes as UTF-8. */
export type Bytes = Uint8Array | string

/** An option that ends an operation. */
export interface Abortable {
  /** Ends the operation: it rejects with an `AbortError` whose `cause` is the signal's reason. */
  signal?: AbortSignal | undefined
}

/** The largest number that a C `int` holds. */
export const MAX_INT = 0x7fff_ffff

/** The bytes of a `data` argument. */
export function bytesOf(data: unknown, name = 'data'): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  if (types.isUint8Array(data)) return data
  throw invalidType(name, 'of type string or an instance of Uint8Array', data)
}

/** An integer between two bounds. */
export function integer(name: string, value: unknown, least: number, most: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'of type number', value)
  if (!Number.isInteger(value)) throw outOfRange(name, 'an integer', value)
  if (value < least || value > most) throw outOfRange(name, `>= ${least} and <= ${most}`, value)
  return value
}

/** How many connections wait to be accepted where nobody says: as in Node's net. */
const DEFAULT_BACKLOG = 511

/** The `backlog` of an `options` argument. */
export function backlogOf(backlog: unknown = DEFAULT_BACKLOG): number {
  return integer('options.backlog', backlog, 0, MAX_INT)
}

/** An `options` argument. */
export function optionsOf<T extends object>(options: T | undefined): T | undefined {
  if (options === undefined) return undefined
  if (typeof options !== 'object' || options === null) throw invalidType('options', 'of type object', options)
  return options
}

/** The signal of an operation; throws where it has already been aborted. */
export function signalOf(options: Abortable | undefined): AbortSignal | undefined {
  const signal = options?.signal
  if (signal === undefined) return undefined
  if (!isSignal(signal)) {
    throw invalidType('options.signal', 'an instance of AbortSignal', signal)
  }
  if (signal.aborted) throw aborted(signal)
  return signal
}

/** Whether a value can be listened to as a signal. Not `instanceof`: other realms, and jsdom, have signals of their own. */
function isSignal(value: unknown): value is AbortSignal {
  if (typeof value !== 'object' || value === null) return false
  const { aborted: state, addEventListener: add, removeEventListener: remove } = value as Partial<AbortSignal>
  return typeof state === 'boolean' && typeof add === 'function' && typeof remove === 'function'
}

/** What the operations of one signal do at its abort. */
const abortions = new WeakMap<AbortSignal, { readonly callbacks: Set<() => void>; readonly listener: Disposable }>()

/**
 * Calls back at an abort; the result stops that.
 *
 * One listener serves all operations of a signal: Node warns of a leak where a signal has more than ten.
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
