import { constants } from 'node:os'
import { type SystemError, systemError } from '../native/system-error.ts'
import { withCode } from '../base/errors/coded-error.ts'

/** Something written to a stream that has no connection. */
export function notConnected(): SystemError {
  return systemError(-constants.errno.ENOTCONN, 'sendmsg')
}

/** A connection asked for where there is one. */
export function alreadyConnected(what: string): Error {
  return withCode(new Error(`The ${what} already, or is about to`), 'ERR_INVALID_STATE')
}
