import { constants } from 'node:os'
import { type Address, addressOf, ipAddressOf } from '../address/socket-address.ts'
import { boolean, backlogOf, integer, optionsOf } from '../base/validate.ts'
import { type Descriptor, wrapFd } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { invalidValue } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type SocketFileOptions, bindAddress, disownFile, fileAccessOf } from '../address/socket-file.ts'
import { makeSocket } from './new-socket.ts'

interface Backlog {
  /** The maximum number of connections that wait to be accepted (default 511); the kernel lowers it to its own limit. */
  backlog?: number | undefined
}

/** Options of {@link bindListener} for TCP. */
export interface TcpListenerOptions extends Backlog {
  /** The port; 0 for a free one (see {@link Descriptor.address}). */
  port: number
  /** An IP address; names are not looked up (default: every address of this machine, IPv6 if available, and IPv4). */
  host?: string | undefined
  /** Whether to refuse IPv4 connections on an IPv6 address (default false). */
  ipv6Only?: boolean | undefined
  /** Whether to share the port with other sockets that set this; the kernel spreads connections over them (default false). */
  reusePort?: boolean | undefined
  /** Not with a port. */
  path?: never
}

/** Options of {@link bindListener} for a Unix domain stream socket. */
export interface UnixListenerOptions extends Backlog, SocketFileOptions {
  /** A path, or an abstract address. */
  path: Address
  /** Not with a path. */
  port?: never
  /** Not with a path. */
  host?: never
}

/**
 * Creates a listening socket for another process that accepts: bind(2) and listen(2). This process does not watch it; connections wait in
 * its backlog. It is in blocking mode.
 *
 * The file of a path is created, and a stale one replaced, as by {@link listen}. Closing the descriptor does not remove the file, because
 * another process may have the socket.
 *
 * @param options `port`, `host`, `ipv6Only`, `reusePort`; or `path`, `mode`, `owner`, `group`; and `backlog`
 * @returns the listening socket, which the caller owns
 * @throws `EADDRINUSE` if the address is in use, or while another process replaces the file; `EACCES` if this user may not use the port or
 *   the directory; `EPERM` for an `owner` or `group` that this user may not choose; `EADDRNOTAVAIL` for an address of another machine; `ENOENT` (no such directory); `ENAMETOOLONG`; `EMFILE`;
 *   ERR_UNSUPPORTED_PLATFORM
 *
 * @example
 * ```js
 * import { bindListener } from 'fdpass'
 *
 * const listener = bindListener({ host: '127.0.0.1', port: 0 })
 * console.log(listener.kind, listener.address.address) // tcp-listener 127.0.0.1
 * listener.closeSync() // or `sendFd` it to the process that accepts
 * ```
 */
export function bindListener(options: TcpListenerOptions): Descriptor
export function bindListener(options: UnixListenerOptions): Descriptor
export function bindListener(options: TcpListenerOptions | UnixListenerOptions): Descriptor {
  openReactor()
  const { path, port } = optionsOf(options) ?? {}
  if (options === undefined || (path === undefined) === (port === undefined)) {
    throw invalidValue('options', "must have either 'port' or 'path'")
  }
  const backlog = backlogOf(options.backlog)
  return wrapFd(options.port === undefined ? unixListener(options, backlog) : tcpListener(options, backlog))
}

function tcpListener(options: TcpListenerOptions, backlog: number): number {
  const { host, ipv6Only = false, reusePort = false } = options
  const port = integer('options.port', options.port, 0, 65_535)
  boolean('options.ipv6Only', ipv6Only)
  boolean('options.reusePort', reusePort)
  if (host !== undefined) ipAddressOf('options.host', host)
  const listen = (address: string) => native.tcpListener(address, port, { backlog, ipv6Only, reusePort })
  let fd = listen(host ?? '::')
  // As Node's net: a machine may have no IPv6.
  if (noIpv6.has(-fd) && host === undefined && !ipv6Only) fd = listen('0.0.0.0')
  if (fd < 0) throw systemError(fd, 'bind', `${host ?? '::'}:${port}`)
  return fd
}

/** What bind(2) and socket(2) say of IPv6 where there is none. */
const noIpv6 = new Set<number>([constants.errno.EAFNOSUPPORT, constants.errno.EADDRNOTAVAIL])

function unixListener({ path, ...file }: UnixListenerOptions, backlog: number): number {
  const name = addressOf('options.path', path, 'bind')
  const access = fileAccessOf(file, name)
  const fd = makeSocket('stream')
  try {
    bindAddress(fd, name, access)
    const code = native.listen(fd, backlog, true)
    if (code < 0) throw systemError(code, 'listen', path)
    disownFile(fd)
    return fd
  } catch (error) {
    closeFds([fd])
    throw error
  }
}
