import { withCode } from '../base/errors/coded-error.ts'

/** A descriptor that was closed, released, sent into a Node object, or made a socket. */
export function descriptorClosed(): Error {
  return withCode(new Error('The descriptor is closed or was given away'), 'ERR_DESCRIPTOR_CLOSED')
}

/** A descriptor of a kind that cannot become what was asked for. */
export function wrongKind(text: string): TypeError {
  return withCode(new TypeError(`${text.charAt(0).toUpperCase()}${text.slice(1)}`), 'ERR_INVALID_FD_TYPE')
}
