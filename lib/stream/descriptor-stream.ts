import { Duplex } from 'node:stream'
import { boolean, integer } from '../base/validate.ts'
import { type Descriptor, takeFd } from '../descriptor/descriptor.ts'
import { borrow } from '../descriptor/fd-source.ts'
import { descriptorClosed } from '../descriptor/casts.ts'
import { type StreamHandle, openIo } from '../descriptor/io.ts'
import { closeUnused } from '../descriptor/leak-detector.ts'
import { accessOf, isReadable, isWritable } from '../descriptor/kind.ts'
import { native } from '../native/binding.ts'
import { systemError } from '../native/system-error.ts'
import { invalidType } from '../base/errors.ts'

/** The most bytes of one read, as of libuv. */
const CHUNK = 65_536

type Callback = (error?: Error | null) => void

// The class sets this: its constructor is not public.
/** Creates a stream that takes the descriptor. */
export let openDescriptorStream: (
  descriptor: Descriptor,
  isConnection: boolean,
  options?: DescriptorStreamOptions
) => DescriptorStream

/** Closes streams that were collected while open. A pending read or write keeps its stream. */
const unused = new FinalizationRegistry<StreamHandle>((handle) => {
  closeUnused('A DescriptorStream', handle)
})

/** Options of {@link Descriptor.toDuplex}. */
export interface DescriptorStreamOptions {
  /** Whether this side stays writable after the peer has ended its half (default false, as for `net.Socket`). */
  allowHalfOpen?: boolean | undefined
}

/**
 * A TCP connection, an end of a pipe, or a terminal as a Node stream. {@link Descriptor.toDuplex} creates it.
 *
 * The package itself reads and writes, on the event loop of each runtime. It delivers every byte that was written before the other end
 * hung up, and then `'end'`, unless a write fails first. (A `net.Socket` stops at a hang-up behind a short read: uv__read in libuv's src/unix/stream.c.) Reading stops
 * while the stream is not consumed, and `write` returns false while the other end does not read.
 *
 * The stream owns the descriptor and closes it when both halves have ended, or when it is destroyed.
 */
export class DescriptorStream extends Duplex {
  readonly #handle: StreamHandle
  readonly #isConnection: boolean
  #receiving = false

  /**
   * Use {@link Descriptor.toDuplex}. The caller has checked the kind.
   *
   * @internal
   */
  protected constructor(descriptor: Descriptor, isConnection: boolean, options: DescriptorStreamOptions = {}) {
    const { allowHalfOpen = false } = options
    boolean('options.allowHalfOpen', allowHalfOpen)
    const access = accessOf(descriptor[borrow]())
    const halves = { readable: isReadable(access), writable: isWritable(access) }
    super({ allowHalfOpen, ...halves })
    this.#isConnection = isConnection
    const fd = takeFd(descriptor)
    try {
      this.#handle = openIo(fd) as StreamHandle
    } catch (error) {
      native.close(fd)
      throw error
    }
    unused.register(this, this.#handle, this.#handle)
  }

  static {
    openDescriptorStream = (descriptor, isConnection, options) =>
      new DescriptorStream(descriptor, isConnection, options)
  }

  /**
   * The number, for calls that take one. The stream still owns it: do not close it by number.
   *
   * @throws ERR_DESCRIPTOR_CLOSED once the stream is closed
   */
  get fd(): number {
    if (this.#handle.closed) throw descriptorClosed()
    this.#handle.isLent = true
    return this.#handle.fd
  }

  /** Keeps the process alive while the stream reads or writes. This is the default. */
  ref(): this {
    this.#handle.referenced = true
    return this
  }

  /** Lets the process exit while the stream reads or writes. */
  unref(): this {
    this.#handle.referenced = false
    return this
  }

  /** @internal */
  override _read(): void {
    if (!this.#receiving) void this.#receive()
  }

  /** @internal */
  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: Callback): void {
    void this.#send(chunk, callback)
  }

  /** @internal */
  override _writev(chunks: readonly { chunk: Uint8Array }[], callback: Callback): void {
    void this.#send(Buffer.concat(chunks.map(({ chunk }) => chunk)), callback)
  }

  /** @internal */
  override _final(callback: Callback): void {
    if (!this.#isConnection) return callback()
    const code = native.endOutput(this.#handle.fd)
    // A peer that is gone needs no end of the stream. Node's net ignores ENOTCONN too.
    const error = code < 0 ? systemError(code, 'shutdown') : null
    callback(error?.code === 'ENOTCONN' ? null : error)
  }

  /** @internal */
  override _destroy(error: Error | null, callback: Callback): void {
    unused.unregister(this.#handle)
    this.#handle.close()
    callback(error)
  }

  async #send(bytes: Uint8Array, callback: Callback): Promise<void> {
    let failure: Error | null = null
    try {
      await this.#handle.write(this, bytes)
    } catch (error) {
      failure = error as Error
    }
    callback(failure) // outside of `try`, because an error that the callback throws must stay uncaught
  }

  async #receive(): Promise<void> {
    this.#receiving = true
    let chunk: Buffer | null
    try {
      chunk = await this.#handle.read(this, CHUNK)
    } catch (error) {
      this.destroy(error as Error)
      return
    } finally {
      this.#receiving = false
    }
    if (this.destroyed) return
    this.push(chunk)
    if (chunk === null) this.read(0) // emits 'end' without a reader if no bytes are left, as Node's net does
  }
}

/** The size of a terminal's window, in characters: 0 to 65,535 each. 0 means that it was never set. */
export interface TerminalSize {
  /** The characters of a line. */
  readonly columns: number
  /** The lines. */
  readonly rows: number
}

/** The most columns or rows: ioctl_tty(2) has 16 bits for each. */
const MAX_SIZE = 65_535

// The class sets this: its constructor is not public.
/** Creates a stream that takes the descriptor of a terminal. */
export let openTerminal: (descriptor: Descriptor) => TerminalStream

/**
 * A terminal as a Node stream: the master of a pseudoterminal, its other end, or a real terminal. {@link Descriptor.toTerminal} creates it.
 *
 * A master delivers every byte that was written before the last descriptor of the other end was closed, and then `'end'`. Linux reports that
 * as `EIO`; it is not an error here. (A terminal discards what it has not delivered when its *master* closes: tty(4).) Neither reading nor writing
 * blocks the event loop: a program that does not read its terminal, or a terminal that Ctrl+S has stopped, makes `write` return false.
 */
export class TerminalStream extends DescriptorStream {
  static {
    openTerminal = (descriptor) => new TerminalStream(descriptor, false)
  }

  /**
   * The size of the window: `TIOCGWINSZ`. Both ends of a pseudoterminal have the same one.
   *
   * @throws ERR_DESCRIPTOR_CLOSED once the stream is closed
   */
  get size(): TerminalSize {
    const size = native.terminalSize(this.fd)
    if (typeof size === 'number') throw systemError(size, 'ioctl')
    return size
  }

  /**
   * Sets the size of the window: `TIOCSWINSZ`. If it changes, the programs in the foreground of the terminal get SIGWINCH.
   *
   * @param size the new size, in characters: 0 to 65,535 each
   * @throws ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE; ERR_DESCRIPTOR_CLOSED once the stream is closed
   */
  resize(size: TerminalSize): void {
    if (typeof size !== 'object' || size === null) throw invalidType('size', 'of type object', size)
    const { columns, rows } = size
    integer('size.columns', columns, 0, MAX_SIZE)
    integer('size.rows', rows, 0, MAX_SIZE)
    const code = native.setTerminalSize(this.fd, { columns, rows })
    if (code < 0) throw systemError(code, 'ioctl')
  }
}
