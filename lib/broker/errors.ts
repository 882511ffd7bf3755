import { withCode } from '../base/internal.ts'

/** A call on a broker that is closed, or that was closed while it waited. */
export function brokerClosed(): Error {
  return withCode(new Error('The broker is closed'), 'ERR_SOCKET_CLOSED')
}
