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
  /** `'stream'` (default), `'seqpacket'` or `'dgram'`: that of the socket at the address. */
  type?: SocketType | undefined
  /**
   * The new socket's own address, by which the peer knows it and where a datagram can be answered. The file of a path is
   * removed when the socket is closed.
   */
  localAddress?: Address | undefined
}

/**
 * Connect to a listening socket, or give a new datagram socket its peer: connect(2).
 *
 * @param address where to
 * @param options `type`, `localAddress`, `signal`; `credentials`, `pidfd`: what to tell with each message that comes back
 * @returns resolves to the socket, which is the caller's to close. While the listener's backlog is full it is tried again,
 *   after pauses, as no event tells when there is room; the wait keeps the process alive. (On macOS and FreeBSD a full
 *   backlog cannot be told from nobody listening.)
 *
 *   Rejects with `ENOENT`, `ECONNREFUSED` (nobody listens there), `EACCES`, `EPROTOTYPE` (a socket of another type);
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
