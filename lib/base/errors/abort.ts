import { withCode } from './coded-error.ts'

/** An operation that its signal ended. */
export function aborted(signal: AbortSignal): Error {
  const error = withCode(new Error('The operation was aborted', { cause: signal.reason }), 'ABORT_ERR')
  error.name = 'AbortError'
  return error
}
