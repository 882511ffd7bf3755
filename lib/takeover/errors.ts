import { constants } from 'node:os'
import type { SystemError } from '../native/index.ts'
import { withCode } from '../base/internal.ts'

/** A process that has not become ready to serve in the place of another one. */
export function notReadyInTime(milliseconds: number): SystemError {
  const error = new Error(`ETIMEDOUT: the successor was not ready within ${milliseconds} ms, takeover`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall: 'takeover' })
}

/** A call on a takeover that is closed, or that came at a time when it means nothing. */
export function takeoverState(text: string): Error {
  return withCode(new Error(text), 'ERR_INVALID_STATE')
}
