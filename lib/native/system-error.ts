import { constants } from 'node:os'
import { inspect } from 'node:util'
import { AGAIN } from './codes.ts'
import { describeErrno } from './binding.ts'

/** An error of the system, in Node's shape. */
export interface SystemError extends Error {
  /** The error's symbolic name, such as `'EPIPE'`. */
  code: string
  /** The platform's error number, negative. */
  errno: number
  /** The system call that failed, such as `'sendmsg'`. */
  syscall: string
  /** The address that was named, if one was. */
  address?: string
}

/** `EPIPE: broken pipe, sendmsg`, from a negative error number; with an address: `…, connect '/run/x'`. */
export function systemError(code: number, syscall: string, address?: string): SystemError {
  // The native calls have a number of their own for what can be done later: fork(2) says so too.
  const errno = code === AGAIN ? -constants.errno.EAGAIN : code
  const { name, text } = describeErrno(-errno)
  const call = address === undefined ? syscall : `${syscall} ${inspect(address)}`
  const error = new Error(`${name}: ${text.charAt(0).toLowerCase()}${text.slice(1)}, ${call}`)
  return Object.assign(error, { code: name, errno, syscall }, address === undefined ? {} : { address })
}
