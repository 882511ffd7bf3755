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
import { closeFds, closeFdsLater, duplicateFd } from '../native/owned-fds.ts'

const made = Symbol('made')
const CLOSED = -1

// The class sets these: they reach its private members.
/** Takes the number out of a descriptor, which is closed from then on; throws ERR_DESCRIPTOR_CLOSED if it is closed. */
export let takeFd: (descriptor: Descriptor) => number
/** Takes the numbers out of all descriptors that are open. */
export let takeFds: (descriptors: readonly Descriptor[]) => number[]
let make: (fd: number) => Descriptor

/**
 * An open descriptor that this object owns until it is closed, released or cast.
 *
 * It is close-on-exec. Close it as soon as you are done: the garbage collector closes an open one late, with a process warning, and not at
 * all if `fd` was ever read.
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
   * Takes over an open descriptor by its number, and makes it close-on-exec.
   *
   * The object owns the number from now on: nothing else in the program may close it. (At the end of a Worker, Node closes every number
   * that `fs.open` returned there, even if it was reused: start such a Worker with `trackUnmanagedFds: false`.)
   *
   * @param fd the number of an open descriptor
   * @throws `EBADF` if it is not open; ERR_INVALID_ARG_VALUE if fdpass owns it already; ERR_INVALID_ARG_TYPE and ERR_OUT_OF_RANGE for a
   *   value that is no descriptor's number
   */
  static from(fd: number): Descriptor {
    openReactor()
    integer('fd', fd, 0, MAX_INT)
    adopt('fd', fd)
    return wrapFd(fd)
  }

  /**
   * The number, for calls that take one. The object still owns it: do not close it by number.
   *
   * @throws ERR_DESCRIPTOR_CLOSED after `close`, `closeSync`, `release` or a cast
   */
  get fd(): number {
    const fd = this[borrow]()
    this.#read = true
    if (this.#watch !== undefined) this.#watch.read = true
    return fd
  }

  /**
   * The kind of the descriptor: detected once by fstat(2), getsockopt(2), and on Linux the links of /proc/self/fd.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get kind(): Kind {
    const fd = this[borrow]()
    return (this.#kind ??= kindOf(fd))
  }

  /**
   * A socket's own address: getsockname(2). As returned by `address()` of a server: an object for TCP and UDP, a string for a Unix domain
   * socket with an address; null otherwise.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get address(): AddressInfo | Address | null {
    const fd = this[borrow]()
    return typeof native.socketType(fd) === 'string' ? localAddressOf(fd) : internetAddressOf(fd)
  }

  /**
   * The seals of a memfd; `['seal']` for a file of a tmpfs, and none for anything else. Check received memory for `'shrink'` before reading it,
   * and for `'write'` if it must not change.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get seals(): readonly Seal[] {
    return sealsOf(this[borrow]())
  }

  /**
   * Seals a memfd permanently, for every process: `fcntl(F_ADD_SEALS)`.
   *
   * @param seals the operations to forbid
   * @throws `EPERM` if it has the seal `'seal'`, or was opened for reading only; `EBUSY` for `'write'` while a process has a writable
   *   mapping; `EINVAL` for a descriptor that is no memfd; ERR_DESCRIPTOR_CLOSED
   */
  seal(seals: readonly Seal[]): void {
    addSeals(this[borrow](), seals)
  }

  /**
   * Switches blocking mode on or off: `O_NONBLOCK`.
   *
   * The mode belongs to the open file description: it changes for every process that has it, including the sender.
   *
   * @param blocking whether calls on the descriptor wait
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  setBlocking(blocking: boolean): void {
    boolean('blocking', blocking)
    const code = native.setBlocking(this[borrow](), blocking)
    if (code < 0) throw systemError(code, 'fcntl')
  }

  /**
   * Duplicates the descriptor: `F_DUPFD_CLOEXEC`. Both share the open file description, with its offset and status flags.
   *
   * @returns the duplicate, which the caller owns
   * @throws `EMFILE` if the descriptor table is full; ERR_DESCRIPTOR_CLOSED
   */
  duplicate(): Descriptor {
    return wrapFd(duplicateFd(this[borrow]()))
  }

  /**
   * Releases the descriptor without closing it.
   *
   * @returns the number, which the caller owns, and which is close-on-exec
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  release(): number {
    const fd = takeFd(this)
    native.release(fd)
    return fd
  }

  /**
   * Casts to a `net.Socket`: a TCP connection, a Unix domain stream, an end of a pipe (readable or writable as it was opened), or a
   * terminal (`tty.ReadStream`, or `tty.WriteStream` if it can only be written to).
   *
   * Node switches the open file description to non-blocking mode, also for the sender, except for a terminal, which Node opens anew. Node
   * drops descriptors that arrive on a Unix domain socket: use {@link Descriptor.toUnixSocket} to receive them.
   *
   * @param options options of `new net.Socket()`: `allowHalfOpen`, `signal`, `onread`, …
   * @returns the socket, which owns the descriptor from now on and closes it
   * @throws ERR_INVALID_FD_TYPE for another kind, and for a descriptor opened with `O_PATH`; ERR_DESCRIPTOR_CLOSED. The descriptor is
   *   unchanged then.
   */
  toSocket(options?: SocketConstructorOpts): Socket {
    const socket = cast.toSocket(this[borrow](), options)
    takeFd(this)
    return socket
  }

  /**
   * Casts to a `net.Server`: a listening TCP or Unix domain stream socket. Node switches the open file description to non-blocking mode, also
   * for the sender, and sets the backlog to 511.
   *
   * @param options options of `net.createServer()`: `allowHalfOpen`, `pauseOnConnect`, …
   * @returns resolves to the listening server, which owns the descriptor from now on and closes it
   *
   *   Rejects with ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED. The descriptor is unchanged then.
   */
  async toServer(options?: ServerOpts): Promise<Server> {
    const server = cast.toServer(this[borrow](), options)
    if (!server.listening) await once(server, 'listening') // it has failed
    native.release(takeFd(this))
    return server
  }

  /**
   * Casts to a `dgram.Socket`: a UDP socket. It is bound: messages arrive from the next tick on. If it has a peer, it sends to it.
   *
   * @returns the socket, which owns the descriptor from now on and closes it
   * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED. The descriptor is unchanged then.
   */
  toDatagramSocket(): DatagramSocket {
    const socket = cast.toDatagramSocket(this[borrow]())
    takeFd(this)
    return socket
  }

  /**
   * Casts to an `fs.ReadStream`: a file, memory or a device, opened for reading.
   *
   * @param options `start`, because the offset is shared with the sender, which may have left it at the end; `highWaterMark`
   * @returns the stream, which owns the descriptor from now on and closes it
   * @throws ERR_INVALID_FD_TYPE for another kind (for an end of a pipe use {@link Descriptor.toSocket}); ERR_DESCRIPTOR_CLOSED. The
   *   descriptor is unchanged then.
   */
  toReadStream(options?: cast.FileStreamOptions): ReadStream {
    const stream = cast.toReadStream(this[borrow](), options)
    takeFd(this)
    return stream
  }

  /**
   * Casts to an `fs.WriteStream`: a file, memory or a device, opened for writing.
   *
   * @param options `start`, because the offset is shared with the sender; `highWaterMark`
   * @returns the stream, which owns the descriptor from now on and closes it
   * @throws the errors of {@link Descriptor.toReadStream}
   */
  toWriteStream(options?: cast.FileStreamOptions): WriteStream {
    const stream = cast.toWriteStream(this[borrow](), options)
    takeFd(this)
    return stream
  }

  /**
   * Closes the descriptor on the thread pool: close(2) can block while the server of a network file system does not answer.
   *
   * @returns resolves when it is closed, at once if it is closed already. Rejects with the error of close(2), such as `EIO` for a write that
   *   failed late; the descriptor is closed in any case.
   */
  async close(): Promise<void> {
    if (this.#fd === CLOSED) return
    const code = await closeFdsLater([takeFd(this)])
    if (code < 0) throw systemError(code, 'close')
  }

  /**
   * Closes the descriptor before the call returns. Does nothing if it is closed.
   *
   * @throws the error of close(2); the descriptor is closed in any case
   */
  closeSync(): void {
    if (this.#fd === CLOSED) return
    const code = native.close(takeFd(this))
    if (code < 0) throw systemError(code, 'close')
  }

  /** Closes the descriptor, for `using`. */
  [Symbol.dispose](): void {
    this.closeSync()
  }

  /** Closes the descriptor on the thread pool, for `await using`. */
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

/** Closes a descriptor, if there is one, and ignores the error of close(2): no caller would expect it. */
export function closeQuietly(descriptor: Descriptor | undefined): void {
  if (descriptor !== undefined) closeFds(takeFds([descriptor]))
}

/** Lets the native side own a number of the process. */
export function adopt(name: string, fd: number): void {
  const code = native.adopt(fd)
  if (code === 0) return
  const error = systemError(code, 'fcntl')
  throw error.code === 'EEXIST' ? invalidValue(name, `is already owned by fdpass: ${fd}`) : error
}
