import { invalidVariable } from './errors.ts'

/** The largest number of 64 bits but one, which means "never" (`USEC_INFINITY`). */
const MOST = (1n << 64n) - 2n

/** What a variable of the environment says; undefined where it is not set. */
export function countOf(variable: string, most = MOST): bigint | undefined {
  const value = process.env[variable]
  if (value === undefined) return undefined
  const count = /^[1-9]\d*$/.test(value) ? BigInt(value) : 0n
  if (count === 0n || count > most) throw invalidVariable(variable, `a number from 1 to ${most}`, value)
  return count
}

/** Whether a variable names this process; undefined where it is not set. */
export function isThisProcess(variable: string): boolean | undefined {
  const pid = countOf(variable)
  return pid === undefined ? undefined : pid === BigInt(process.pid)
}
