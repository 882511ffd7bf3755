import { constants } from 'node:os'
import { inspect } from 'node:util'
import type { SystemError } from '../native/system-error.ts'
import { withCode } from '../base/errors/coded-error.ts'
import { ControlStatus } from '../native/results.ts'
import { invalidValue } from '../base/errors/argument.ts'

/** The error of a message whose descriptors could not be delivered: all of them are closed, its bytes are here. */
export interface ControlError extends Error {
  /** What went wrong: the descriptor table is full; more came than `maxFds`; something came that nobody asked for. */
  code: 'ERR_CONTROL_TRUNCATED' | 'ERR_TOO_MANY_DESCRIPTORS' | 'ERR_UNEXPECTED_CONTROL'
  /** The bytes of the message. */
  data: Uint8Array
}

/** An operation on a socket that is closed, or that was closed while it waited. */
export function socketClosed(): Error {
  return withCode(new Error('The socket is closed'), 'ERR_SOCKET_CLOSED')
}

/** Descriptors without a byte that carries them: Linux drops them (unix_stream_sendmsg in af_unix.c sends nothing then). */
export function carrierMissing(name: string): TypeError {
  return invalidValue(name, 'must hold at least one byte to carry descriptors on a stream')
}

/** A call on a socket that belongs to a channel. */
export function inChannel(): Error {
  return withCode(new Error('The socket belongs to a Channel: its bytes are frames'), 'ERR_INVALID_STATE')
}

/** A socket given up while it held messages, or a server connections, that an iteration took ahead. */
export function socketNotEmpty(held: string): Error {
  return withCode(
    new Error(`The socket holds ${held} that an iteration took ahead: take them first`),
    'ERR_SOCKET_NOT_EMPTY'
  )
}

/** A process that listens and may not be dealt with. */
export function untrusted(path: string, uid: number): SystemError {
  return denied(`what listens there is of user ${uid}, who is not allowed`, path)
}

/** A process that has connected and may not. */
export function notAllowed(path: string, uid: number): SystemError {
  return denied(`user ${uid} is not allowed there`, path)
}

function denied(text: string, address: string): SystemError {
  const error = new Error(`EACCES: ${text}, connect ${inspect(address)}`)
  return Object.assign(error, { code: 'EACCES', errno: -constants.errno.EACCES, syscall: 'connect', address })
}

const controlErrors = [
  ['ERR_CONTROL_TRUNCATED', 'Descriptors were lost: the descriptor table is full, or a security module refused one'],
  ['ERR_TOO_MANY_DESCRIPTORS', 'The message carried more descriptors than are accepted'],
  ['ERR_UNEXPECTED_CONTROL', 'The message carried a control message that was not asked for']
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
