import { constants } from 'node:os'
import { inspect } from 'node:util'
import { describeErrno } from '../native/internal.ts'
import type { SystemError } from '../native/index.ts'
import { withCode } from '../base/internal.ts'

/** Returns the error of an invalid environment variable. `accepted` completes the sentence "must be …". */
export function invalidVariable(variable: string, accepted: string, value: string): SystemError {
  const error = new Error(`EINVAL: the variable ${variable} must be ${accepted}. Received ${inspect(value)}, getenv`)
  return Object.assign(error, { code: 'EINVAL', errno: -constants.errno.EINVAL, syscall: 'getenv' })
}

/** Returns the error of a descriptor number in the environment that cannot be adopted. */
export function notPassed(errno: number, fd: number, count: number): SystemError {
  const { name: code } = describeErrno(-errno)
  const why =
    code === 'EEXIST' ? 'is owned by fdpass already' : code === 'EBADF' ? 'is not open' : 'cannot be taken over'
  const error = new Error(`${code}: ${fd}, one of the ${count} descriptors that LISTEN_FDS announces, ${why}, fcntl`)
  return Object.assign(error, { code, errno, syscall: 'fcntl' })
}

/** Returns the error of a service manager whose address is of AF_VSOCK: outside of this virtual machine. */
export function noVsock(address: string): SystemError {
  const text = `NOTIFY_SOCKET is ${inspect(address)}, and AF_VSOCK is not supported: only paths and abstract addresses are`
  const error = new Error(`EAFNOSUPPORT: ${text}, socket`)
  return Object.assign(error, { code: 'EAFNOSUPPORT', errno: -constants.errno.EAFNOSUPPORT, syscall: 'socket' })
}

/** Returns the error of a call in a Worker that is allowed in the main thread only. */
export function inWorker(call: string): Error {
  return withCode(
    new Error(
      `${call}() is the main thread's: a Worker has a copy of the environment, so it cannot remove variables from the process's`
    ),
    'ERR_INVALID_STATE'
  )
}
