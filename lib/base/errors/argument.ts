import { inspect } from 'node:util'
import { withCode } from './coded-error.ts'

/** An argument of the wrong type. `accepted` ends the sentence "must be …". */
export function invalidType(name: string, accepted: string, value: unknown): TypeError {
  return withCode(
    new TypeError(`The ${quote(name)} must be ${accepted}. Received ${show(value)}`),
    'ERR_INVALID_ARG_TYPE'
  )
}

/** An argument of the right type that cannot be taken, and why. */
export function invalidValue(name: string, reason: string): TypeError {
  return withCode(new TypeError(`The ${quote(name)} ${reason}`), 'ERR_INVALID_ARG_VALUE')
}

/** A number outside of what is accepted. */
export function outOfRange(name: string, accepted: string, value: unknown): RangeError {
  return withCode(
    new RangeError(`The value of ${quote(name, '')} is out of range. It must be ${accepted}. Received ${show(value)}`),
    'ERR_OUT_OF_RANGE'
  )
}

// Node's words: an argument, or a property of an argument.
function quote(name: string, kind = name.includes('.') ? ' property' : ' argument'): string {
  return `"${name}"${kind}`
}

function show(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `function ${value.name}`
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`
  return `type ${typeof value} (${inspect(value)})`
}

/** A callback of the caller's that gave what it should not. */
export function invalidReturn(name: string, accepted: string, value: unknown): TypeError {
  return withCode(
    new TypeError(`Expected ${accepted} to be returned from the "${name}" function. Received ${show(value)}`),
    'ERR_INVALID_RETURN_VALUE'
  )
}
