import { type Address, addressOf, localAddressOf } from '../address/unix-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { boolean, backlogOf, optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, type Credentials, ancillaryOf } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import { type Descriptor, takeFd } from '../descriptor/descriptor.ts'
import { type SocketType } from './endpoint.ts'
import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { socketClosed, socketNotEmpty } from './errors.ts'
import { systemError } from '../native/system-error.ts'
import { borrow } from '../descriptor/borrow.ts'
import { Iteration, end } from '../base/async-iterator.ts'
import { type AcceptShape, type Allow, Acceptor } from './acceptor.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { bindAddressWithRetry, modeOf } from '../address/socket-file.ts'
import { type UnixSocket, openSocket } from './unix-socket.ts'
import { makeSocket } from './new-socket.ts'
import { warnOnce } from '../base/warnings.ts'

const made = Symbol('made')

/** Options of {@link listen}. */
export interface ListenOptions extends AncillaryOptions {
  /** `'stream'` (default) or `'seqpacket'`. */
  type?: 'stream' | 'seqpacket' | undefined
  /** The permissions of the socket's file, such as 0o600. Without it, what the umask leaves of 0o777. */
  mode?: number | undefined
  /** The most connections that wait to be accepted (default 511); the kernel cuts it to its own limit. */
  backlog?: number | undefined
  /**
   * `false` refuses descriptors on every connection. From Linux 6.16 on the sender gets `EPERM` (`SO_PASSRIGHTS`), and
   * nothing that could block at its close ever comes here; elsewhere a message with descriptors is refused as with
   * `maxFds: 0`, and they are closed.
   */
  descriptors?: boolean | undefined
  /**
   * Decides whether a connection is taken: given {@link UnixSocket.peer}'s credentials, before the connection is handed out.
   * One that is not is closed. What it throws rejects the accept, and the connection is closed. While it has not decided
   * about 64 connections, no more are accepted. A pid among the credentials may have been given to another process since.
   *
   * @param credentials of who connected
   */
  allow?: ((credentials: Credentials) => boolean | Promise<boolean>) | undefined
}

// The class sets this: its constructor is private.
let make: (fd: number, type: SocketType, address: Address, takesFds: boolean, allow: Allow | undefined) => UnixServer

/**
 * A socket that listens, and accepts connections as {@link UnixSocket}s.
 *
 * An accept that waits keeps the process alive, unless {@link UnixServer.unref} was called. Once it has accepted, the
 * listening socket is in non-blocking mode, which it shares with every process that has it, until it is released.
 */
export class UnixServer implements AsyncIterable<UnixSocket>, AsyncDisposable, Disposable {
  readonly #listener: Acceptor
  readonly #type: SocketType
  readonly #address: Address
  readonly #accept: AcceptShape<UnixSocket>
  readonly #iterate: AcceptShape<IteratorResult<UnixSocket, undefined>>

  /** Use {@link listen} or {@link Descriptor.toUnixServer}. */
  private constructor(
    fd: number,
    type: SocketType,
    address: Address,
    takesFds: boolean,
    allow: Allow | undefined,
    key: symbol
  ) {
    if (key !== made) throw invalidValue('key', 'is private: use listen()')
    this.#listener = new Acceptor(fd, allow)
    this.#type = type
    this.#address = address
    this.#accept = (connection) => openSocket(connection, type, takesFds)
    this.#iterate = Object.assign(
      (connection: number) => ({ done: false as const, value: openSocket(connection, type, takesFds) }),
      { ahead: true, closed: () => end }
    )
    unused.register(this, this.#listener, this.#listener)
  }

  static {
    make = (...args) => new UnixServer(...args, made)
  }

  /** The address on which it listens. */
  get address(): Address {
    return this.#address
  }

  /** The type of its connections: `'stream'` or `'seqpacket'`. */
  get type(): SocketType {
    return this.#type
  }

  /** Whether this side was closed or released. */
  get closed(): boolean {
    return this.#listener.closed
  }

  /**
   * Accept one connection: accept(2).
   *
   * @param options `signal`
   * @returns resolves to the connection, which is the caller's to close
   *
   *   Rejects with `EMFILE` where the descriptor table is full, and the connection waits on; with what `allow` threw;
   *   ERR_INVALID_RETURN_VALUE if that gave no boolean; ERR_SOCKET_CLOSED; AbortError, which loses nothing.
   */
  accept(options?: Abortable): Promise<UnixSocket> {
    try {
      const signal = signalOf(optionsOf(options))
      return UnixServer.#open(this).accept(this, this.#accept, signal)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * The connections as they come, until this side's close.
   *
   * Several may be accepted at once: at most 64, and a quarter of the free descriptor table, are held. They belong to the
   * server: after the iteration is left, the next `accept` or iteration takes them. An error is thrown as
   * {@link UnixServer.accept} rejects; a new iteration goes on behind it.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<UnixSocket, undefined> {
    const listener = this.#listener
    return new Iteration(listener, () => listener.accept(this, this.#iterate, undefined), undefined)
  }

  /** Let an accept that waits keep the process alive, as it does at first. */
  ref(): this {
    this.#listener.referenced = true
    return this
  }

  /** Let the process end although an accept waits. */
  unref(): this {
    this.#listener.referenced = false
    return this
  }

  /**
   * Give the listening socket up without closing it, and leave its file where it is. What waits rejects with
   * ERR_SOCKET_CLOSED.
   *
   * @returns its number, which the caller has to close; in blocking mode, and close-on-exec
   * @throws ERR_SOCKET_NOT_EMPTY while it holds connections that an iteration accepted ahead; ERR_SOCKET_CLOSED
   */
  release(): number {
    const listener = UnixServer.#open(this)
    if (listener.held > 0) throw socketNotEmpty(`${listener.held} connections`)
    unused.unregister(listener)
    return listener.release()
  }

  /**
   * Close the listening socket, and the connections that it accepted ahead, at once; nothing happens if it already is. The
   * socket's file is removed, if this process made it and it is still the same file.
   *
   * What waits rejects with ERR_SOCKET_CLOSED; an iteration ends. Connections that wait in the backlog are reset.
   */
  close(): void {
    unused.unregister(this.#listener)
    this.#listener.close()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** As {@link UnixServer.close}, with the closing of descriptors on the thread pool. */
  async [Symbol.asyncDispose](): Promise<void> {
    unused.unregister(this.#listener)
    await this.#listener.closeLater()
  }

  /**
   * Returns the number for one call.
   *
   * @hidden
   */
  [borrow](): number {
    return UnixServer.#open(this).fd
  }

  // Static, because a private method fails without a code on an object that only has this class's prototype.
  static #open(server: UnixServer): Acceptor {
    if (!(#listener in server)) throw invalidType('server', 'an instance of UnixServer', server)
    if (server.#listener.closed) throw socketClosed()
    return server.#listener
  }
}

/** Makes the object for a listening socket of another process, which keeps its file. The descriptor is taken. */
export function adoptServer(descriptor: Descriptor): UnixServer {
  const fd = descriptor[borrow]()
  const type = native.socketType(fd) as SocketType
  const address = localAddressOf(fd)! // bound, as it listens
  return make(takeFd(descriptor), type, address, true, undefined)
}

/** Closes servers that nobody uses any more. */
const unused = new FinalizationRegistry<Acceptor>((listener) => {
  listener.close()
  warnOnce('A UnixServer was garbage-collected while it was open, and was closed', listener.fd)
})

/**
 * Listen for connections: bind(2) and listen(2).
 *
 * The file of a path has its permissions from the start; connecting takes the permission to write. A file that a socket
 * left behind is replaced only if nothing is bound to it any more: of several processes that try at once one does, under
 * a lock beside the file (`PATH.fdpass-lock`), which is gone afterwards. The file is removed when the server is closed.
 *
 * @param address where: a path, or an abstract address, which has no permissions (anybody may connect)
 * @param options `type`, `mode`, `backlog`, `descriptors`, `allow`; `credentials`, `pidfd`: what each connection tells
 *   with each message, from its first byte on
 * @returns resolves to the server, which is the caller's to close
 *
 *   Rejects with `EADDRINUSE` where another socket is bound to the address, or the file is no socket; `ENOENT` (no such
 *   folder), `EACCES`, `EROFS`; `ENAMETOOLONG`; `EMFILE`; `EPROTONOSUPPORT` for seqpacket on macOS; `ENOPROTOOPT` for an
 *   option that the kernel lacks; ERR_UNSUPPORTED_PLATFORM
 */
export async function listen(address: Address, options?: ListenOptions): Promise<UnixServer> {
  openReactor()
  const name = addressOf('address', address, 'bind')
  const { type = 'stream', backlog, descriptors = true, allow, mode } = optionsOf(options) ?? {}
  if (!['stream', 'seqpacket'].includes(type)) {
    throw invalidValue('options.type', "must be 'stream' or 'seqpacket'; bind() makes datagram sockets")
  }
  const permissions = modeOf(mode, name)
  const waiting = backlogOf(backlog)
  boolean('options.descriptors', descriptors)
  if (allow !== undefined && typeof allow !== 'function') throw invalidType('options.allow', 'of type function', allow)
  const fd = makeSocket(type, ancillaryOf(options))
  try {
    await bindAddressWithRetry(fd, name, permissions)
    const code = native.listen(fd, waiting, descriptors)
    if (code < 0) throw systemError(code, 'listen', address)
    const bound = localAddressOf(fd) ?? address
    return make(fd, type, bound, descriptors, allow)
  } catch (error) {
    closeFds([fd])
    throw error
  }
}
