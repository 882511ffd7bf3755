import { types } from 'node:util'
import { connect, UnixSocket } from '../socket/index.ts'
import { Descriptor, type FdSource } from '../descriptor/index.ts'
import { closeFds, MAX_RECEIVED_FDS } from '../native/internal.ts'
import { alreadyConnected, SocketStream, capture, closeAll } from '../stream/internal.ts'
import { carrierMissing } from '../socket/internal.ts'
import { invalidType } from '../base/internal.ts'
import { yieldToLoop } from '../event-loop/internal.ts'

/** How a {@link USocket} is made. */
export interface USocketOptions {
  /** Where to connect to: a path, or an abstract address, which begins with `'\0'`. */
  path?: string | undefined
  /** An open socket's number, which is this object's from then on. */
  fd?: number | undefined
  /** Whether this side stays open when the peer has ended (default true, as of every `Duplex`). */
  allowHalfOpen?: boolean | undefined
}

/** What {@link USocket.write} takes beside bytes. */
export interface USocketMessage {
  /** The bytes. */
  data?: Uint8Array | string | null | undefined
  /** What goes with the first of them, at most 253; each stays the caller's. */
  fds?: readonly FdSource[] | null | undefined
  /** Called when the kernel has taken all, or with an error. */
  callback?: USocketCallback | null | undefined
}

/** What {@link USocket.read} gives where it is asked for descriptors. */
export interface USocketRead {
  /** The bytes; null where none were asked for. */
  data: Buffer | null
  /** The numbers of the descriptors, close-on-exec, which are the caller's to close. */
  fds: number[]
}

/**
 * What is called when the kernel has taken a message, or with the error that kept it from that.
 *
 * @param error null or undefined where there is none
 */
export type USocketCallback = (error?: Error | null) => void

/** A descriptor that came, and the byte with which its message has begun at the latest. */
interface Arrival {
  readonly fd: Descriptor
  readonly position: number
}

/**
 * A connection by a Unix domain stream socket, with the interface of usocket 1.1: a `Duplex` that also reads and writes
 * descriptors, as numbers.
 *
 * Events, beside those of a `Duplex`: `'connected'`; and `'fds'`: `(fds: number[])`, descriptors as they come. Where somebody listens
 * to `'fds'` they are the listener's, and `read` does not give them; otherwise they wait for `read`, and are closed with the socket.
 *
 * What is different from usocket: descriptors are captured by `write`, and may be closed when it has returned; none is
 * lost where a write has to wait, left open by `destroy`, or inherited by a child; more than 64 can come with a message;
 * `read(size, null)` gives those that came with the bytes up to there, not those of later messages; `write` tells of a full buffer as
 * every stream does, and waits for the connection; `destroy` emits `'close'`.
 */
export class USocket extends SocketStream {
  #connecting: AbortController | undefined
  #attached = false
  /** What came and waits for `read`. */
  #arrivals: Arrival[] = []
  /** The most descriptors that a `read` has asked for. */
  #asked = 0
  /** Duplicates that were written without a byte: they go with the next one. */
  #carried: number[] = []

  /**
   * Make a socket, and connect it if it is told where.
   *
   * @param options a path, or `path` or `fd`, and `allowHalfOpen`
   * @param callback a listener of `'connected'`
   */
  constructor(options?: string | USocketOptions | null, callback?: () => void) {
    const given = typeof options === 'string' ? { path: options } : (options ?? {})
    if (typeof given !== 'object') throw invalidType('options', 'of type string or object', options)
    super({ allowHalfOpen: given.allowHalfOpen ?? true })
    if (given.fd !== undefined || given.path) this.connect(given, callback)
  }

  /** The number of the socket, which stays this object's; undefined while there is none. */
  get fd(): number | undefined {
    return this.number
  }

  /**
   * Connect, or take over an open socket. `'connected'` is emitted when that is done.
   *
   * A failure is told by `'error'` and `'close'`; unless something was written already, another attempt may follow.
   *
   * @param options a path, or `path` or `fd`
   * @param callback a listener of `'connected'`
   * @throws ERR_INVALID_STATE where it is connected already; ERR_INVALID_ARG_TYPE
   */
  connect(options: string | USocketOptions, callback?: () => void): void {
    if (this.#attached || this.#connecting !== undefined) throw alreadyConnected('socket is connected')
    const { path, fd } = typeof options === 'string' ? { path: options, fd: undefined } : options
    if (typeof fd !== 'number' && typeof path !== 'string') throw invalidType('path', 'of type string', path)
    if (typeof callback === 'function') this.once('connected', callback)
    void this.#open(typeof fd === 'number' ? fd : path!)
  }

  async #open(from: string | number): Promise<void> {
    const connecting = new AbortController()
    this.#connecting = connecting
    try {
      // Not before the caller has added listeners; a connection of net's, or of usocket's, takes a turn of the event loop as well.
      await (typeof from === 'number' ? undefined : yieldToLoop())
      const { signal } = connecting
      const socket = typeof from === 'number' ? UnixSocket.from(from) : await connect(from, { signal })
      if (this.destroyed) {
        socket.close()
        return
      }
      this.adopt(socket)
    } catch (error) {
      process.nextTick(() => this.#fail(error as Error))
      return
    }
    this.emit('connected')
  }

  /** @internal Take over a connection that was accepted. */
  adopt(socket: UnixSocket): void {
    this.#attached = true
    this.#connecting = undefined
    this.attach(socket)
  }

  #fail(error: Error): void {
    if (this.destroyed) return
    this.#connecting = undefined
    if (this.writableLength > 0 || this.writableEnded) {
      this.destroy(error)
      return
    }
    this.emit('error', error)
    this.emit('close', error)
  }

  /**
   * Read bytes, as of every `Readable`.
   *
   * @param size how many bytes; without it, or null, all that are there
   * @returns a Buffer, or null where there is less than was asked for
   */
  override read(size?: number | null): Buffer | null
  /**
   * Read bytes and descriptors.
   *
   * @param size how many bytes; without it, or null, all that are there
   * @param count how many descriptors; null for those that came with the bytes up to there
   * @returns both, or null where there is less of one than was asked for
   */
  override read(size: number | null | undefined, count: number | null): USocketRead | null
  override read(size?: number | null, count?: number | null): unknown {
    if (count === undefined) return super.read(size ?? undefined) as unknown
    if (this.destroyed) return null
    if (count !== null && count > this.#arrivals.length) {
      this.#asked = Math.max(this.#asked, count)
      super.read(0) // has 'readable' emitted for what comes next
      this.resumeReceiving()
      return null
    }
    const data = super.read(size ?? undefined) as Buffer | null
    const taken = count ?? (size === 0 ? this.#arrivals.length : this.#countUpTo(this.consumed))
    if (data === null && size !== 0 && (typeof size === 'number' || taken === 0)) return null
    const fds = this.#arrivals.splice(0, taken).map(({ fd }) => fd.release())
    this.resumeReceiving()
    return { data, fds } satisfies USocketRead
  }

  #countUpTo(position: number): number {
    const after = this.#arrivals.findIndex((arrival) => arrival.position > position)
    return after < 0 ? this.#arrivals.length : after
  }

  /**
   * Put bytes, descriptors or both back, to be read next.
   *
   * @param chunk the bytes
   * @param fds numbers of descriptors, which are the socket's from now on
   */
  override unshift(chunk: Uint8Array | string | null | undefined, fds?: readonly number[] | BufferEncoding): void {
    if (Array.isArray(fds)) {
      this.#arrivals.unshift(...fds.map((fd: number) => ({ fd: Descriptor.from(fd), position: 0 })))
      fds = undefined
    }
    if (chunk !== null && chunk !== undefined && chunk.length > 0) super.unshift(chunk, fds as BufferEncoding)
  }

  /**
   * Write bytes, descriptors, or both: descriptors go with the first byte. Those without bytes go with the next byte that is written, as
   * a stream carries none alone.
   *
   * What a descriptor means now is what is sent: it may be closed as soon as this has returned.
   *
   * @param chunk bytes, an array of descriptors, or `{ data, fds, callback }`
   * @param encoding of a string; or the callback
   * @param callback called when the kernel has taken all, or with an error
   * @returns false where more should only be written after `'drain'`
   * @throws `EBADF` for a number that is not open, `EMFILE` where the table has no room for duplicates, ERR_INVALID_ARG_TYPE,
   *   ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE: nothing is written then, and the socket goes on
   */
  override write(
    chunk: Uint8Array | string | readonly FdSource[] | USocketMessage,
    encoding?: BufferEncoding | USocketCallback | null,
    callback?: USocketCallback | null
  ): boolean {
    const called = typeof encoding === 'function' ? encoding : (callback ?? undefined)
    const charset = typeof encoding === 'string' ? encoding : undefined
    const { data, fds, callback: own } = messageOf(chunk)
    const bytes = typeof data === 'string' ? Buffer.from(data, charset) : data
    const settled = (error?: Error | null) => {
      own?.(error)
      called?.(error)
    }
    if (bytes === null || bytes === undefined || bytes.length === 0) {
      if (fds === null || fds === undefined || fds.length === 0) return this.writeCarrying(bytes ?? '', [], settled)
      this.#carried.push(...capture(fds))
      process.nextTick(settled, null)
      return !this.writableNeedDrain
    }
    if (this.#carried.length === 0) return this.writeCarrying(bytes, fds, settled)
    const written = this.writeCarrying(bytes, [...this.#carried, ...(fds ?? [])], settled)
    this.#dropCarried()
    return written
  }

  /**
   * Write a last chunk, if there is one, and end this half of the connection.
   *
   * @param chunk as of {@link USocket.write}
   * @param encoding of a string; or the callback
   * @param callback called when all was sent
   */
  override end(
    chunk?: Uint8Array | string | readonly FdSource[] | USocketMessage | USocketCallback | null,
    encoding?: BufferEncoding | USocketCallback | null,
    callback?: USocketCallback | null
  ): this {
    const called = [chunk, encoding, callback].find((value) => typeof value === 'function') as
      USocketCallback | undefined
    if (chunk !== undefined && chunk !== null && typeof chunk !== 'function') {
      this.write(chunk, typeof encoding === 'string' ? encoding : undefined)
    }
    super.end(called)
    this.read(0) // so that the peer's end is seen
    return this
  }

  /** @internal */
  override _final(callback: USocketCallback): void {
    if (this.#carried.length > 0) callback(carrierMissing('data'))
    else super._final(callback)
  }

  /** @internal */
  protected override takeFds(fds: readonly Descriptor[], start: number, end: number): void {
    if (this.listenerCount('fds') > 0) {
      this.emit(
        'fds',
        fds.map((fd) => fd.release())
      )
      return
    }
    // Linux merges what was sent before it with a message that has descriptors, and nothing behind it (unix_stream_read_generic in
    // af_unix.c); elsewhere they come with the first byte.
    const position = process.platform === 'linux' ? end : start + 1
    for (const fd of fds) this.#arrivals.push({ fd, position })
  }

  /** @internal So that a peer cannot fill the descriptor table of a program that does not read. */
  protected override get full(): boolean {
    return this.#arrivals.length >= Math.max(this.#asked, MAX_RECEIVED_FDS)
  }

  /** @internal */
  protected override get awaitsSocket(): boolean {
    return this.#connecting !== undefined
  }

  /** @internal */
  protected override closeHeld(): void {
    this.#connecting?.abort()
    this.#connecting = undefined
    closeAll(this.#arrivals.splice(0).map(({ fd }) => fd))
    this.#dropCarried()
  }

  #dropCarried(): void {
    closeFds(this.#carried.splice(0))
  }
}

function messageOf(chunk: unknown): USocketMessage {
  if (typeof chunk === 'string' || types.isUint8Array(chunk)) return { data: chunk }
  if (Array.isArray(chunk)) return { fds: chunk }
  if (typeof chunk !== 'object' || chunk === null) {
    throw invalidType('chunk', 'of type string or an instance of Uint8Array, Array or Object', chunk)
  }
  const { data, fds, callback } = chunk as USocketMessage
  if (callback !== undefined && callback !== null && typeof callback !== 'function') {
    throw invalidType('chunk.callback', 'of type function', callback)
  }
  return { data, fds, callback }
}
