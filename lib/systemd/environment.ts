import { constants } from 'node:os'
import { inspect } from 'node:util'
import type { SystemError } from '../native/index.ts'

/** The number of the first passed descriptor: `SD_LISTEN_FDS_START`. */
export const FIRST = 3

/** The largest valid number of 64 bits; the next one means "never" (`USEC_INFINITY`). */
const MAX_COUNT = (1n << 64n) - 2n

/** Returns the positive number in an environment variable; undefined if it is not set. */
export function countOf(variable: string, max = MAX_COUNT): bigint | undefined {
  const value = process.env[variable]
  if (value === undefined) return undefined
  const count = /^[1-9]\d*$/.test(value) ? BigInt(value) : 0n
  if (count === 0n || count > max) throw invalidVariable(variable, `a number from 1 to ${max}`, value)
  return count
}

/** Returns whether an environment variable holds this process's pid; undefined if it is not set. */
export function isThisProcess(variable: string): boolean | undefined {
  const pid = countOf(variable)
  return pid === undefined ? undefined : pid === BigInt(process.pid)
}

/** Returns the error of an invalid environment variable. `accepted` completes the sentence "must be …". */
export function invalidVariable(variable: string, accepted: string, value: string): SystemError {
  const error = new Error(`EINVAL: the variable ${variable} must be ${accepted}. Received ${inspect(value)}, getenv`)
  return Object.assign(error, { code: 'EINVAL', errno: -constants.errno.EINVAL, syscall: 'getenv' })
}
