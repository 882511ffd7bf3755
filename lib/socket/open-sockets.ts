import { type Address, addressOf, ipAddressOf } from '../address/socket-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { integer, optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, ancillaryOf } from './credentials.ts'
import { type Descriptor, wrapFd } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import type { SocketType } from './endpoint.ts'
import { systemError } from '../native/system-error.ts'
import { AGAIN } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { retry } from '../base/backoff.ts'
import { invalidValue } from '../base/errors.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type SocketFileOptions, bindAddress, fileAccessOf } from '../address/socket-file.ts'
import { type UnixSocket, openSocket } from './unix-socket.ts'
import { enableAncillary, makeSocket, socketTypeOf } from './new-socket.ts'

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

/** Options of {@link bind}. */
export interface BindOptions extends AncillaryOptions, SocketFileOptions {}

/**
 * Creates a datagram socket with an address: bind(2).
 *
 * The file of a path has its permissions from the start. A file that a closed socket left behind is replaced. Closing the socket removes
 * the file, in this process only and if it is still the same file; `release()` leaves it.
 *
 * @param address the address; null for an abstract address of the kernel's choice on Linux (see `localAddress`), and for no address
 *   elsewhere
 * @param options `mode`, `owner`, `group`; `credentials`, `pidfd`: ancillary data of each received message
 * @returns the socket, which the caller owns
 * @throws `EADDRINUSE` if another socket is bound to the path, if the file is no socket, or while another process replaces it;
 *   `ENOENT` (no such directory), `EACCES`, `EROFS`; `EPERM` for an `owner` or `group` that this user may not choose; `ENAMETOOLONG`; `EMFILE`; `ENOPROTOOPT` for an option that the kernel lacks;
 *   ERR_UNSUPPORTED_PLATFORM
 */
export function bind(address: Address | null, options?: BindOptions): UnixSocket {
  openReactor()
  const name = address === null ? null : addressOf('address', address, 'bind')
  const access = fileAccessOf(optionsOf(options) ?? {}, name)
  const fd = makeSocket('dgram', ancillaryOf(options))
  try {
    bindAddress(fd, name, access)
  } catch (error) {
    closeFds([fd])
    throw error
  }
  return openSocket(fd, 'dgram')
}

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

/** Options of {@link connectTcp}. */
export interface ConnectTcpOptions extends Abortable {
  /** An IP address; names are not looked up. */
  host: string
  /** The port, 1 to 65,535. */
  port: number
  /** The connection's own IP address, of the same family (default: the kernel's choice). */
  localAddress?: string | undefined
}

/**
 * Connects to a TCP listener, for another process that uses the connection: connect(2). No event loop reads from it, so that no byte stays
 * behind when it is sent. It is in blocking mode.
 *
 * @param options `host`, `port`, `localAddress`, `signal`
 * @returns resolves to the connection, of kind `'tcp'`, which the caller owns
 *
 *   Rejects with `ECONNREFUSED`; `ETIMEDOUT`, which takes minutes; `ENETUNREACH` or `EHOSTUNREACH`; `EADDRNOTAVAIL` for a local address of
 *   another machine; `EMFILE`; AbortError; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE or ERR_OUT_OF_RANGE; ERR_UNSUPPORTED_PLATFORM
 */
export async function connectTcp(options: ConnectTcpOptions): Promise<Descriptor> {
  openReactor()
  const { host, port, localAddress } = optionsOf(options) ?? {}
  const address = ipAddressOf('options.host', host)
  const isIpv6 = address.includes(':')
  const number = integer('options.port', port, 1, 65_535)
  if (localAddress !== undefined && ipAddressOf('options.localAddress', localAddress).includes(':') !== isIpv6) {
    throw invalidValue('options.localAddress', `must be of the same family as 'host'. Received '${localAddress}'`)
  }
  const signal = signalOf(options)
  const fd = native.tcpSocket(isIpv6, localAddress)
  if (fd < 0) throw systemError(fd, localAddress === undefined ? 'socket' : 'bind', localAddress)
  const connection = wrapFd(fd)
  try {
    let code = native.beginTcpConnection(fd, address, number)
    if (code === 0) {
      await connection.poll('write', { signal })
      code = native.finishTcpConnection(fd)
    }
    if (code < 0) throw systemError(code, 'connect', isIpv6 ? `[${address}]:${number}` : `${address}:${number}`)
    return connection
  } catch (error) {
    connection.closeSync()
    throw error
  }
}
