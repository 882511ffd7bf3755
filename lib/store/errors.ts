import { constants } from 'node:os'
import { inspect } from 'node:util'
import { withCode } from '../base/internal.ts'

/** What a store refuses. */
export function storeError(
  code: 'EACCES' | 'EDQUOT' | 'EEXIST' | 'ENOENT' | 'ENOSPC' | 'EPERM',
  text: string,
  name: string
) {
  const error = new Error(`${code}: ${text}, store ${inspect(name)}`)
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'store' })
}

/** A call on a store that is closed, or that was closed while it waited. */
export function storeClosed(): Error {
  return withCode(new Error('The store is closed'), 'ERR_SOCKET_CLOSED')
}
