import { inspect } from 'node:util'
import { withCode } from './coded-error.ts'

/** Properties of an error about an argument: a `TypeError` or `RangeError` with Node's `code` and message. */
export interface ArgumentError extends Error {
  /** The kind of error: wrong type, unacceptable value, or a number out of range. */
  readonly code: 'ERR_INVALID_ARG_TYPE' | 'ERR_INVALID_ARG_VALUE' | 'ERR_OUT_OF_RANGE'
  /** The argument's path, such as `'data'` or `'options.services.web.listen[0]'`. */
  readonly argument: string
  /** What is wrong with it: the message's text after the argument's name, such as `'must not be empty'`. */
  readonly reason: string
}

/** Returns a TypeError for an argument of the wrong type. `accepted` completes the sentence "must be …". */
export function invalidType(name: string, accepted: string, value: unknown): TypeError & ArgumentError {
  const reason = `must be ${accepted}. Received ${show(value)}`
  return aboutArgument(new TypeError(`The ${quote(name)} ${reason}`), 'ERR_INVALID_ARG_TYPE', name, reason)
}

/** Returns a TypeError for an argument of the right type whose value cannot be accepted. `reason` follows its name. */
export function invalidValue(name: string, reason: string): TypeError & ArgumentError {
  return aboutArgument(new TypeError(`The ${quote(name)} ${reason}`), 'ERR_INVALID_ARG_VALUE', name, reason)
}

/** Returns a RangeError for a number outside of the accepted range. `accepted` completes the sentence "It must be …". */
export function outOfRange(name: string, accepted: string, value: unknown): RangeError & ArgumentError {
  const reason = `is out of range. It must be ${accepted}. Received ${show(value)}`
  return aboutArgument(new RangeError(`The value of ${quote(name, '')} ${reason}`), 'ERR_OUT_OF_RANGE', name, reason)
}

/** Adds `argument` and `reason`; not enumerable, because `util.inspect` would print them a second time. */
function aboutArgument<E extends Error>(
  error: E,
  code: ArgumentError['code'],
  argument: string,
  reason: string
): E & ArgumentError {
  Object.defineProperties(error, { argument: { value: argument }, reason: { value: reason } })
  return withCode(error, code) as E & ArgumentError
}

// Node's wording: an argument, or a property of an argument.
function quote(name: string, kind = name.includes('.') ? ' property' : ' argument'): string {
  return `"${name}"${kind}`
}

function show(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `function ${value.name}`
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`
  return `type ${typeof value} (${inspect(value)})`
}

/** Returns a TypeError for a callback that returned a value of the wrong type. */
export function invalidReturn(name: string, accepted: string, value: unknown): TypeError {
  return withCode(
    new TypeError(`Expected ${accepted} to be returned from the "${name}" function. Received ${show(value)}`),
    'ERR_INVALID_RETURN_VALUE'
  )
}
