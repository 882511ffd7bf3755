import type { Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import type { ReadStream, WriteStream } from 'node:fs'
import type { AddressInfo, Server, ServerOpts, Socket, SocketConstructorOpts } from 'node:net'
import { type Address, localAddressOf } from '../address/unix-address.ts'
import { boolean, MAX_INT, integer } from '../base/validate.ts'
import * as cast from './casts.ts'
import { descriptorClosed } from './errors.ts'
import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { borrow } from './borrow.ts'
import { internetAddressOf } from '../address/internet-address.ts'
import { type Kind, kindOf } from './kind.ts'
import { fds } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import {
  type LeakWatch,
  cancelRegistration,
  endWatch,
  registerLater,
  setRegistration,
  watchForLeak
} from './leak-detector.ts'
import { type Seal, addSeals, sealsOf } from './seals.ts'
import { closeFds, closeFdsLater } from '../native/owned-fds.ts'

const made = Symbol('made')
const CLOSED = -1

// The class sets these: they reach its private members.
/** Takes the number out of a descriptor, which is closed from then on; throws if it already was. */
export let takeFd: (descriptor: Descriptor) => number
/** Takes the numbers out of those descriptors that are still open. */
export let takeFds: (descriptors: readonly Descriptor[]) => number[]
let make: (fd: number) => Descriptor

/**
 * An open descriptor that belongs to this program until it is closed, released, or given to something else.
 *
 * It is close-on-exec. Close it as soon as you are done: one that the garbage collector finds open is closed with a
 * process warning, long after, or not at all if `fd` was ever read.
 */
export class Descriptor implements Disposable, AsyncDisposable {
  #fd: number
  /** Its position among the pending registrations, until it is registered. */
  readonly #position: number
  /** What the finalizer knows of it, once it is registered. */
  #watch: LeakWatch | undefined
  #read = false
  #kind: Kind | undefined

  /** Use {@link Descriptor.from}. */
  private constructor(fd: number, key: typeof made) {
    if (key !== made) throw invalidValue('key', 'is private: use Descriptor.from()')
    this.#fd = fd
    this.#position = registerLater(this)
  }

  /**
   * Take over an open descriptor by its number, and make it close-on-exec.
   *
   * The number is this object's from now on: nothing else in the program may close it. (At the end of a Worker Node closes
   * every number that `fs.open` gave there, even one that is in use again by then: start such a Worker with
   * `trackUnmanagedFds: false`.)
   *
   * @param fd an open descriptor's number
   * @throws `EBADF` if it is not open; ERR_INVALID_ARG_VALUE if fdpass already owns it; ERR_INVALID_ARG_TYPE and
   *   ERR_OUT_OF_RANGE for what is no descriptor's number
   */
  static from(fd: number): Descriptor {
    openReactor()
    integer('fd', fd, 0, MAX_INT)
    adopt('fd', fd)
    return wrapFd(fd)
  }

  /**
   * The number, for calls that take one. It stays this object's: do not close it by number.
   *
   * @throws ERR_DESCRIPTOR_CLOSED after `close`, `closeSync`, `release`, or once something else took it over
   */
  get fd(): number {
    const fd = this[borrow]()
    this.#read = true
    if (this.#watch !== undefined) this.#watch.read = true
    return fd
  }

  /**
   * What it is, as the kernel tells: fstat(2), getsockopt(2), and on Linux the links of /proc/self/fd. It is found out once.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get kind(): Kind {
    const fd = this[borrow]()
    return (this.#kind ??= kindOf(fd))
  }

  /**
   * A socket's own address: getsockname(2). As a server's `address()` tells it: an object for TCP and UDP, a string for a Unix
   * domain socket with a name; null otherwise.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get address(): AddressInfo | Address | null {
    const fd = this[borrow]()
    return typeof native.socketType(fd) === 'string' ? localAddressOf(fd) : internetAddressOf(fd)
  }

  /**
   * The seals of a memfd; a file of a tmpfs has `'seal'`, and anything else none. Whoever reads memory that was passed should look for `'shrink'`, and for
   * `'write'` if it must not change meanwhile.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get seals(): readonly Seal[] {
    return sealsOf(this[borrow]())
  }

  /**
   * Seal a memfd, for ever and for all who have it: `fcntl(F_ADD_SEALS)`.
   *
   * @param seals what nobody can do to it any more
   * @throws `EPERM` where it is sealed against further seals, or was opened for reading only; `EBUSY` for `'write'` while somebody
   *   has mapped it for writing; `EINVAL` of what is no memfd; ERR_DESCRIPTOR_CLOSED
   */
  seal(seals: readonly Seal[]): void {
    addSeals(this[borrow](), seals)
  }

  /**
   * Switch blocking mode on or off: `O_NONBLOCK`.
   *
   * It belongs to the open file description: everybody who has it sees the change, the sender included.
   *
   * @param blocking whether calls on it wait
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  setBlocking(blocking: boolean): void {
    boolean('blocking', blocking)
    const code = native.setBlocking(this[borrow](), blocking)
    if (code < 0) throw systemError(code, 'fcntl')
  }

  /**
   * A second descriptor of the same open file description, which shares offset and status flags: `F_DUPFD_CLOEXEC`.
   *
   * @returns the duplicate, which is to be closed by itself
   * @throws `EMFILE` if the descriptor table is full; ERR_DESCRIPTOR_CLOSED
   */
  duplicate(): Descriptor {
    fds[0] = this[borrow]()
    const code = native.duplicate(1)
    if (code < 0) throw systemError(code, 'fcntl')
    return wrapFd(fds[0]!)
  }

  /**
   * Give the descriptor up without closing it.
   *
   * @returns its number, which the caller has to close, and which is close-on-exec
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  release(): number {
    const fd = takeFd(this)
    native.release(fd)
    return fd
  }

  /**
   * Make it a `net.Socket`: a TCP connection, a Unix domain stream, a pipe's end (readable or writable as it was opened), or a
   * terminal (`tty.ReadStream`, or `tty.WriteStream` where it can only be written to).
   *
   * Node switches it to non-blocking mode, which is the sender's too, except for a terminal, which it opens anew. A Unix domain
   * socket's descriptors are dropped by Node: for those, {@link Descriptor.toUnixSocket}.
   *
   * @param options `allowHalfOpen`, `signal`, `onread`, …, as of `new net.Socket()`
   * @returns the socket, which closes the descriptor from now on
   * @throws ERR_INVALID_FD_TYPE for another kind, and for what was opened with `O_PATH`; ERR_DESCRIPTOR_CLOSED; the descriptor is
   *   unchanged then
   */
  toSocket(options?: SocketConstructorOpts): Socket {
    const socket = cast.toSocket(this[borrow](), options)
    takeFd(this)
    return socket
  }

  /**
   * Make it a `net.Server`: a TCP or Unix domain stream socket that listens. Node switches it to non-blocking mode, which is the
   * sender's too, and its backlog to 511.
   *
   * @param options `allowHalfOpen`, `pauseOnConnect`, …, as of `net.createServer()`
   * @returns resolves to the server, which listens, and closes the descriptor from now on
   *
   *   Rejects with ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED; the descriptor is unchanged then.
   */
  async toServer(options?: ServerOpts): Promise<Server> {
    const server = cast.toServer(this[borrow](), options)
    if (!server.listening) await once(server, 'listening') // it has failed
    native.release(takeFd(this))
    return server
  }

  /**
   * Make it a `dgram.Socket`: a UDP socket. It is bound already: messages come from the next turn on. One that has a peer sends
   * to it.
   *
   * @returns the socket, which closes the descriptor from now on
   * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED; the descriptor is unchanged then
   */
  toDatagramSocket(): DatagramSocket {
    const socket = cast.toDatagramSocket(this[borrow]())
    takeFd(this)
    return socket
  }

  /**
   * Make it an `fs.ReadStream`: a file, memory or a device, opened for reading.
   *
   * @param options `start`, as the offset is shared with the sender, who may have left it at the end; `highWaterMark`
   * @returns the stream, which closes the descriptor from now on
   * @throws ERR_INVALID_FD_TYPE for another kind (a pipe's end is one for {@link Descriptor.toSocket}); ERR_DESCRIPTOR_CLOSED; the
   *   descriptor is unchanged then
   */
  toReadStream(options?: cast.FileStreamOptions): ReadStream {
    const stream = cast.toReadStream(this[borrow](), options)
    takeFd(this)
    return stream
  }

  /**
   * Make it an `fs.WriteStream`: a file, memory or a device, opened for writing.
   *
   * @param options `start`, as the offset is shared with the sender; `highWaterMark`
   * @returns the stream, which closes the descriptor from now on
   * @throws as {@link Descriptor.toReadStream}
   */
  toWriteStream(options?: cast.FileStreamOptions): WriteStream {
    const stream = cast.toWriteStream(this[borrow](), options)
    takeFd(this)
    return stream
  }

  /**
   * Close the descriptor on the thread pool: close(2) can block for as long as a network file system's server does.
   *
   * @returns resolves when it is closed, at once if it already was; rejects with what close(2) reports, such as `EIO` for
   *   a write that failed late. It is closed all the same.
   */
  async close(): Promise<void> {
    if (this.#fd === CLOSED) return
    const code = await closeFdsLater([takeFd(this)])
    if (code < 0) throw systemError(code, 'close')
  }

  /**
   * Close the descriptor before the call returns; nothing happens if it already is.
   *
   * @throws what close(2) reports; it is closed all the same
   */
  closeSync(): void {
    if (this.#fd === CLOSED) return
    const code = native.close(takeFd(this))
    if (code < 0) throw systemError(code, 'close')
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.closeSync()
  }

  /** Close on the thread pool, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /**
   * Returns the number for one call.
   *
   * @hidden
   */
  [borrow](): number {
    if (!(#fd in this)) throw invalidType('fd', 'an instance of Descriptor', this)
    if (this.#fd === CLOSED) throw descriptorClosed()
    return this.#fd
  }

  static {
    setRegistration((object) => {
      const descriptor = object as Descriptor
      descriptor.#watch = watchForLeak(descriptor, descriptor.#fd, descriptor.#read)
    })
    make = (fd) => new Descriptor(fd, made)
    const take = (descriptor: Descriptor): number => {
      const fd = descriptor.#fd
      descriptor.#fd = CLOSED
      if (descriptor.#watch !== undefined) {
        endWatch(descriptor.#watch)
        descriptor.#watch = undefined
      } else {
        cancelRegistration(descriptor.#position)
      }
      return fd
    }
    takeFd = (descriptor) => {
      descriptor[borrow]() // it is one, and open
      return take(descriptor)
    }
    takeFds = (descriptors) => {
      const numbers: number[] = []
      for (const descriptor of descriptors) {
        if (descriptor.#fd !== CLOSED) numbers.push(take(descriptor))
      }
      return numbers
    }
  }
}

/** Wraps a number that the native side owns. */
export function wrapFd(fd: number): Descriptor {
  return make(fd)
}

/** Closes a descriptor that nobody gets, if there is one: what close(2) reports of it is nobody's. */
export function closeQuietly(descriptor: Descriptor | undefined): void {
  if (descriptor !== undefined) closeFds(takeFds([descriptor]))
}

/** Hands a number of the process to the native side. */
export function adopt(name: string, fd: number): void {
  const code = native.adopt(fd)
  if (code === 0) return
  const error = systemError(code, 'fcntl')
  throw error.code === 'EEXIST' ? invalidValue(name, `is already owned by fdpass: ${fd}`) : error
}
