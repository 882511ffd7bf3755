import type { Socket } from 'node:net'
import { type Address, addressOf, localAddressOf, remoteAddressOf } from '../address/unix-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { type Bytes, MAX_INT, bytesOf, integer, optionsOf } from '../base/validate.ts'
import { type AncillaryOptions, type Credentials, ancillaryOf, claimOf } from './credentials.ts'
import { Descriptor, adopt, closeQuietly, takeFd, wrapFd } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { Endpoint, type SocketType } from './endpoint.ts'
import { carrierMissing, inChannel, socketClosed, socketNotEmpty } from './errors.ts'
import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { borrow } from '../descriptor/borrow.ts'
import { type FdSource, putFd, putFds } from '../descriptor/fd-source.ts'
import { Iteration, end } from '../base/async-iterator.ts'
import { type Message, ReceivedFd } from './message.ts'
import { MAX_RECEIVED_FDS } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { duplicateOf, isNetSocket } from '../descriptor/node-internals.ts'
import { peerOf } from './peer.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type Limits, type Shape, defaultLimits } from './receiver.ts'
import { warnOnce } from '../base/warnings.ts'
import { enableAncillary, connectedType } from './new-socket.ts'

/** Options of {@link UnixSocket.send}. */
export interface SendOptions extends Abortable {
  /** What goes with the first byte, at most 253; each stays the caller's. */
  fds?: readonly FdSource[] | null | undefined
  /**
   * Where a datagram goes; without it to the socket's peer. If the receiver's queue is full, the message is tried again
   * after pauses, as no event tells when there is room; messages to other addresses do not wait for it.
   */
  to?: Address | undefined
  /**
   * The credentials that a receiver gets who asks for them: `true` for this process's own, with the real user and group.
   * The kernel refuses others with `EPERM`, except from root. It gives a receiver who asks the true ones in any case.
   */
  credentials?: true | Credentials | undefined
}

/** Options of {@link UnixSocket.recv} and {@link UnixSocket.messages}. */
export interface RecvOptions extends Abortable {
  /** The most bytes to take, at least 1 (default 65,536). A longer datagram or packet is cut. */
  maxBytes?: number | undefined
  /** The most descriptors to take (default: the platform's limit); a message with more is refused as a whole. */
  maxFds?: number | undefined
}

/** Options of {@link UnixSocket.recvFd}. */
export interface RecvFdOptions extends Abortable {
  /** The most bytes to take, at least 1 (default 65,536). A longer datagram or packet is cut. */
  maxBytes?: number | undefined
}

type Result = IteratorResult<Message, undefined>

/** The byte that carries a descriptor where nobody says which (UNP's write_fd). */
const CARRIER = Uint8Array.of(0)

const oneFd: Limits = { ...defaultLimits, maxFds: 1 }

const directions = new Set(['read', 'write', 'both'])

const made = Symbol('made')

/** The handle of a socket that is open and no channel's; throws otherwise. The class sets it: it reaches its private field. */
export let endpointOf: (name: string, socket: UnixSocket) => Endpoint

const toMessage: Shape<Message | null> = (message) => message

const toReceivedFd: Shape<ReceivedFd | null> = Object.assign(
  (message: Message | null) => (message === null ? null : toReceived(message)),
  { plain: (data: Uint8Array, fd: Descriptor | null) => new ReceivedFd(fd, data) }
)

/** The end of the connection ends an iteration, and so does this side's close. */
const toResult: Shape<Result> = Object.assign(
  (message: Message | null): Result => (message === null ? end : { done: false, value: message }),
  { ahead: true, closed: () => end }
)

function toReceived(message: Message): ReceivedFd {
  closeQuietly(message.pidfd) // it has no place in the result
  return new ReceivedFd(message.fds[0] ?? null, message.data)
}

// The class sets this: its constructor is private.
let make: (endpoint: Endpoint) => UnixSocket

/**
 * A Unix domain socket, and its handle in the event loop.
 *
 * Operations go out or come in at once where they can and wait otherwise; those of one kind keep their order. A waiting
 * one keeps the process alive, unless {@link UnixSocket.unref} was called. The descriptor is close-on-exec, and its
 * blocking mode, which it may share with other processes, is left as it is: every call passes `MSG_DONTWAIT`.
 */
export class UnixSocket implements AsyncIterable<Message>, AsyncDisposable, Disposable {
  readonly #endpoint: Endpoint

  /** Use {@link socketpair}, {@link connect}, {@link bind} or {@link UnixSocket.from}. */
  private constructor(endpoint: Endpoint, key: typeof made) {
    if (key !== made) throw invalidValue('key', 'is private: use UnixSocket.from(), socketpair(), connect() or bind()')
    this.#endpoint = endpoint
    unused.register(this, endpoint, endpoint)
  }

  /**
   * Take over an open socket: one that was inherited, one that was received, or one of Node's.
   *
   * A number or a Descriptor belongs to the new object from then on. A `net.Socket` is destroyed, and its connection goes on
   * here, under another number. Its handle may have read what was meant for this object, and dropped the descriptors that
   * came with it: call this in the `'connect'` handler, or in the `'connection'` handler of a server with
   * `pauseOnConnect: true`. (Node never closes the descriptor of `process.stdin`, `stdout` and `stderr`: take over 0, 1 or 2
   * itself.) The type is found out.
   *
   * @param source a descriptor's number, a Descriptor, which is closed by this, or a connected `net.Socket`
   * @param options `credentials`, `pidfd`: what to tell with each message. Messages that are already waiting come
   *   with credentials of nobody and without a pidfd
   * @throws `EBADF`, `ENOTSOCK`; `EAFNOSUPPORT` if it is no Unix domain socket; ERR_INVALID_ARG_VALUE if it listens, if fdpass
   *   owns the number already, or if the `net.Socket` is a TLSSocket (its keys would stay behind), is still connecting,
   *   is destroyed or being ended, has read bytes, or has bytes waiting to be written; `ENOPROTOOPT` for an option that the kernel
   *   lacks; ERR_DESCRIPTOR_CLOSED; the source is unchanged then
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
    const type = connectedType(source)
    try {
      enableAncillary(source, ancillary)
    } catch (error) {
      native.release(source)
      throw error
    }
    return openSocket(source, type)
  }

  /** `'stream'`, `'seqpacket'` or `'dgram'`. */
  get type(): SocketType {
    return this.#endpoint.type
  }

  /** Whether this side was closed or released. */
  get closed(): boolean {
    return this.#endpoint.closed
  }

  /** The socket's own address: getsockname(2). Null if it has none, and once it is closed. */
  get localAddress(): Address | null {
    return this.closed ? null : localAddressOf(this.#endpoint.fd)
  }

  /** The peer's address: getpeername(2). Null if it has none, where there is no peer, and once the socket is closed. */
  get remoteAddress(): Address | null {
    return this.closed ? null : remoteAddressOf(this.#endpoint.fd)
  }

  /**
   * Send bytes, and descriptors with the first of them: sendmsg(2).
   *
   * What a descriptor means now is what is sent: it may be closed, and its number used again, as soon as this has
   * returned. On a stream, bytes sent before a message with descriptors may arrive together with it; only frames that
   * count their descriptors keep messages apart.
   *
   * @param data the bytes, unchanged until the promise settles; on a stream at least one with descriptors
   * @param options `fds`, `to`, `credentials`, `signal`
   * @returns resolves when the kernel has taken the whole message. The descriptors stay open here.
   *
   *   Rejects with `EPIPE` or `ECONNRESET` when the peer is gone, `ECONNREFUSED` or `ENOENT` for a datagram that nobody
   *   would receive, `ENOTCONN` without a peer; `EPERM` for credentials that are not the caller's, and where the receiver
   *   refuses descriptors (`SO_PASSRIGHTS`); `EBADF` for a number that is not open (nothing is sent
   *   then), `EMFILE` if it has to wait and the table has no room for duplicates, `EMSGSIZE` for a packet that is too
   *   long; ERR_SOCKET_CLOSED; ERR_OUT_OF_RANGE for more than 253 descriptors; AbortError. An abort before the first byte
   *   sends nothing; after it, the sending side of the stream is shut down.
   */
  send(data: Bytes, options?: SendOptions): Promise<void> {
    try {
      const content = bytesOf(data)
      const signal = signalOf(optionsOf(options))
      const { to, credentials, fds: sources } = options ?? {}
      const claim = claimOf(credentials)
      const name = to === undefined ? undefined : addressOf('options.to', to, 'sendmsg')
      const count = putFds(sources)
      const endpoint = UnixSocket.#free(this) // last, as reading an option can run anything, this socket's close included
      if (name !== undefined && !endpoint.isDatagram) {
        throw invalidValue('options.to', 'is for datagram sockets: this one has a connection')
      }
      if (content.length === 0 && endpoint.isStream) {
        if (count === 0) return Promise.resolve()
        throw carrierMissing('data')
      }
      const sender = name === undefined ? endpoint.sender : endpoint.senderTo(to!, name)
      return sender.send(this, content, count, signal, claim)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receive one message: recvmsg(2).
   *
   * @param options `maxBytes`, `maxFds`, `signal`
   * @returns resolves to the message, whose descriptors are the caller's to close; to null at the end of a stream or
   *   seqpacket connection, and once this side has shut down its reading half. An empty packet is told from the end only while the peer can still send.
   *
   *   Rejects with `ECONNRESET`, once, where the peer closed without reading all (on a stream after what it sent, on a
   *   seqpacket connection before: Linux reports it first); ERR_CONTROL_TRUNCATED,
   *   ERR_TOO_MANY_DESCRIPTORS, ERR_UNEXPECTED_CONTROL where the message's descriptors could not be delivered (they are
   *   closed, its bytes are in `data`); ERR_SOCKET_CLOSED; AbortError, which loses nothing.
   */
  recv(options?: RecvOptions): Promise<Message | null> {
    try {
      return UnixSocket.#receive(this, options, defaultLimits, toMessage)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Send one descriptor: UNP's write_fd.
   *
   * @param fd the descriptor, which stays the caller's and open
   * @param data the bytes that carry it, one zero byte by default
   * @param options `signal`
   * @returns as {@link UnixSocket.send}
   */
  sendFd(fd: FdSource, data: Bytes = CARRIER, options?: Abortable): Promise<void> {
    try {
      const content = bytesOf(data)
      const signal = signalOf(optionsOf(options))
      const count = putFd(fd)
      const { sender, isStream } = UnixSocket.#free(this)
      if (content.length === 0 && isStream) throw carrierMissing('data')
      return sender.send(this, content, count, signal)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receive at most one descriptor: UNP's read_fd.
   *
   * @param options `maxBytes`, `signal`
   * @returns resolves to the bytes and the descriptor, which is the caller's to close, or null in its place where bytes
   *   came without one; to null at the end of the connection. Rejects as {@link UnixSocket.recv}, with
   *   ERR_TOO_MANY_DESCRIPTORS for more than one.
   */
  recvFd(options?: RecvFdOptions): Promise<ReceivedFd | null> {
    try {
      return UnixSocket.#receive(this, options, oneFd, toReceivedFd)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * The messages as they come, until the end of the connection or this side's close.
   *
   * Several may be received at once: at most 64 messages, 250 descriptors, and a quarter of the free descriptor table are
   * held (only a message that carries more than any before it can go beyond, once), and none that would leave no room for
   * a message of `maxFds` descriptors. They belong to the socket: after the iteration is left, the next `recv`, `recvFd` or iteration takes them. An
   * error is thrown as {@link UnixSocket.recv} rejects; a new iteration goes on behind it.
   *
   * @param options `maxBytes`, `maxFds` of each message, `signal` for the whole
   */
  messages(options?: RecvOptions): AsyncIterableIterator<Message, undefined> {
    const limits = limitsOf(optionsOf(options), defaultLimits)
    const signal = signalOf(options)
    const endpoint = this.#endpoint
    if (endpoint.framing !== undefined) throw inChannel()
    return new Iteration(
      endpoint,
      () => UnixSocket.#free(this).receiver.receive(this, limits, toResult, signal),
      signal
    )
  }

  /** {@link UnixSocket.messages} without options. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message, undefined> {
    return this.messages()
  }

  /**
   * Tell who made the other end of the connection: `SO_PEERCRED`, on macOS and FreeBSD `LOCAL_PEERCRED`.
   *
   * The kernel noted it when the peer called connect(2), or listen(2) if it is the server, or when somebody called
   * socketpair(2), who is the peer of both ends. It stays that, whoever holds the socket now: a process that inherited it or
   * was sent it is another. Who sent a message is told by its `credentials`.
   *
   * @throws `ENOTCONN` where nobody is known: on a datagram socket that is not half of a pair; ERR_SOCKET_CLOSED
   */
  peer(): Credentials {
    return peerOf(UnixSocket.#open(this).fd)
  }

  /**
   * Open a pidfd of who made the other end of the connection: `SO_PEERPIDFD`.
   *
   * Unlike the pid that {@link UnixSocket.peer} tells, it cannot come to mean another process.
   *
   * @returns a descriptor, which is the caller's to close
   * @throws `ENOPROTOOPT` before Linux 6.5 and on other systems, and never a descriptor made from the pid instead;
   *   `ESRCH` or `EINVAL` where that process is gone and the kernel cannot name it; `ENODATA` where nobody is known;
   *   ERR_SOCKET_CLOSED
   */
  peerPidfd(): Descriptor {
    const code = native.peerPidfd(UnixSocket.#open(this).fd)
    if (code < 0) throw systemError(code, 'getsockopt')
    return wrapFd(code)
  }

  /**
   * End a half of the connection: shutdown(2).
   *
   * @param how `'write'`: the peer sees the end; `'read'`: nothing more is received; `'both'` (default)
   * @throws `ENOTCONN`; ERR_SOCKET_CLOSED
   */
  shutdown(how: 'read' | 'write' | 'both' = 'both'): void {
    if (!directions.has(how)) throw invalidValue('how', "must be 'read', 'write' or 'both'")
    const code = native.shutdown(UnixSocket.#free(this).fd, how)
    if (code < 0) throw systemError(code, 'shutdown')
    if (how !== 'read') this.#endpoint.sender.flushEnded()
  }

  /** Let operations that wait keep the process alive, as they do at first. */
  ref(): this {
    this.#endpoint.referenced = true
    return this
  }

  /** Let the process end although operations wait. */
  unref(): this {
    this.#endpoint.referenced = false
    return this
  }

  /**
   * Give the socket up without closing it. What waits rejects with ERR_SOCKET_CLOSED.
   *
   * @returns its number, which the caller has to close; in the blocking mode in which it came, and close-on-exec
   * @throws ERR_SOCKET_NOT_EMPTY while it holds messages that an iteration received ahead; ERR_SOCKET_CLOSED
   */
  release(): number {
    const endpoint = UnixSocket.#free(this)
    if (endpoint.receiver.held > 0) throw socketNotEmpty(`${endpoint.receiver.held} messages`)
    unused.unregister(endpoint)
    return endpoint.release()
  }

  /**
   * Close the socket, and what it holds that was received ahead, at once; nothing happens if it already is.
   *
   * What waits rejects with ERR_SOCKET_CLOSED; an iteration ends. A message that has not gone out is not sent: await your
   * sends first.
   */
  close(): void {
    unused.unregister(this.#endpoint)
    this.#endpoint.close()
    this.#endpoint.framing?.drop()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** As {@link UnixSocket.close}, with the closing of descriptors, which can block, on the thread pool. */
  async [Symbol.asyncDispose](): Promise<void> {
    unused.unregister(this.#endpoint)
    await this.#endpoint.closeLater()
    this.#endpoint.framing?.drop()
  }

  /**
   * Returns the number for one call.
   *
   * @hidden
   */
  [borrow](): number {
    return UnixSocket.#open(this).fd
  }

  static {
    make = (endpoint) => new UnixSocket(endpoint, made)
  }

  // Static, because a private method fails without a code on an object that only has this class's prototype.
  static #open(socket: UnixSocket, name = 'socket'): Endpoint {
    if (typeof socket !== 'object' || socket === null || !(#endpoint in socket)) {
      throw invalidType(name, 'an instance of UnixSocket', socket)
    }
    if (socket.#endpoint.closed) throw socketClosed()
    return socket.#endpoint
  }

  /** As `#open`, of a socket that is no channel's: other bytes would get between its frames. */
  static #free(socket: UnixSocket, name?: string): Endpoint {
    const endpoint = UnixSocket.#open(socket, name)
    if (endpoint.framing !== undefined) throw inChannel()
    return endpoint
  }

  static {
    endpointOf = (name, socket) => UnixSocket.#free(socket, name)
  }

  static #receive<T>(
    socket: UnixSocket,
    options: RecvOptions | undefined,
    defaults: Limits,
    shape: Shape<T>
  ): Promise<T> {
    if (options === undefined) return UnixSocket.#free(socket).receiver.receive(socket, defaults, shape, undefined)
    const limits = limitsOf(optionsOf(options), defaults)
    const signal = signalOf(options)
    return UnixSocket.#free(socket).receiver.receive(socket, limits, shape, signal)
  }
}

/** Closes sockets that nobody uses any more. Descriptors they hold are found by their own finalizer. */
const unused = new FinalizationRegistry<Endpoint>((endpoint) => {
  if (endpoint.closed) return // by its channel, at the end
  endpoint.close()
  warnOnce('A UnixSocket was garbage-collected while it was open, and was closed', endpoint.fd)
})

/** Makes the object for a socket that the native side owns. */
export function openSocket(fd: number, type: SocketType, takesFds = true): UnixSocket {
  return make(new Endpoint(fd, type, takesFds))
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
