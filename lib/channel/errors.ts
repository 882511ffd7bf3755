import { withCode } from '../base/errors/coded-error.ts'

/** More than a channel lets wait. */
export function tooManyPending(what: string, most: number): Error {
  return withCode(
    new Error(`${most} ${what} are waiting already, as many as options.maxPending lets: await them`),
    'ERR_TOO_MANY_PENDING'
  )
}

/** A request whose answer nobody waits for any more. */
export function requestCancelled(): Error {
  return withCode(new Error('The other end does not wait for the reply any more'), 'ABORT_ERR')
}

/** A request to a channel that answers none. */
export function noHandler(): Error {
  return withCode(new Error('The other end answers no requests: it has no handler'), 'ERR_NO_HANDLER')
}
