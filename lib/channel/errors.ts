import { withCode } from '../base/errors/coded-error.ts'

/** More messages or requests than `maxPending` are pending. */
export function tooManyPending(operations: 'messages' | 'requests', max: number): Error {
  return withCode(
    new Error(`${max} ${operations} are already pending, the maximum by options.maxPending: await some of them first`),
    'ERR_TOO_MANY_PENDING'
  )
}
