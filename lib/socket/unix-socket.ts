import type { Socket } from 'node:net'
import { type Address, addressOf, localAddressOf, remoteAddressOf } from '../address/socket-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { type Bytes, MAX_INT, boolean, bytesOf, integer, optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, type Credentials, ancillaryOf, sentCredentialsOf, peerOf } from './credentials.ts'
import { Descriptor, adopt, closeQuietly, takeFd, wrapFd } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { Endpoint, type SocketType } from './endpoint.ts'
import { dataRequired, endedWithoutFd, noDescriptor, ownedByChannel, socketClosed, socketNotEmpty } from './errors.ts'
import { invalidState, invalidType, invalidValue, unsupportedPlatform } from '../base/errors.ts'
import { type InspectionArguments, inspected, inspection, uncloneable } from '../base/inspection.ts'
import { systemError } from '../native/system-error.ts'
import { borrow, type FdSource, putFd, putFds } from '../descriptor/fd-source.ts'
import { Iteration, end } from '../base/async-iterator.ts'
import { Message, MessageParts, ReceivedFd, type RequiredFd } from './message.ts'
import { MAX_RECEIVED_FDS } from '../native/codes.ts'
import { isSupported, loadFailure, native } from '../native/binding.ts'
import { duplicateOf, isNetSocket } from '../descriptor/node-internals.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type Limits, type Shape, defaultLimits } from './receiver.ts'
import { closeUnused } from '../descriptor/leak-detector.ts'
import { enableAncillary, connectedType } from './new-socket.ts'

/** Options of {@link UnixSocket.send}. */
export interface SendOptions extends Abortable {
  /** The descriptors to send with the first byte, at most 253 (default: none). The caller keeps owning them. */
  fds?: readonly FdSource[] | null | undefined
  /**
   * The destination of a datagram (default: the socket's peer). If the receiver's queue is full, the message is retried after delays, because
   * no event reports room; messages to other addresses do not wait for it.
   */
  to?: Address | undefined
  /**
   * The credentials to attach: `true` for this process's, with its real user and group. The kernel refuses others with `EPERM`, except from
   * root. A receiver with the option `credentials: true` receives the true ones in any case (default: none).
   */
  credentials?: true | Credentials | undefined
}

/** Options of {@link UnixSocket.recv} and {@link UnixSocket.messages}. */
export interface RecvOptions extends Abortable {
  /** The maximum number of bytes, 1 to 2,147,483,647 (default 65,536). A longer datagram or packet is truncated. */
  maxBytes?: number | undefined
  /** The maximum number of descriptors (default: the platform's limit). A message with more is refused as a whole. */
  maxFds?: number | undefined
}

/** Options of {@link UnixSocket.recvFd}. */
export interface RecvFdOptions extends Abortable {
  /** Whether a message without a descriptor, and the end of the connection, are errors (default false). */
  required?: boolean | undefined
  /** The maximum number of bytes, 1 to 2,147,483,647 (default 65,536). A longer datagram or packet is truncated. */
  maxBytes?: number | undefined
}

/** Options of {@link UnixSocket.recvExactly}. */
export interface RecvExactlyOptions extends Abortable {
  /** The maximum number of descriptors beside all of the bytes (default: the platform's limit for one message). */
  maxFds?: number | undefined
}

type Result = IteratorResult<Message, undefined>

/** The byte that carries a descriptor by default (UNP's write_fd). */
const CARRIER = Uint8Array.of(0)

const oneFd: Limits = { ...defaultLimits, maxFds: 1 }

const directions = new Set(['read', 'write', 'both'])

const constructorKey = Symbol('constructorKey')

// The class sets these: they reach its private members.
/** Returns the handle of a socket that is open and belongs to no channel; throws otherwise. */
export let endpointOf: (name: string, socket: UnixSocket) => Endpoint
/** Takes the number out of a socket, which is closed from then on. The native side still owns it, for another object. */
export let takeSocketFd: (socket: UnixSocket) => number
/** Moves a connection without pending operations into a new object; the old one is closed from then on. */
export let moveSocket: (socket: UnixSocket) => UnixSocket

const toMessage: Shape<Message | null> = (message) => message

const toReceivedFd: Shape<ReceivedFd | null> = Object.assign(
  (message: Message | null) => (message === null ? null : toReceived(message)),
  { plain: (data: Buffer, fd: Descriptor | null) => new ReceivedFd(fd, data) }
)

/** The end of the connection ends an iteration, and so does `close()`. */
const toResult: Shape<Result> = Object.assign(
  (message: Message | null): Result => (message === null ? end : { done: false, value: message }),
  { ahead: true, closed: () => end }
)

function toReceived(message: Message): ReceivedFd {
  closeQuietly(message.pidfd) // the result has no place for it
  return new ReceivedFd(message.fds[0] ?? null, message.data)
}

// The class sets this: its constructor is private.
let make: (endpoint: Endpoint) => UnixSocket

/** The casts that rooms above this one add to {@link UnixSocket}. */
export interface UnixSocketCasts {}

// Rooms above add to UnixSocketCasts, not to the class: TypeScript 6 loses the members of a class with computed names if another module adds
// to it and only some files are checked.
// oxlint-disable-next-line typescript/no-unsafe-declaration-merging
export interface UnixSocket extends UnixSocketCasts {}

/**
 * A Unix domain socket.
 *
 * Operations complete at once if the kernel allows it, and are pending otherwise; sends keep their order, and so do receives. A pending
 * operation keeps the process alive, unless {@link UnixSocket.unref} was called. The descriptor is close-on-exec. Its blocking mode, which
 * other processes may share, stays unchanged: every call passes `MSG_DONTWAIT`.
 */
export class UnixSocket implements AsyncIterable<Message>, AsyncDisposable, Disposable {
  readonly #endpoint: Endpoint
  /** @internal */
  protected readonly uncloneable = uncloneable
  /** Whether another object has taken the connection over. */
  #moved = false

  /** Use {@link socketpair}, {@link connect}, {@link bind} or {@link UnixSocket.from}. */
  private constructor(endpoint: Endpoint, key: typeof constructorKey) {
    if (key !== constructorKey)
      throw invalidValue('key', 'is private: use UnixSocket.from(), socketpair(), connect() or bind()')
    this.#endpoint = endpoint
    unused.register(this, endpoint, endpoint)
  }

  /**
   * Takes over an open socket: an inherited or received one, or one of Node's. Detects its type.
   *
   * The new object owns a number or a Descriptor from then on. A `net.Socket` is destroyed, and its connection continues here under another
   * number. Node may have read bytes that were meant for this object, and dropped their descriptors: call this in the `'connect'`
   * handler, or in the `'connection'` handler of a server with `pauseOnConnect: true`. (Node never closes the descriptors of
   * `process.stdin`, `stdout` and `stderr`: take over 0, 1 or 2 itself.)
   *
   * @param source a descriptor's number, a Descriptor, or a connected `net.Socket`
   * @param options `credentials`, `pidfd`: ancillary data of each received message. Messages that have arrived before have the credentials
   *   pid null, uid and gid 65534, and no pidfd
   * @throws `EBADF`, `ENOTSOCK`; `EAFNOSUPPORT` for a socket of another family; ERR_INVALID_ARG_VALUE for a listening socket, for a number
   *   that fdpass or Node uses (see {@link Descriptor.from}), and for a `net.Socket` that is a TLSSocket (its keys would stay behind), is connecting, destroyed or ending, has
   *   read bytes, or has bytes to write; `ENOPROTOOPT` for an option that the kernel lacks; ERR_DESCRIPTOR_CLOSED. The source is unchanged
   *   then.
   */
  static from(source: number | Descriptor | Socket, options?: AncillaryOptions): UnixSocket {
    openReactor()
    const ancillary = ancillaryOf(optionsOf(options))
    if (source instanceof Descriptor) {
      const fd = source[borrow]()
      const type = connectedType(fd)
      enableAncillary(fd, ancillary)
      return openSocket(takeFd(source), type)
    }
    if (isNetSocket(source)) {
      const fd = duplicateOf(source)
      try {
        const type = connectedType(fd)
        enableAncillary(fd, ancillary)
        source.destroy()
        return openSocket(fd, type)
      } catch (error) {
        closeFds([fd])
        throw error
      }
    }
    if (typeof source !== 'number') {
      throw invalidType('source', 'of type number or an instance of Descriptor or net.Socket', source)
    }
    integer('source', source, 0, MAX_INT)
    connectedType(source) // before anything changes
    adopt('source', source)
    try {
      const type = connectedType(source)
      enableAncillary(source, ancillary)
      return openSocket(source, type)
    } catch (error) {
      native.release(source)
      throw error
    }
  }

  /** The type: `'stream'`, `'seqpacket'` or `'dgram'`. */
  get type(): SocketType {
    return this.#endpoint.type
  }

  /**
   * The number, for calls that take one. `stdio` of a child process also takes the object. The object still owns the number: do not close
   * it.
   *
   * @throws ERR_SOCKET_CLOSED after `close`, `release` or a cast
   */
  get fd(): number {
    const endpoint = UnixSocket.#open(this)
    endpoint.isLent = true
    return endpoint.fd
  }

  /** Whether the socket was closed, released or cast. */
  get closed(): boolean {
    return this.#moved || this.#endpoint.closed
  }

  /** The socket's own address: getsockname(2). Null if it has none, and after `close()`. */
  get localAddress(): Address | null {
    return this.closed ? null : localAddressOf(this.#endpoint.fd)
  }

  /** The peer's address: getpeername(2). Null without a peer, if the peer has none, and after `close()`. */
  get remoteAddress(): Address | null {
    return this.closed ? null : remoteAddressOf(this.#endpoint.fd)
  }

  /**
   * Sends bytes, and descriptors with the first of them: sendmsg(2).
   *
   * `send` captures its descriptors when called: the caller may close them immediately, even if the message is still pending. On a stream,
   * bytes sent before a message with descriptors may arrive together with it; only frames that count their descriptors keep messages
   * apart, as {@link Channel} does.
   *
   * @param data the bytes, which must not change until the promise settles; on a stream at least one if there are descriptors
   * @param options `fds`, `to`, `credentials`, `signal`
   * @returns resolves when the kernel has taken the whole message. The descriptors stay open and the caller's.
   *
   *   Rejects with
   *   - `EPIPE` or `ECONNRESET` if the peer is gone; `ENOTCONN` without a peer; `ECONNREFUSED` or `ENOENT` for a datagram without a receiver
   *   - `EPERM` for credentials of another process, and if the receiver refuses descriptors (`SO_PASSRIGHTS`)
   *   - `EBADF` for a number that is not open (nothing is sent); `EMFILE` if the message is pending and the descriptor table is full
   *   - `EMSGSIZE` for a packet that is too long; ERR_OUT_OF_RANGE for more than 253 descriptors
   *   - ERR_SOCKET_CLOSED; AbortError. An abort before the first byte sends nothing; after it, the stream's writing side is shut down.
   */
  send(data: Bytes, options?: SendOptions): Promise<void> {
    try {
      const content = bytesOf(data)
      const signal = signalOf(optionsOf(options))
      const { to, credentials, fds: sources } = options ?? {}
      const sentCredentials = sentCredentialsOf(credentials)
      const name = to === undefined ? undefined : addressOf('options.to', to, 'sendmsg')
      const count = putFds(sources)
      const endpoint = UnixSocket.#unframed(this) // last, as reading an option can run anything, this socket's close included
      if (name !== undefined && !endpoint.isDatagram) {
        throw invalidValue('options.to', 'is for datagram sockets: this one has a connection')
      }
      if (content.length === 0 && endpoint.isStream) {
        if (count === 0) return Promise.resolve()
        throw dataRequired('data')
      }
      const sender = name === undefined ? endpoint.sender : endpoint.senderTo(to!, name)
      return sender.send(this, content, count, signal, sentCredentials)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receives one message: recvmsg(2).
   *
   * An empty packet and end-of-stream are distinguishable only while the peer's writing side is open.
   *
   * @param options `maxBytes`, `maxFds`, `signal`
   * @returns resolves to the message, whose descriptors the caller owns; to null at the end of a stream or seqpacket connection, and after
   *   `shutdown('read')`
   *
   *   Rejects with
   *   - `ECONNRESET`, once, if the peer closed without reading everything: on a stream after the received bytes, on a seqpacket connection
   *     before the received packets (Linux reports it first)
   *   - ERR_CONTROL_TRUNCATED, ERR_TOO_MANY_DESCRIPTORS or ERR_UNEXPECTED_CONTROL if the message's descriptors could not be delivered: they
   *     are closed, and the error's `data` holds the bytes
   *   - ERR_SOCKET_CLOSED; AbortError, which loses nothing
   */
  recv(options?: RecvOptions): Promise<Message | null> {
    try {
      return UnixSocket.#receive(this, options, defaultLimits, toMessage)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receives exactly so many bytes of a stream, with all descriptors that arrive beside them: recvmsg(2), repeated. For protocols whose
   * messages announce their length. It never receives a further byte, whose descriptors would belong to the next message.
   *
   * @param bytes the number of bytes, 0 to 2,147,483,647
   * @param options `maxFds`, `signal`
   * @returns resolves to the message, whose descriptors the caller owns; to null if the connection ends before the first byte. Of several
   *   senders the message has no credentials
   *
   *   Rejects with
   *   - ERR_UNEXPECTED_END if the connection ends midway: the descriptors are closed, and the error's `data` holds the bytes
   *   - ERR_CONTROL_TRUNCATED, ERR_TOO_MANY_DESCRIPTORS or ERR_UNEXPECTED_CONTROL if descriptors could not be delivered: when all of the
   *     bytes have arrived, which are in the error's `data`, and with all descriptors closed. The next message can be received
   *   - ERR_INVALID_STATE for a socket that is no stream; `ECONNRESET` as {@link UnixSocket.recv}, before the first byte; ERR_SOCKET_CLOSED
   *   - AbortError, which loses nothing: the next receive takes what has arrived
   */
  recvExactly(bytes: number, options?: RecvExactlyOptions): Promise<Message | null> {
    try {
      integer('bytes', bytes, 0, MAX_INT)
      const { maxFds = MAX_RECEIVED_FDS } = optionsOf(options) ?? {}
      integer('options.maxFds', maxFds, 0, MAX_INT)
      const signal = signalOf(options)
      const { isStream, type, receiver } = UnixSocket.#unframed(this)
      if (!isStream) throw invalidState(`A socket of type '${type}' has no recvExactly(): its messages have boundaries`)
      if (bytes === 0) return Promise.resolve(new Message(Buffer.alloc(0), 0, []))
      return receiver.receiveParts(this, new MessageParts(bytes, maxFds), signal)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Sends one descriptor: UNP's write_fd.
   *
   * @param fd the descriptor, which stays open and the caller's
   * @param data the bytes that carry it (default: one zero byte)
   * @param options `signal`
   * @returns resolves and rejects as {@link UnixSocket.send}
   */
  sendFd(fd: FdSource, data: Bytes = CARRIER, options?: Abortable): Promise<void> {
    try {
      const content = bytesOf(data)
      const signal = signalOf(optionsOf(options))
      const count = putFd(fd)
      const { sender, isStream } = UnixSocket.#unframed(this)
      if (content.length === 0 && isStream) throw dataRequired('data')
      return sender.send(this, content, count, signal)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receives at most one descriptor: UNP's read_fd.
   *
   * @param options `maxBytes`, `required`, `signal`
   * @returns resolves to the bytes and the descriptor, which the caller owns; `fd` is null if the bytes arrived without one. Resolves to
   *   null at the end of the connection
   *
   *   Rejects as {@link UnixSocket.recv}, and with
   *   - ERR_TOO_MANY_DESCRIPTORS for more than one descriptor
   *   - with `required`, ERR_NO_DESCRIPTOR for bytes without a descriptor, which are in the error's `data`, and ERR_UNEXPECTED_END at the end
   *     of the connection
   */
  recvFd(options: RecvFdOptions & { required: true }): Promise<RequiredFd>
  recvFd(options?: RecvFdOptions): Promise<ReceivedFd | null>
  recvFd(options?: RecvFdOptions): Promise<ReceivedFd | null> {
    try {
      const required = options !== undefined && isRequired(options)
      const receiving = UnixSocket.#receive(this, options, oneFd, toReceivedFd)
      return required ? requireFd(receiving) : receiving
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Iterates over the messages as they arrive, until the end of the connection or `close()`.
   *
   * The iteration receives several messages at once. It holds at most 64 messages, 250 descriptors, and a quarter of the free descriptor
   * table (only a message with more descriptors than any before it can exceed that, once), and always leaves room for a message of
   * `maxFds` descriptors. Held messages belong to the socket: leaving the iteration loses none, the next `recv`, `recvFd` or iteration takes
   * them. The iteration throws the errors of {@link UnixSocket.recv}; a new iteration continues after the error.
   *
   * @param options `maxBytes` and `maxFds` of each message, `signal` for the iteration
   */
  messages(options?: RecvOptions): AsyncIterableIterator<Message, undefined> {
    const limits = limitsOf(optionsOf(options), defaultLimits)
    const signal = signalOf(options)
    const endpoint = this.#endpoint
    if (endpoint.framing !== undefined) throw ownedByChannel()
    return new Iteration(
      endpoint,
      () => UnixSocket.#unframed(this).receiver.receive(this, limits, toResult, signal),
      signal
    )
  }

  /** Iterates as {@link UnixSocket.messages} without options. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message, undefined> {
    return this.messages()
  }

  /**
   * Returns the credentials of the process that created the other end of the connection: `SO_PEERCRED`, on macOS and FreeBSD
   * `LOCAL_PEERCRED`.
   *
   * The kernel records them when the peer calls connect(2) or, as the server, listen(2); both ends of a socketpair(2) have its caller's. They
   * do not change when another process inherits or receives the socket. The sender of a message is in its `credentials`.
   *
   * @throws `ENOTCONN` on a datagram socket that is no half of a pair; ERR_SOCKET_CLOSED
   */
  peer(): Credentials {
    return peerOf(UnixSocket.#open(this).fd)
  }

  /**
   * Opens a pidfd of the process that created the other end of the connection: `SO_PEERPIDFD`.
   *
   * Unlike the pid of {@link UnixSocket.peer}, it can never refer to another process. It is never opened from the pid.
   *
   * @returns a descriptor, which the caller owns
   * @throws `ENOPROTOOPT` before Linux 6.5 and on other systems; `ESRCH` or `EINVAL` if the process is gone and the kernel cannot name it;
   *   `ENODATA` if the kernel has recorded no process; ERR_SOCKET_CLOSED
   */
  peerPidfd(): Descriptor {
    const code = native.peerPidfd(UnixSocket.#open(this).fd)
    if (code < 0) throw systemError(code, 'getsockopt')
    return wrapFd(code)
  }

  /**
   * Shuts down a half of the connection: shutdown(2).
   *
   * @param how `'write'`: the peer receives end-of-stream; `'read'`: this side receives nothing more; `'both'` (default)
   * @throws `ENOTCONN`; ERR_SOCKET_CLOSED
   */
  shutdown(how: 'read' | 'write' | 'both' = 'both'): void {
    if (!directions.has(how)) throw invalidValue('how', "must be 'read', 'write' or 'both'")
    const code = native.shutdown(UnixSocket.#unframed(this).fd, how)
    if (code < 0) throw systemError(code, 'shutdown')
    if (how !== 'read') this.#endpoint.sender.flushEnded()
  }

  /** Lets pending operations keep the process alive, as they do by default. */
  ref(): this {
    if (!this.#moved) this.#endpoint.referenced = true
    return this
  }

  /** Lets the process end while operations are pending. */
  unref(): this {
    if (!this.#moved) this.#endpoint.referenced = false
    return this
  }

  /**
   * Releases the socket without closing it. Pending operations reject with ERR_SOCKET_CLOSED.
   *
   * @returns the descriptor's number, which the caller owns; in its original blocking mode, and close-on-exec
   * @throws ERR_SOCKET_NOT_EMPTY while the socket holds messages that an iteration received ahead; ERR_SOCKET_CLOSED
   */
  release(): number {
    return UnixSocket.#leave(this).release()
  }

  /** Returns the handle of a socket that gives its descriptor up. */
  static #leave(socket: UnixSocket): Endpoint {
    const endpoint = UnixSocket.#unframed(socket)
    if (endpoint.receiver.held > 0) throw socketNotEmpty(`${endpoint.receiver.held} messages`)
    unused.unregister(endpoint)
    return endpoint
  }

  /**
   * Closes the socket and the messages received ahead, at once. Does nothing if the socket is closed.
   *
   * Pending operations reject with ERR_SOCKET_CLOSED; an iteration ends. Pending messages are not sent: await your sends first.
   */
  close(): void {
    if (this.#moved) return
    unused.unregister(this.#endpoint)
    this.#endpoint.close()
    this.#endpoint.framing?.drop()
  }

  /** Closes the socket, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Closes the socket, with close(2), which can block, on the thread pool. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#moved) return
    unused.unregister(this.#endpoint)
    await this.#endpoint.closeLater()
    this.#endpoint.framing?.drop()
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    const state = () => {
      const { type, localAddress, remoteAddress, closed } = this
      if (closed) return { type, state: 'closed' }
      const { fd, framing } = this.#endpoint
      return { fd, type, localAddress, remoteAddress, state: framing === undefined ? 'open' : 'owned by a Channel' }
    }
    return inspected('UnixSocket', state, args)
  }

  /**
   * Returns the number for one call.
   *
   * @hidden
   */
  [borrow](): number {
    const endpoint = UnixSocket.#unframed(this)
    if (endpoint.receiver.held > 0) throw socketNotEmpty(`${endpoint.receiver.held} messages`)
    return endpoint.fd
  }

  static {
    make = (endpoint) => new UnixSocket(endpoint, constructorKey)
  }

  // Static: a private method would throw without a code on an object that only has this class's prototype.
  static #open(socket: UnixSocket, name = 'socket'): Endpoint {
    if (typeof socket !== 'object' || socket === null || !(#endpoint in socket)) {
      throw invalidType(name, 'an instance of UnixSocket', socket)
    }
    if (socket.#moved || socket.#endpoint.closed) throw socketClosed()
    return socket.#endpoint
  }

  /** Returns the handle of a socket that belongs to no channel: other bytes would corrupt its frames. */
  static #unframed(socket: UnixSocket, name?: string): Endpoint {
    const endpoint = UnixSocket.#open(socket, name)
    if (endpoint.framing !== undefined) throw ownedByChannel()
    return endpoint
  }

  static {
    endpointOf = (name, socket) => UnixSocket.#unframed(socket, name)
    takeSocketFd = (socket) => UnixSocket.#leave(socket).detach()
    moveSocket = (socket) => {
      const endpoint = UnixSocket.#unframed(socket)
      if (endpoint.receiver.waitsForInput || !endpoint.sender.idle) {
        throw invalidState('The socket has pending operations')
      }
      unused.unregister(endpoint)
      socket.#moved = true
      return make(endpoint)
    }
  }

  static #receive<T>(
    socket: UnixSocket,
    options: RecvOptions | undefined,
    defaults: Limits,
    shape: Shape<T>
  ): Promise<T> {
    if (options === undefined) return UnixSocket.#unframed(socket).receiver.receive(socket, defaults, shape, undefined)
    const limits = limitsOf(optionsOf(options), defaults)
    const signal = signalOf(options)
    return UnixSocket.#unframed(socket).receiver.receive(socket, limits, shape, signal)
  }
}

function isRequired(options: RecvFdOptions): boolean {
  return boolean('options.required', optionsOf(options)!.required ?? false)
}

async function requireFd(receiving: Promise<ReceivedFd | null>): Promise<ReceivedFd> {
  const received = await receiving
  if (received === null) throw endedWithoutFd()
  if (received.fd === null) throw noDescriptor(received.data)
  return received
}

/** Closes sockets that were collected while open. Descriptors that they hold have a finalizer of their own. */
const unused = new FinalizationRegistry<Endpoint>((endpoint) => {
  if (!endpoint.closed) closeUnused('A UnixSocket', endpoint) // otherwise its channel has closed it
})

/** Wraps a socket that the native side owns. `onEnd` is called when it is closed or released. */
export function openSocket(fd: number, type: SocketType, takesFds = true, onEnd?: () => void): UnixSocket {
  const endpoint = new Endpoint(fd, type, takesFds)
  endpoint.onEnd = onEnd
  return make(endpoint)
}

function limitsOf(options: RecvOptions | undefined, defaults: Limits): Limits {
  const { maxBytes = defaults.maxBytes, maxFds } = options ?? {}
  return {
    maxBytes: integer('options.maxBytes', maxBytes, 1, MAX_INT),
    maxFds:
      defaults === oneFd || maxFds === undefined
        ? defaults.maxFds
        : Math.min(integer('options.maxFds', maxFds, 0, MAX_INT), MAX_RECEIVED_FDS)
  }
}

/**
 * Sends one descriptor: UNP's write_fd. See {@link UnixSocket.sendFd}.
 *
 * @param socket the socket to send through
 * @param fd the descriptor, which stays the caller's and open
 * @param data the bytes that carry it (default: one zero byte)
 * @param options `signal`
 * @returns the promise of {@link UnixSocket.sendFd}
 *
 * @example
 * ```js
 * import { open } from 'node:fs/promises'
 * import { recvFd, sendFd, socketpair } from 'fdpass'
 *
 * const [socket, peer] = socketpair() // usually the other end is in another process
 * const file = await open(import.meta.filename)
 * await sendFd(socket, file, 'a file')
 * await file.close() // the message has its own reference
 * const { fd, data } = await recvFd(peer, { required: true })
 * console.log(fd.kind, String(data)) // file a file
 * fd.closeSync()
 * ```
 */
export function sendFd(socket: UnixSocket, fd: FdSource, data?: Bytes, options?: Abortable): Promise<void> {
  return socket instanceof UnixSocket ? socket.sendFd(fd, data, options) : notASocket(socket)
}

/**
 * Receives at most one descriptor: UNP's read_fd. See {@link UnixSocket.recvFd}.
 *
 * @param socket the socket to receive from
 * @param options `maxBytes`, `required`, `signal`
 * @returns the promise of {@link UnixSocket.recvFd}
 *
 * @example
 * ```js
 * import { recvFd, socketpair } from 'fdpass'
 *
 * const [socket, peer] = socketpair()
 * await peer.send('bytes alone')
 * peer.close()
 * const first = await recvFd(socket)
 * console.log(first.fd, String(first.data)) // null bytes alone
 * console.log(await recvFd(socket)) // null
 * socket.close()
 * ```
 */
export function recvFd(socket: UnixSocket, options: RecvFdOptions & { required: true }): Promise<RequiredFd>
export function recvFd(socket: UnixSocket, options?: RecvFdOptions): Promise<ReceivedFd | null>
export function recvFd(socket: UnixSocket, options?: RecvFdOptions): Promise<ReceivedFd | null> {
  return socket instanceof UnixSocket ? socket.recvFd(options) : notASocket(socket)
}

function notASocket(socket: unknown): Promise<never> {
  return Promise.reject(
    isSupported ? invalidType('socket', 'an instance of UnixSocket', socket) : unsupportedPlatform(loadFailure)
  )
}
