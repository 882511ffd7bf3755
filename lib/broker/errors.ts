import { withCode } from '../base/internal.ts'

/** Returns the error for a call on a closed broker, or on one that was closed while the call was pending. */
export function brokerClosed(): Error {
  return withCode(new Error('The broker is closed'), 'ERR_SOCKET_CLOSED')
}
