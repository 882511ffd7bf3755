import { constants } from 'node:os'
import { type SystemError, systemError } from '../../native/system-error.ts'

/** Returns the error of a call on a path, from a negative error number: `ENOENT: no such file or directory, open '/x'`. */
export function pathError(errno: number, syscall: string, path: string): SystemError & { path: string } {
  const { message, code } = systemError(errno, syscall, path)
  return Object.assign(new Error(message), { code, errno, syscall, path })
}

/** Returns an EPROTO error: received data violates the protocol. */
export function protocolError(text: string): SystemError {
  return receiveError('EPROTO', text)
}

/** Returns the EPROTO error of a message whose data could not be decoded. */
export function undecodable(data: Uint8Array, cause: unknown): SystemError {
  return Object.assign(receiveError('EPROTO', 'a message could not be decoded', cause), { data })
}

/** Returns the EMSGSIZE error of a received message that exceeds a limit. */
export function tooLarge(text: string): SystemError {
  return receiveError('EMSGSIZE', `a message has ${text} are accepted`)
}

function receiveError(code: 'EPROTO' | 'EMSGSIZE', text: string, cause?: unknown): SystemError {
  const error = new Error(`${code}: ${text}, recvmsg`, cause === undefined ? undefined : { cause })
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'recvmsg' })
}

/** Returns the ETIMEDOUT error of a reply that did not arrive in time. */
export function timedOut(milliseconds: number, syscall = 'request'): SystemError {
  const error = new Error(`ETIMEDOUT: no answer within ${milliseconds} ms, ${syscall}`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall })
}
