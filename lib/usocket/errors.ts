import { withCode } from '../base/internal.ts'

/** A call that requires a socket without a connection, or a server that does not listen. */
export function alreadyOpen(state: string): Error {
  return withCode(new Error(state), 'ERR_INVALID_STATE')
}
