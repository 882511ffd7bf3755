import { constants } from 'node:os'
import type { SystemError } from '../native/index.ts'
import { withCode } from '../base/internal.ts'

/** Returns the error of a successor that was not ready in time. */
export function notReadyInTime(milliseconds: number): SystemError {
  const error = new Error(`ETIMEDOUT: the successor was not ready within ${milliseconds} ms, takeover`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall: 'takeover' })
}

/** Returns the error of a call that the state of the takeover does not allow. */
export function takeoverState(text: string): Error {
  return withCode(new Error(text), 'ERR_INVALID_STATE')
}
