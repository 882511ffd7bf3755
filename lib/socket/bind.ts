import { type Address, addressOf } from '../address/unix-address.ts'
import { optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, ancillaryOf } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { bindAddress, modeOf } from '../address/socket-file.ts'
import { type UnixSocket, openSocket } from './unix-socket.ts'
import { makeSocket } from './new-socket.ts'

/** Options of {@link bind}. */
export interface BindOptions extends AncillaryOptions {
  /** The permissions of the socket's file, such as 0o600. Without it, what the umask leaves of 0o777. */
  mode?: number | undefined
}

/**
 * Make a datagram socket that others can send to: bind(2).
 *
 * The file of a path has its permissions from the start. One that a closed socket left behind is replaced. It is removed
 * when this socket is closed, by this process and only if it is still the same file; not after `release()`.
 *
 * @param address its address; null for an abstract one of the kernel's choice on Linux (`localAddress` tells it), and for
 *   none elsewhere
 * @param options `mode`; `credentials`, `pidfd`: what to tell with each message
 * @returns the socket, which is the caller's to close
 * @throws `EADDRINUSE` where another socket is bound to the path, where the file is no socket, or while another process is
 *   replacing it; `ENOENT` (no such folder), `EACCES`, `EROFS`; `ENAMETOOLONG`; `EMFILE`; `ENOPROTOOPT` for an option that
 *   the kernel lacks; ERR_UNSUPPORTED_PLATFORM
 */
export function bind(address: Address | null, options?: BindOptions): UnixSocket {
  openReactor()
  const name = address === null ? null : addressOf('address', address, 'bind')
  const mode = modeOf(optionsOf(options)?.mode, name)
  const fd = makeSocket('dgram', ancillaryOf(options))
  try {
    bindAddress(fd, name, mode)
  } catch (error) {
    closeFds([fd])
    throw error
  }
  return openSocket(fd, 'dgram')
}
