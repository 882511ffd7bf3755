import { withCode } from '../base/internal.ts'

/** A descriptor that the other end of a Node channel could not receive, however often it was sent. */
export function notReceived(): Error {
  return withCode(
    new Error('The other end could not receive the descriptor: its table is full, or a security module refused it'),
    'ERR_HANDLE_NOT_RECEIVED'
  )
}
