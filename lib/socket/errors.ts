import { constants } from 'node:os'
import { inspect } from 'node:util'
import type { SystemError } from '../native/system-error.ts'
import { withCode } from '../base/errors/coded-error.ts'
import { ControlStatus } from '../native/codes.ts'
import { invalidValue } from '../base/errors/argument.ts'

/** The error of a message whose descriptors could not be delivered. All of them are closed. */
export interface ControlError extends Error {
  /**
   * The cause: descriptors were lost, for instance to a full descriptor table; the message had more than `maxFds`; it had a control message
   * that the socket did not enable.
   */
  code: 'ERR_CONTROL_TRUNCATED' | 'ERR_TOO_MANY_DESCRIPTORS' | 'ERR_UNEXPECTED_CONTROL'
  /** The bytes of the message. */
  data: Uint8Array
}

/** Returns the error of an operation on a socket that is closed, or was closed while the operation was pending. */
export function socketClosed(): Error {
  return withCode(new Error('The socket is closed'), 'ERR_SOCKET_CLOSED')
}

/** Returns the error of descriptors without a byte to carry them: Linux drops them (unix_stream_sendmsg in af_unix.c). */
export function carrierMissing(name: string): TypeError {
  return invalidValue(name, 'must hold at least one byte to carry descriptors on a stream')
}

/** Returns the error of a call on a socket that belongs to a channel. */
export function inChannel(): Error {
  return withCode(new Error('The socket belongs to a Channel: its bytes are frames'), 'ERR_INVALID_STATE')
}

/** Returns the error of releasing a socket that holds messages, or a server that holds connections. */
export function socketNotEmpty(held: string): Error {
  return withCode(
    new Error(`The socket holds ${held} that an iteration received ahead: receive them first`),
    'ERR_SOCKET_NOT_EMPTY'
  )
}

/** Returns the error of a connection to a process whose user the caller does not allow. */
export function untrusted(path: string, uid: number): SystemError {
  return denied(`the listening process runs as user ${uid}, which is not allowed`, path)
}

/** Returns the error of a connection that the listening process does not allow. */
export function notAllowed(path: string, uid: number): SystemError {
  return denied(`the listening process does not allow user ${uid}`, path)
}

function denied(text: string, address: string): SystemError {
  const error = new Error(`EACCES: ${text}, connect ${inspect(address)}`)
  return Object.assign(error, { code: 'EACCES', errno: -constants.errno.EACCES, syscall: 'connect', address })
}

const controlErrors = [
  ['ERR_CONTROL_TRUNCATED', 'Descriptors were lost: the descriptor table is full, or a security module refused one'],
  ['ERR_TOO_MANY_DESCRIPTORS', 'The message carried more descriptors than the receiver accepts'],
  ['ERR_UNEXPECTED_CONTROL', 'The message carried a control message that the socket has not enabled']
] as const

/** Whether an error reports that a message's descriptors could not be delivered. */
export function isControlError(error: unknown): error is ControlError {
  return error instanceof Error && 'code' in error && controlErrors.some(([code]) => code === error.code)
}

/** The error of a message whose descriptors could not be delivered, by its `ControlStatus`. */
export function controlError(status: number, data: Uint8Array): ControlError {
  const [code, text] = controlErrors[status - ControlStatus.Truncated]!
  return Object.assign(new Error(`${text}. All its descriptors are closed; its bytes are in \`data\``), { code, data })
}
