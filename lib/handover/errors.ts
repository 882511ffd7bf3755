import { withCode } from '../base/errors/coded-error.ts'

/** A connection that was closed while it waited to be handed over. */
export function connectionClosed(): Error {
  return withCode(new Error('The connection was closed before it was handed over'), 'ERR_SOCKET_CLOSED')
}
