import { constants } from 'node:os'
import { inspect } from 'node:util'
import { withCode } from '../base/internal.ts'

// The requests of a store's clients, over a channel: PROTOCOL.md, "Store".

/** The maximum number of descriptors of an entry. */
export const MAX_ENTRY_FDS = 253

/** The maximum length of a message, in bytes. */
export const MAX_BYTES = 4 * 1024 * 1024

/** A request. */
export type StoreRequest =
  | {
      readonly ask: 'put'
      readonly name: string
      /** The time until it expires, in milliseconds; null for never. */
      readonly expires: number | null
      readonly mode: number
      /** The gid of its group; null for the client's own. */
      readonly group: number | null
      readonly replace: boolean
    }
  | { readonly ask: 'get'; readonly name: string; readonly remove: boolean }
  | { readonly ask: 'list' }
  | { readonly ask: 'delete'; readonly name: string }

/** The code of the error that directs a client to the successor, at the same address. */
export const MOVED = 'ERR_STORE_MOVED'

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
