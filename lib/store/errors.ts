import { constants } from 'node:os'
import { inspect } from 'node:util'
import { withCode } from '../base/internal.ts'

/** Returns the error for a request that the store refuses. `reason` follows the code in its message. */
export function storeError(
  code: 'EACCES' | 'EDQUOT' | 'EEXIST' | 'ENOENT' | 'ENOSPC' | 'EPERM',
  reason: string,
  name: string
) {
  const error = new Error(`${prefixOf(code)}${reason}${suffixOf(name)}`)
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'store' })
}

function prefixOf(code: unknown): string {
  return `${code}: `
}

function suffixOf(name: string): string {
  return `, store ${inspect(name)}`
}

/** Restores the `reason` of a `storeError` in the client, because a channel carries an error's message only. */
export function restoreReason(error: unknown, name: string): void {
  const { message, code, syscall } = error as NodeJS.ErrnoException
  const [prefix, suffix] = [prefixOf(code), suffixOf(name)]
  if (syscall !== 'store' || !message.startsWith(prefix) || !message.endsWith(suffix)) return
  Object.defineProperty(error, 'reason', { value: message.slice(prefix.length, -suffix.length) })
}

/** Returns the error for a call on a closed store, or on one that was closed while the call was pending. */
export function storeClosed(): Error {
  return withCode(new Error('The store is closed'), 'ERR_SOCKET_CLOSED')
}
