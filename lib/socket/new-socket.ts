import type { EnabledAncillary } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import type { SocketType } from './endpoint.ts'
import { invalidValue } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

/** Returns the type of a socket that can send and receive. The native side notes the type of a socket that it owns. */
export function connectedType(fd: number): SocketType {
  const type = native.socketType(fd)
  if (typeof type === 'number') throw systemError(type, 'getsockopt')
  if (native.isListening(fd) === true) throw invalidValue('source', 'is a listening socket: it can only accept')
  return type
}

/** Checks an `options.type`. */
export function socketTypeOf(type: unknown): SocketType {
  if (type === 'stream' || type === 'seqpacket' || type === 'dgram') return type
  throw invalidValue('options.type', "must be 'stream', 'seqpacket' or 'dgram'")
}

/** Creates a socket without an address or a peer: socket(2). The native side owns its number. */
export function makeSocket(type: SocketType, ancillary?: EnabledAncillary): number {
  const fd = native.socket(type)
  if (fd < 0) throw systemError(fd, 'socket')
  try {
    enableAncillary(fd, ancillary)
  } catch (error) {
    closeFds([fd])
    throw error
  }
  return fd
}

/** Makes the kernel add ancillary data to each message that a socket receives. */
export function enableAncillary(fd: number, ancillary: EnabledAncillary | undefined): void {
  if (ancillary === undefined) return
  const code = native.enableAncillary(fd, ancillary.credentials, ancillary.pidfd)
  if (code < 0) throw systemError(code, 'setsockopt')
}
