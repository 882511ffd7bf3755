import { type Address, addressOf, localAddressOf } from '../address/socket-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { boolean, backlogOf, optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, type Credentials, ancillaryOf } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import { type Descriptor, takeFd } from '../descriptor/descriptor.ts'
import { type SocketType } from './endpoint.ts'
import { invalidType, invalidValue } from '../base/errors.ts'
import { type InspectionArguments, inspected, inspection, uncloneable } from '../base/inspection.ts'
import { socketClosed, socketNotEmpty } from './errors.ts'
import { systemError } from '../native/system-error.ts'
import { borrow } from '../descriptor/fd-source.ts'
import { Iteration, end } from '../base/async-iterator.ts'
import { type AcceptShape, type Allow, Acceptor } from './acceptor.ts'
import { ConnectionCounter, connectionLimitsOf } from './connection-limits.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type SocketFileOptions, bindAddressWithRetry, fileAccessOf } from '../address/socket-file.ts'
import { type UnixSocket, openSocket } from './unix-socket.ts'
import { makeSocket } from './new-socket.ts'
import { closeUnused } from '../descriptor/leak-detector.ts'

const constructorKey = Symbol('constructorKey')

/** Options of {@link listen}. */
export interface ListenOptions extends AncillaryOptions, SocketFileOptions {
  /** The type of the connections: `'stream'` (default) or `'seqpacket'`. */
  type?: 'stream' | 'seqpacket' | undefined
  /** The maximum number of connections that wait to be accepted (default 511); the kernel lowers it to its own limit. */
  backlog?: number | undefined
  /**
   * Whether connections accept descriptors (default true). With `false`, a sender gets `EPERM` since Linux 6.16 (`SO_PASSRIGHTS`), and no
   * descriptor arrives whose close could block. Elsewhere a message with descriptors is refused as with `maxFds: 0`, and they are closed.
   */
  descriptors?: boolean | undefined
  /**
   * Decides whether a connection is accepted (default: all are). A refused connection is closed. If the function throws, the connection is
   * closed and the accept rejects with the error. While 64 decisions are pending, no further connection is accepted. The kernel may have
   * reused the pid among the credentials.
   *
   * @param credentials the credentials of {@link UnixSocket.peer}
   */
  allow?: ((credentials: Credentials) => boolean | Promise<boolean>) | undefined
  /**
   * The maximum number of connections that the server has accepted and that are open (default: no limit). A further one is closed at once,
   * before `allow` is called. A socket that was released does not count.
   */
  maxConnections?: number | undefined
  /** The same for the connections of one user (default: no limit). */
  maxConnectionsPerUser?: number | undefined
}

// The class sets this: its constructor is private.
let make: (
  fd: number,
  type: SocketType,
  address: Address,
  takesFds: boolean,
  allow: Allow | undefined,
  counter?: ConnectionCounter
) => UnixServer

/**
 * A listening socket that accepts connections as {@link UnixSocket}s.
 *
 * A pending accept keeps the process alive, unless {@link UnixServer.unref} was called. The first accept switches the listening socket to
 * non-blocking mode, which every process shares that has the socket, until it is released.
 */
export class UnixServer implements AsyncIterable<UnixSocket>, AsyncDisposable, Disposable {
  readonly #listener: Acceptor
  readonly #type: SocketType
  readonly #address: Address
  readonly #accept: AcceptShape<UnixSocket>
  readonly #iterate: AcceptShape<IteratorResult<UnixSocket, undefined>>
  /** @internal */
  protected readonly uncloneable = uncloneable

  /** Use {@link listen} or {@link Descriptor.toUnixServer}. */
  private constructor(
    fd: number,
    type: SocketType,
    address: Address,
    takesFds: boolean,
    allow: Allow | undefined,
    counter: ConnectionCounter | undefined,
    key: symbol
  ) {
    if (key !== constructorKey) throw invalidValue('key', 'is private: use listen()')
    this.#listener = new Acceptor(fd, allow, counter)
    this.#type = type
    this.#address = address
    const open = (connection: number) => {
      const onEnd = counter === undefined ? undefined : () => counter.leave(connection)
      return openSocket(connection, type, takesFds, onEnd)
    }
    this.#accept = open
    this.#iterate = Object.assign((connection: number) => ({ done: false as const, value: open(connection) }), {
      ahead: true,
      closed: () => end
    })
    unused.register(this, this.#listener, this.#listener)
  }

  static {
    make = (fd, type, address, takesFds, allow, counter) =>
      new UnixServer(fd, type, address, takesFds, allow, counter, constructorKey)
  }

  /** The address that the server listens on. */
  get address(): Address {
    return this.#address
  }

  /** The type of its connections: `'stream'` or `'seqpacket'`. */
  get type(): SocketType {
    return this.#type
  }

  /**
   * The number, for calls that take one. `stdio` of a child process also takes the object. The object still owns the number: do not close
   * it.
   *
   * @throws ERR_SOCKET_CLOSED after `close` or `release`
   */
  get fd(): number {
    const listener = UnixServer.#open(this)
    listener.isLent = true
    return listener.fd
  }

  /** Whether the server was closed or released. */
  get closed(): boolean {
    return this.#listener.closed
  }

  /**
   * Accepts one connection: accept(2).
   *
   * @param options `signal`
   * @returns resolves to the connection, which the caller owns
   *
   *   Rejects with `EMFILE` if the descriptor table is full (the connection stays in the backlog); with the error that `allow` threw;
   *   ERR_INVALID_RETURN_VALUE if `allow` did not return a boolean; ERR_SOCKET_CLOSED; AbortError, which loses nothing.
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
   * Iterates over the connections as they arrive, until the server is closed.
   *
   * The iteration accepts several connections at once, and holds at most 64 and a quarter of the free descriptor table. They belong to the
   * server: leaving the iteration loses none, the next `accept` or iteration takes them. The iteration throws the errors of
   * {@link UnixServer.accept}; a new iteration continues after the error.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<UnixSocket, undefined> {
    const listener = this.#listener
    return new Iteration(listener, () => listener.accept(this, this.#iterate, undefined), undefined)
  }

  /** Lets a pending accept keep the process alive, as it does by default. */
  ref(): this {
    this.#listener.referenced = true
    return this
  }

  /** Lets the process end while an accept is pending. */
  unref(): this {
    this.#listener.referenced = false
    return this
  }

  /**
   * Releases the listening socket without closing it, and leaves its file in place. A pending accept rejects with ERR_SOCKET_CLOSED.
   *
   * @returns the descriptor's number, which the caller owns; in blocking mode, and close-on-exec
   * @throws ERR_SOCKET_NOT_EMPTY while the server holds connections that an iteration accepted ahead; ERR_SOCKET_CLOSED
   */
  release(): number {
    const listener = UnixServer.#open(this)
    if (listener.held > 0) throw socketNotEmpty(`${listener.held} connections`)
    unused.unregister(listener)
    return listener.release()
  }

  /**
   * Closes the listening socket and the connections accepted ahead, at once. Does nothing if the server is closed. Removes the socket's file
   * if this process created it and it is still the same file.
   *
   * A pending accept rejects with ERR_SOCKET_CLOSED; an iteration ends. The kernel resets connections in the backlog.
   */
  close(): void {
    unused.unregister(this.#listener)
    this.#listener.close()
  }

  /** Closes the server, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Closes the server, with close(2) on the thread pool. */
  async [Symbol.asyncDispose](): Promise<void> {
    unused.unregister(this.#listener)
    await this.#listener.closeLater()
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    const state = () => {
      const { type, address, closed } = this
      return closed ? { type, address, state: 'closed' } : { fd: this.#listener.fd, type, address, state: 'open' }
    }
    return inspected('UnixServer', state, args)
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

/** Takes over a listening socket that another process created and whose file it keeps. */
export function adoptServer(descriptor: Descriptor): UnixServer {
  const fd = descriptor[borrow]()
  const type = native.socketType(fd) as SocketType
  const address = localAddressOf(fd)! // bound, as it listens
  return make(takeFd(descriptor), type, address, true, undefined)
}

/** Closes servers that were collected while open. */
const unused = new FinalizationRegistry<Acceptor>((listener) => {
  closeUnused('A UnixServer', listener)
})

/**
 * Listens for connections: bind(2) and listen(2).
 *
 * The file of a path has its permissions from the start; connecting requires write permission. A file that a closed socket left behind is
 * replaced only if no socket is bound to it. If several processes try at once, one succeeds, under a lock beside the file
 * (`PATH.fdpass-lock`), which is removed afterwards. Closing the server removes the file.
 *
 * @param address a path, or an abstract address, which has no permissions: every process may connect
 * @param options `type`, `mode`, `owner`, `group`, `backlog`, `descriptors`, `allow`, `maxConnections`, `maxConnectionsPerUser`; `credentials`, `pidfd`: ancillary data of each message that a
 *   connection receives, from its first byte on
 * @returns resolves to the server, which the caller owns
 *
 *   Rejects with `EADDRINUSE` if another socket is bound to the address, or the file is no socket; `ENOENT` (no such directory),
 *   `EACCES`, `EROFS`; `EPERM` for an `owner` or `group` that this user may not choose; `ENAMETOOLONG`; `EMFILE`; `EPROTONOSUPPORT` for seqpacket on macOS; `ENOPROTOOPT` for an
 *   option that the kernel lacks; ERR_UNSUPPORTED_PLATFORM
 *
 * @example
 * ```js
 * import { connect, listen } from 'fdpass'
 *
 * const server = await listen('./example.sock', { mode: 0o600 })
 * const client = await connect('./example.sock')
 * const socket = await server.accept()
 * console.log(socket.peer().pid === process.pid) // true
 * for (const each of [client, socket, server]) each.close()
 * ```
 */
export async function listen(address: Address, options?: ListenOptions): Promise<UnixServer> {
  openReactor()
  const name = addressOf('address', address, 'bind')
  const { type = 'stream', backlog, descriptors = true, allow } = optionsOf(options) ?? {}
  if (!['stream', 'seqpacket'].includes(type)) {
    throw invalidValue('options.type', "must be 'stream' or 'seqpacket'; bind() makes datagram sockets")
  }
  const access = fileAccessOf(options ?? {}, name)
  const waiting = backlogOf(backlog)
  boolean('options.descriptors', descriptors)
  if (allow !== undefined && typeof allow !== 'function') throw invalidType('options.allow', 'of type function', allow)
  const limits = connectionLimitsOf(options ?? {}, { maxConnections: Infinity, maxConnectionsPerUser: Infinity })
  const isLimited = limits.maxConnections < Infinity || limits.maxConnectionsPerUser < Infinity
  const fd = makeSocket(type, ancillaryOf(options))
  try {
    await bindAddressWithRetry(fd, name, access)
    const code = native.listen(fd, waiting, descriptors)
    if (code < 0) throw systemError(code, 'listen', address)
    const bound = localAddressOf(fd) ?? address
    return make(fd, type, bound, descriptors, allow, isLimited ? new ConnectionCounter(limits) : undefined)
  } catch (error) {
    closeFds([fd])
    throw error
  }
}
