import { withCode } from './coded-error.ts'

/** Returns the AbortError of an operation whose signal was aborted. */
export function aborted(signal: AbortSignal): Error {
  const error = withCode(new Error('The operation was aborted', { cause: signal.reason }), 'ABORT_ERR')
  error.name = 'AbortError'
  return error
}
