import { withCode } from '../base/internal.ts'

/** The peer could not receive a descriptor in any attempt. */
export function notReceived(): Error {
  return withCode(
    new Error(
      'The peer could not receive the descriptor: its descriptor table is full, or a security module refused the descriptor'
    ),
    'ERR_HANDLE_NOT_RECEIVED'
  )
}
