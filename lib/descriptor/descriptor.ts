import type { Socket as DatagramSocket } from 'node:dgram'
import { constants } from 'node:buffer'
import type { ReadStream, WriteStream } from 'node:fs'
import type { AddressInfo, Server, ServerOpts, Socket, SocketConstructorOpts } from 'node:net'
import { type Address, addressOfSocket } from '../address/socket-address.ts'
import { type Abortable, signalOf } from '../base/abort.ts'
import { type Bytes, bigInteger, boolean, bytesOf, MAX_INT, integer, optionsOf } from '../base/validate.ts'
import * as cast from './casts.ts'
import { descriptorClosed } from './casts.ts'
import { invalidType, invalidValue } from '../base/errors.ts'
import { type InspectionArguments, inspected, inspection, uncloneable } from '../base/inspection.ts'
import { systemError } from '../native/system-error.ts'
import { borrow } from './fd-source.ts'
import { type DescriptorIo, type Position, openIo } from './io.ts'
import { type Kind, kindOf, type Seal, addSeals, sealsOf } from './kind.ts'
import { native } from '../native/binding.ts'
import { READABLE, WRITABLE } from '../native/codes.ts'
import { openReactor, setAfterOpen } from '../event-loop/reactor.ts'
import { isReadAsStdin, parentChannel, takeFromDeno } from './node-internals.ts'
import {
  type LeakWatch,
  cancelRegistration,
  endWatch,
  registerLater,
  setRegistration,
  watchForLeak
} from './leak-detector.ts'
import { closeFds, closeFdsLater, duplicateFd } from '../native/owned-fds.ts'

const constructorKey = Symbol('constructorKey')
const CLOSED = -1

/** The default `maxBytes` of a read. */
const DEFAULT_MAX_BYTES = 65_536
/** The last position in a file: off_t has 63 bits. */
const MAX_POSITION = 2n ** 63n - 1n

/** Options of {@link Descriptor.read}. */
export interface ReadOptions extends Abortable {
  /** The maximum number of bytes, 1 to 2,147,483,647 (default 65,536). */
  maxBytes?: number | undefined
  /** The first byte, as an offset into the file: pread(2) (default: the offset shared with the sender, which the read moves). */
  position?: number | bigint | undefined
}

/** Options of {@link Descriptor.write}. */
export interface WriteOptions extends Abortable {
  /** The first byte, as an offset into the file: pwrite(2) (default: the offset shared with the sender, which the write moves). */
  position?: number | bigint | undefined
}

/** Options of {@link Descriptor.bytes} and {@link Descriptor.text}. */
export interface BytesOptions extends Abortable {
  /** The first byte, as an offset into the file (default: the offset shared with the sender, which the read moves). */
  start?: number | bigint | undefined
  /** The maximum number of bytes; those after them stay unread (default: no limit but memory). */
  maxBytes?: number | undefined
}

/** The operations of those descriptors that were read, written or polled. Not a field: most are received, passed on and closed. */
const operations = new WeakMap<Descriptor, DescriptorIo>()
/** The number of operations that were added and not removed. */
let operationCount = 0

// The class sets these: they reach its private members.
/** Takes the number out of a descriptor, which is closed from then on; throws ERR_DESCRIPTOR_CLOSED if it is closed. */
export let takeFd: (descriptor: Descriptor) => number
/** Takes the numbers out of all descriptors that are open. */
export let takeFds: (descriptors: readonly Descriptor[]) => number[]
let make: (fd: number) => Descriptor

/** The casts that rooms above this one add to {@link Descriptor}. */
export interface DescriptorCasts {}

// Rooms above add to DescriptorCasts, not to the class: TypeScript 6 loses the members of a class with computed names if another module adds
// to it and only some files are checked.
// oxlint-disable-next-line typescript/no-unsafe-declaration-merging
export interface Descriptor extends DescriptorCasts {}

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
  /** @internal */
  protected readonly uncloneable = uncloneable

  /** Use {@link Descriptor.from}. */
  private constructor(fd: number, key: typeof constructorKey) {
    if (key !== constructorKey) throw invalidValue('key', 'is private: use Descriptor.from()')
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
   * @throws `EBADF` if it is not open; ERR_INVALID_ARG_VALUE if fdpass owns it already, in any thread of the process, or if Node uses it: a
   *   socket or server of `node:net` or `node:dgram` that this thread's event loop watches, a `process.stdin` that is being read in this
   *   thread, and the channel to the parent process; on Deno, a file that `node:fs` has opened: send its number instead.
   *   ERR_INVALID_ARG_TYPE and ERR_OUT_OF_RANGE for a value that is no descriptor's number
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
   * The kind of the descriptor: detected once by fstat(2), getsockopt(2), and on Linux the links of /proc/self/fd. A kind that the system
   * refuses to report, `'other'` or `'socket'`, is detected again at the next use.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get kind(): Kind {
    const fd = this[borrow]()
    if (this.#kind !== undefined) return this.#kind
    const kind = kindOf(fd)
    if (kind !== 'other' && kind !== 'socket') this.#kind = kind // the kernel may have refused to report it, and may report it later
    return kind
  }

  /**
   * A socket's own address: getsockname(2). As returned by `address()` of a server: an object for TCP and UDP, a string for a Unix domain
   * socket with an address; null otherwise.
   *
   * @throws ERR_DESCRIPTOR_CLOSED
   */
  get address(): AddressInfo | Address | null {
    return addressOfSocket(this[borrow]())
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
   * Reads: read(2), or pread(2) with `position`.
   *
   * A file, a memfd or a block device is read on the thread pool. Anything else, such as a pipe, a terminal, a socket or an eventfd, is read
   * when the event loop reports that it is readable, without waiting in a system call; the blocking mode, which the sender shares, stays
   * (docs/internals/descriptors.md has the exceptions). Reads resolve in the order of their calls. A read of a Unix domain
   * socket discards descriptors that arrive: use `toUnixSocket()` there.
   *
   * @param options `maxBytes`, `position`, `signal`
   * @returns resolves to at least one byte, or to null at the end of the file or after a hang-up. A datagram or packet is truncated to
   *   `maxBytes`, and an empty datagram is an empty Buffer
   *
   *   Rejects with the error of read(2), such as `EBADF` for a descriptor opened for writing only, or `EISDIR`; `ESPIPE` for a `position` where
   *   there is none; ERR_DESCRIPTOR_CLOSED, also if the descriptor is closed, released or cast meanwhile; AbortError. A read that rejects
   *   with an AbortError has consumed no byte; an abort has no effect on a read of a file that has begun.
   */
  async read(options?: ReadOptions): Promise<Buffer | null> {
    const { maxBytes = DEFAULT_MAX_BYTES, position } = optionsOf(options) ?? {}
    integer('options.maxBytes', maxBytes, 1, MAX_INT)
    const at = positionOf('options.position', position)
    const signal = signalOf(options)
    return operationsOf(this).read(this, maxBytes, at, signal)
  }

  /**
   * Writes all bytes: write(2), or pwrite(2) with `position`, repeated until everything is written. Does so where {@link Descriptor.read}
   * reads. Writes take place in the order of their calls.
   *
   * @param data the bytes, which must not change until the promise settles. A datagram or packet socket sends them as one message
   * @param options `position`, `signal`
   * @returns resolves when the kernel has taken everything
   *
   *   Rejects with the error of write(2), such as `EPIPE` for a pipe without a reader, `ENOSPC`, or `EBADF` for a descriptor opened for reading
   *   only; ERR_DESCRIPTOR_CLOSED; AbortError. The error's `bytesWritten` is the number of bytes that were written before it: after an
   *   abort, the rest is not written. (A file can have up to 1 MiB more of them if it was closed, released or cast meanwhile.)
   */
  async write(data: Bytes, options?: WriteOptions): Promise<void> {
    const content = bytesOf(data)
    const at = positionOf('options.position', optionsOf(options)?.position)
    const signal = signalOf(options)
    return operationsOf(this).write(this, content, at, signal)
  }

  /**
   * Reads until the end of the file, or until the peer closes its end: read(2), or pread(2) with `start`. Other reads wait for it.
   *
   * @param options `start`, because the sender shares the offset and may have left it at the end; `maxBytes`, `signal`
   * @returns resolves to the bytes. Rejects as {@link Descriptor.read}; the error's `data` holds the bytes that were read before it
   */
  async bytes(options?: BytesOptions): Promise<Buffer> {
    const { maxBytes = constants.MAX_LENGTH, start } = optionsOf(options) ?? {}
    integer('options.maxBytes', maxBytes, 1, constants.MAX_LENGTH)
    const at = positionOf('options.start', start)
    const signal = signalOf(options)
    return operationsOf(this).readToEnd(this, maxBytes, at, signal)
  }

  /**
   * Reads as {@link Descriptor.bytes}, and decodes UTF-8. Invalid bytes become U+FFFD.
   *
   * @param options `start`, `maxBytes`, `signal`
   * @returns resolves to the text. Rejects as {@link Descriptor.bytes}
   */
  async text(options?: BytesOptions): Promise<string> {
    return (await this.bytes(options)).toString()
  }

  /**
   * Waits until the descriptor is ready: poll(2), on the event loop. For any descriptor that poll(2) supports: a pidfd is readable when its process
   * has ended, a listener when a connection waits. A file is always ready. An error or a hang-up counts as ready: the next operation reports it.
   *
   * @param event `'read'` or `'write'`
   * @param options `signal`
   * @returns resolves when it is ready. Another reader or writer can be faster. Rejects with ERR_DESCRIPTOR_CLOSED; AbortError
   */
  async poll(event: 'read' | 'write', options?: Abortable): Promise<void> {
    if (event !== 'read' && event !== 'write') throw invalidValue('event', "must be 'read' or 'write'")
    const signal = signalOf(optionsOf(options))
    return operationsOf(this).poll(this, event === 'read' ? READABLE : WRITABLE, signal)
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
   * Casts to a `net.Socket`: a TCP connection, a Unix domain stream, or an end of a pipe (readable or writable as it was opened). A
   * terminal has {@link Descriptor.toTerminal}.
   *
   * Every byte that was sent before a hang-up is delivered, and then `'end'`. (A `net.Socket` that is created otherwise loses bytes: libuv takes
   * a hang-up behind a short read for the end, and a read is short in front of a message with descriptors, a packet of a pipe, or urgent data.)
   * This needs the socket's own reading: with `onread`, and below TLS or an HTTP parser, bytes right before a hang-up can be lost.
   *
   * Node switches the open file description to non-blocking mode, also for the sender; {@link Descriptor.toDuplex} leaves it. Node drops
   * descriptors that arrive on a Unix domain socket: {@link Descriptor.toStream} and {@link Descriptor.toUnixSocket} receive them.
   *
   * @param options options of `new net.Socket()`: `allowHalfOpen`, `signal`, `onread`, …
   * @returns the socket, which owns the descriptor from now on and closes it
   * @throws ERR_INVALID_FD_TYPE for another kind, and for a descriptor opened with `O_PATH`; ERR_DESCRIPTOR_CLOSED; ERR_UNSUPPORTED_PLATFORM
   *   on Bun, except for the writing end of a pipe. The descriptor is unchanged then.
   */
  toSocket(options?: SocketConstructorOpts): Socket {
    return castTo(this, (fd) => cast.toSocket(fd, options))
  }

  /**
   * Casts to a `net.Server`: a listening TCP or Unix domain stream socket. Node switches the open file description to non-blocking mode, also
   * for the sender, and sets the backlog to 511. While the descriptor table is full, Node closes each new connection that it
   * accepts, and no event reports it; connections of {@link Descriptor.toUnixServer} wait in the backlog.
   *
   * @param options options of `net.createServer()`: `allowHalfOpen`, `pauseOnConnect`, …
   * @returns resolves to the listening server, which owns the descriptor from now on and closes it
   *
   *   Rejects with ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED. The descriptor is unchanged then.
   */
  async toServer(options?: ServerOpts): Promise<Server> {
    const pending = operations.get(this)
    pending?.suspend()
    try {
      const fd = this[borrow]()
      const server = cast.serverFor(fd, options)
      const listening = cast.giveToServer(fd, server)
      if (listening !== undefined) await listening
      native.release(takeFd(this))
      return server
    } catch (error) {
      pending?.resume()
      throw error
    }
  }

  /**
   * Casts to a `dgram.Socket`: a UDP socket. It is bound: messages arrive from the next tick on. If it has a peer, it sends to it.
   *
   * @returns the socket, which owns the descriptor from now on and closes it
   * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED; ERR_UNSUPPORTED_PLATFORM on Deno, and on Bun for a socket with a peer.
   *   The descriptor is unchanged then.
   */
  toDatagramSocket(): DatagramSocket {
    return castTo(this, (fd) => cast.toDatagramSocket(fd))
  }

  /**
   * Casts to an `fs.ReadStream`: a file, memory or a device, opened for reading.
   *
   * @param options `start`, because the offset is shared with the sender, which may have left it at the end; `highWaterMark`
   * @returns the stream, which owns the descriptor from now on and closes it
   * @throws ERR_INVALID_FD_TYPE for another kind (for an end of a pipe use {@link Descriptor.toSocket}); ERR_DESCRIPTOR_CLOSED;
   *   ERR_UNSUPPORTED_PLATFORM on Deno. The descriptor is unchanged then.
   */
  toReadStream(options?: cast.FileStreamOptions): ReadStream {
    return castTo(this, (fd) => cast.toReadStream(fd, options))
  }

  /**
   * Casts to an `fs.WriteStream`: a file, memory or a device, opened for writing.
   *
   * @param options `start`, because the offset is shared with the sender; `highWaterMark`
   * @returns the stream, which owns the descriptor from now on and closes it
   * @throws the errors of {@link Descriptor.toReadStream}
   */
  toWriteStream(options?: cast.FileStreamOptions): WriteStream {
    return castTo(this, (fd) => cast.toWriteStream(fd, options))
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
   * Closes the descriptor before the call returns. Does nothing if it is closed. Waits for a read or write of a file that has begun on the
   * thread pool, and so do `release` and the casts; {@link Descriptor.close} waits for it there.
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
   * Returns what `util.inspect` shows. Showing the number does not count as reading it: nothing can have closed it by that.
   *
   * @internal
   */
  [inspection](...args: InspectionArguments): string {
    const state = () =>
      this.#fd === CLOSED ? { state: 'closed' } : { fd: this.#fd, kind: kindIfKnown(this), state: 'open' }
    return inspected('Descriptor', state, args)
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
    make = (fd) => new Descriptor(fd, constructorKey)
    const take = (descriptor: Descriptor): number => {
      const fd = descriptor.#fd
      descriptor.#fd = CLOSED
      if (operationCount > 0) endOperations(descriptor)
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

/** Creates an object over a descriptor's number, which it takes. Node cannot watch a number that the reactor watches. */
function castTo<T>(descriptor: Descriptor, create: (fd: number) => T): T {
  const fd = descriptor[borrow]()
  const pending = operations.get(descriptor)
  pending?.suspend()
  try {
    const object = create(fd)
    takeFd(descriptor)
    return object
  } catch (error) {
    pending?.resume()
    throw error
  }
}

/** Returns the operations of a descriptor, which the first call prepares. */
function operationsOf(descriptor: Descriptor): DescriptorIo {
  const fd = descriptor[borrow]()
  let own = operations.get(descriptor)
  if (own === undefined) {
    own = openIo(fd)
    operations.set(descriptor, own)
    operationCount++
  }
  return own
}

/** Returns the kind of an open descriptor; undefined if the kernel does not report it. */
function kindIfKnown(descriptor: Descriptor): Kind | undefined {
  try {
    return descriptor.kind
  } catch {
    return undefined
  }
}

/** Rejects the pending operations of a descriptor whose number was taken. */
function endOperations(descriptor: Descriptor): void {
  const pending = operations.get(descriptor)
  if (pending === undefined) return
  operations.delete(descriptor)
  operationCount--
  pending.detach()
}

/** Returns an option that is a position in a file. */
function positionOf(name: string, position: unknown): Position {
  return position === undefined ? undefined : bigInteger(name, position, MAX_POSITION)
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
  if (isReadAsStdin(fd)) throw invalidValue(name, `is being read by process.stdin: destroy that first: ${fd}`)
  if (!takeFromDeno(fd))
    throw invalidValue(name, `belongs to Deno's node:fs, which would close it a second time: send the number: ${fd}`)
  const code = native.adopt(fd)
  if (code === 0) return
  const error = systemError(code, 'fcntl')
  if (error.code === 'EEXIST') {
    throw invalidValue(name, `is already owned by fdpass, in this thread or another: release it there first: ${fd}`)
  }
  if (error.code === 'EBUSY') {
    throw invalidValue(name, `is in use by Node: a stream, a server or the channel to the parent process: ${fd}`)
  }
  throw error
}

// In every thread of the process, also where `process.channel` is undefined.
setAfterOpen(() => {
  const channel = parentChannel()
  if (channel !== undefined) native.reserve(channel)
})
