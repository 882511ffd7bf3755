import { withCode } from '../base/errors/coded-error.ts'

/** Returns the error of a call on a descriptor that was closed, released or cast. */
export function descriptorClosed(): Error {
  return withCode(new Error('The descriptor is closed, or was released or cast'), 'ERR_DESCRIPTOR_CLOSED')
}

/** Returns the error of a cast that the descriptor's kind does not have. */
export function wrongKind(text: string): TypeError {
  return withCode(new TypeError(`${text.charAt(0).toUpperCase()}${text.slice(1)}`), 'ERR_INVALID_FD_TYPE')
}
