import { constants } from 'node:os'
import { inspect } from 'node:util'
import { AGAIN } from './codes.ts'
import { describeErrno } from './binding.ts'

/** The error of a system call, in Node's shape. */
export interface SystemError extends Error {
  /** The error's symbolic name, such as `'EPIPE'`. */
  code: string
  /** The platform's error number, negative. */
  errno: number
  /** The system call that failed, such as `'sendmsg'`. */
  syscall: string
  /** The address that the call was given, if any. */
  address?: string
}

/** Returns an error from a negative error number: `EPIPE: broken pipe, sendmsg`; with an address `…, connect '/run/x'`. */
export function systemError(code: number, syscall: string, address?: string): SystemError {
  // The native calls return AGAIN for EAGAIN, which fork(2) reports too.
  const errno = code === AGAIN ? -constants.errno.EAGAIN : code
  const { name, text } = describeErrno(-errno)
  const call = address === undefined ? syscall : `${syscall} ${inspect(address)}`
  const error = new Error(`${name}: ${text.charAt(0).toLowerCase()}${text.slice(1)}, ${call}`)
  return Object.assign(error, { code: name, errno, syscall }, address === undefined ? {} : { address })
}
