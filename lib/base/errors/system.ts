import { constants } from 'node:os'
import { type SystemError, systemError } from '../../native/system-error.ts'

/** `ENOENT: no such file or directory, open '/x'`, from a negative error number, with the path as Node's fs has it. */
export function pathError(errno: number, syscall: string, path: string): SystemError & { path: string } {
  const { message, code } = systemError(errno, syscall, path)
  return Object.assign(new Error(message), { code, errno, syscall, path })
}

/** Something that was received and does not keep to the protocol. */
export function protocolError(text: string): SystemError {
  return receivingError('EPROTO', text)
}

/** A message of which no value could be made. */
export function undecodable(data: Uint8Array, cause: unknown): SystemError {
  return Object.assign(receivingError('EPROTO', 'a message could not be decoded', cause), { data })
}

/** A message that was received and is larger than is accepted. */
export function tooLarge(text: string): SystemError {
  return receivingError('EMSGSIZE', `a message has ${text} are accepted`)
}

function receivingError(code: 'EPROTO' | 'EMSGSIZE', text: string, cause?: unknown): SystemError {
  const error = new Error(`${code}: ${text}, recvmsg`, cause === undefined ? undefined : { cause })
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'recvmsg' })
}

/** Something that was asked for and did not come in time. */
export function timedOut(milliseconds: number, syscall = 'request'): SystemError {
  const error = new Error(`ETIMEDOUT: no answer within ${milliseconds} ms, ${syscall}`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall })
}
