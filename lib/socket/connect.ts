import { type Address, addressOf } from '../address/unix-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, ancillaryOf } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import type { SocketType } from './endpoint.ts'
import { systemError } from '../native/system-error.ts'
import { AGAIN } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { retry } from '../base/backoff.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { bindAddress } from '../address/socket-file.ts'
import { type UnixSocket, openSocket } from './unix-socket.ts'
import { makeSocket, socketTypeOf } from './new-socket.ts'

/** Options of {@link connect}. */
export interface ConnectOptions extends Abortable, AncillaryOptions {
  /** The type of the socket at the address: `'stream'` (default), `'seqpacket'` or `'dgram'`. */
  type?: SocketType | undefined
  /**
   * The new socket's own address, which the peer sees and can send datagrams to (default: none). Closing the socket removes the file of
   * a path.
   */
  localAddress?: Address | undefined
}

/**
 * Connects to a listening socket, or creates a datagram socket with a peer: connect(2).
 *
 * While the listener's backlog is full, the call is retried after delays, because no event reports room; it keeps the process alive
 * meanwhile. (macOS and FreeBSD report a full backlog as ECONNREFUSED.)
 *
 * @param address the address to connect to
 * @param options `type`, `localAddress`, `signal`; `credentials`, `pidfd`: ancillary data of each received message
 * @returns resolves to the socket, which the caller owns
 *
 *   Rejects with `ENOENT`; `ECONNREFUSED` if no socket listens; `EACCES`; `EPROTOTYPE` for a socket of another type;
 *   `ENAMETOOLONG`; `EADDRINUSE` for the local address; `EMFILE`; `ENOPROTOOPT` for an option that the kernel lacks;
 *   AbortError; ERR_UNSUPPORTED_PLATFORM
 */
export async function connect(address: Address, options?: ConnectOptions): Promise<UnixSocket> {
  openReactor()
  const name = addressOf('address', address, 'connect')
  const { type = 'stream', localAddress } = optionsOf(options) ?? {}
  const socketType = socketTypeOf(type)
  const localName = localAddress === undefined ? undefined : addressOf('options.localAddress', localAddress, 'bind')
  const ancillary = ancillaryOf(options)
  const signal = signalOf(options)
  const fd = makeSocket(socketType, ancillary)
  try {
    if (localName !== undefined) bindAddress(fd, localName)
    const code = await retry(() => native.connect(fd, name), AGAIN, signal)
    if (code < 0) throw systemError(code, 'connect', address)
    return openSocket(fd, socketType)
  } catch (error) {
    closeFds([fd])
    throw error
  }
}
