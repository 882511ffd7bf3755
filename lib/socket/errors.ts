import { constants } from 'node:os'
import { inspect } from 'node:util'
import type { SystemError } from '../native/system-error.ts'
import { withCode, invalidValue, invalidState } from '../base/errors.ts'
import { ControlStatus } from '../native/codes.ts'
import { type Credentials, userText } from './credentials.ts'

/** The error of a message whose descriptors could not be delivered. All of them are closed. */
export interface ControlError extends Error {
  /**
   * The cause: descriptors were lost, for instance to a full descriptor table; the message had more than `maxFds`; it had a control message
   * that the socket did not enable.
   */
  code: 'ERR_CONTROL_TRUNCATED' | 'ERR_TOO_MANY_DESCRIPTORS' | 'ERR_UNEXPECTED_CONTROL'
  /** The bytes of the message. */
  data: Buffer
}

/** Returns the error of an operation on a socket that is closed, or was closed while the operation was pending. */
export function socketClosed(): Error {
  return withCode(new Error('The socket is closed'), 'ERR_SOCKET_CLOSED')
}

/** Returns the error of descriptors without a byte to carry them: Linux drops them (unix_stream_sendmsg in af_unix.c). */
export function dataRequired(name: string): TypeError {
  return invalidValue(name, 'must hold at least one byte to carry descriptors on a stream')
}

/** Returns the error of a call on a socket that belongs to a channel. */
export function ownedByChannel(): Error {
  return invalidState('The socket belongs to a Channel: its bytes are frames')
}

/** Returns the error of releasing a socket that holds messages, or a server that holds connections. */
export function socketNotEmpty(held: string): Error {
  return withCode(
    new Error(`The socket holds ${held} that an iteration received ahead: receive them first`),
    'ERR_SOCKET_NOT_EMPTY'
  )
}

/** Returns the EACCES error of a connection whose listening process the connecting one does not allow. */
export function listenerDenied(path: string, listener: Credentials): SystemError {
  return accessDenied(`the listening process runs as ${userText(listener)}, which is not allowed`, path)
}

/** Returns the EACCES error of a connection that the listening process does not allow. */
export function clientDenied(path: string, client: Credentials): SystemError {
  return accessDenied(`the listening process does not allow ${userText(client)}`, path)
}

/** Returns the EACCES error of a takeover between two services. */
export function otherService(path: string, listening: string, connecting = ''): SystemError {
  return accessDenied(`the listening process is the service ${inspect(listening)}, not ${inspect(connecting)}`, path)
}

/** Returns the EACCES error of a path that is not the file of the socket behind it, but a link. */
export function pathIsLink(path: string): SystemError {
  return accessDenied('the path is a link to the socket of another service', path)
}

function accessDenied(text: string, address: string): SystemError {
  const error = new Error(`EACCES: ${text}, connect ${inspect(address)}`)
  return Object.assign(error, { code: 'EACCES', errno: -constants.errno.EACCES, syscall: 'connect', address })
}

/** Returns the error of a stream that has ended inside of what a call receives, whose first bytes are `data`. */
export function unexpectedEnd(data: Buffer, bytes: number, cause?: unknown): Error {
  const text = `The connection ended after ${data.length} of ${bytes} bytes, which are in \`data\`. Their descriptors are closed`
  const error = new Error(text, cause === undefined ? undefined : { cause })
  return Object.assign(error, { code: 'ERR_UNEXPECTED_END', data })
}

/** Returns the error of a connection that has ended where a descriptor is required. */
export function endedWithoutFd(): Error {
  const error = new Error('The connection ended before a descriptor arrived')
  return Object.assign(error, { code: 'ERR_UNEXPECTED_END', data: Buffer.alloc(0) })
}

/** Returns the error of a message without the descriptor that is required. */
export function noDescriptor(data: Buffer): Error {
  const error = new Error('The message carried no descriptor. Its bytes are in `data`')
  return Object.assign(error, { code: 'ERR_NO_DESCRIPTOR', data })
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
export function controlError(status: number, data: Buffer): ControlError {
  const [code, text] = controlErrors[status - ControlStatus.Truncated]!
  return Object.assign(new Error(`${text}. All its descriptors are closed; its bytes are in \`data\``), { code, data })
}
