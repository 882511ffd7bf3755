import { withCode } from '../base/errors/coded-error.ts'

/** Returns the error of a connection that was closed before it was handed over. */
export function connectionClosed(): Error {
  return withCode(new Error('The connection was closed before it was handed over'), 'ERR_SOCKET_CLOSED')
}
