import { optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, ancillaryOf } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import type { SocketType } from './endpoint.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { enableAncillary, socketTypeOf } from './new-socket.ts'
import { UnixSocket, openSocket } from './unix-socket.ts'

/** Options of {@link socketpair}. */
export interface SocketpairOptions extends AncillaryOptions {
  /** The type of both sockets: `'stream'` (default), `'seqpacket'` or `'dgram'`. */
  type?: SocketType | undefined
}

/**
 * Creates two connected sockets: socketpair(2). Both are close-on-exec and in blocking mode.
 *
 * @param options `type`; `credentials`, `pidfd`: ancillary data of each message that either end receives
 * @returns both ends, which the caller owns
 * @throws `EMFILE`; `EPROTONOSUPPORT` for seqpacket on macOS; `ENOPROTOOPT` for an option that the kernel lacks;
 *   ERR_UNSUPPORTED_PLATFORM
 */
export function socketpair(options?: SocketpairOptions): [UnixSocket, UnixSocket] {
  const { type = 'stream' } = optionsOf(options) ?? {}
  const socketType = socketTypeOf(type)
  const ancillary = ancillaryOf(options)
  openReactor()
  const pair = native.socketpair(socketType)
  if (typeof pair === 'number') throw systemError(pair, 'socketpair')
  const [a, b] = pair
  try {
    enableAncillary(a, ancillary)
    enableAncillary(b, ancillary)
  } catch (error) {
    closeFds([a, b])
    throw error
  }
  return [openSocket(a, socketType), openSocket(b, socketType)]
}
