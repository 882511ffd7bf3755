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
  /** The permissions of the socket's file, such as 0o600 (default: 0o777 minus the umask). */
  mode?: number | undefined
}

/**
 * Creates a datagram socket with an address: bind(2).
 *
 * The file of a path has its permissions from the start. A file that a closed socket left behind is replaced. Closing the socket removes
 * the file, in this process only and if it is still the same file; `release()` leaves it.
 *
 * @param address the address; null for an abstract address of the kernel's choice on Linux (see `localAddress`), and for no address
 *   elsewhere
 * @param options `mode`; `credentials`, `pidfd`: ancillary data of each received message
 * @returns the socket, which the caller owns
 * @throws `EADDRINUSE` if another socket is bound to the path, if the file is no socket, or while another process replaces it;
 *   `ENOENT` (no such directory), `EACCES`, `EROFS`; `ENAMETOOLONG`; `EMFILE`; `ENOPROTOOPT` for an option that the kernel lacks;
 *   ERR_UNSUPPORTED_PLATFORM
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
