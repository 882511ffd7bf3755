import { types } from 'node:util'
import { connect, UnixSocket } from '../socket/index.ts'
import { Descriptor, type FdSource } from '../descriptor/index.ts'
import { closeFds, MAX_RECEIVED_FDS } from '../native/internal.ts'
import { UnixStream, closeDescriptors, duplicateSources } from '../stream/internal.ts'
import { carrierMissing } from '../socket/internal.ts'
import { invalidType } from '../base/internal.ts'
import { yieldToLoop } from '../event-loop/internal.ts'
import { alreadyOpen } from './errors.ts'

/** Options of {@link USocket}. */
export interface USocketOptions {
  /** The address to connect to: a path, or an abstract address, which begins with `'\0'`. */
  path?: string | undefined
  /** The number of a connected socket, which this object owns from then on. */
  fd?: number | undefined
  /** Whether this side stays open after the peer has ended its half (default true, as for every `Duplex`). */
  allowHalfOpen?: boolean | undefined
}

/** A message for {@link USocket.write}. */
export interface USocketMessage {
  /** The bytes. */
  data?: Uint8Array | string | null | undefined
  /** The descriptors to send with the first byte, at most 253. The caller keeps each. */
  fds?: readonly FdSource[] | null | undefined
  /** Called when the kernel has accepted all bytes, or with an error. */
  callback?: USocketCallback | null | undefined
}

/** The result of {@link USocket.read} with a `count`. */
export interface USocketRead {
  /** The bytes; null if `size` is 0, or if there are only descriptors. */
  data: Buffer | null
  /** The numbers of the descriptors, close-on-exec, which the caller must close. */
  fds: number[]
}

/**
 * Called when the kernel has accepted a message, or when that failed.
 *
 * @param error null or undefined without an error
 */
export type USocketCallback = (error?: Error | null) => void

/** A received descriptor, and the position in the stream by which its message has begun. */
interface HeldDescriptor {
  readonly fd: Descriptor
  readonly position: number
}

/**
 * A Unix domain stream socket with the interface of usocket 1.1: a `Duplex` that also reads and writes descriptors, as numbers.
 *
 * Events beside those of a `Duplex`: `'connected'`, and `'fds'`: `(fds: number[])`, with descriptors as they arrive. With a listener
 * of `'fds'` they belong to the listener, which must close them. Otherwise they are held for `read`, and closed with the socket.
 *
 * Differences from usocket:
 *
 * - `write` captures descriptors: the caller may close them when it returns.
 * - No descriptor is lost if a write has to wait, left open by `destroy`, or inherited by a child process.
 * - A message can carry more than 64 descriptors.
 * - `read(size, null)` returns the descriptors that arrived with the bytes read so far, not those of later messages.
 * - `write` returns false when the buffer is full, as every stream does, and waits for the connection.
 * - `destroy` emits `'close'`.
 */
export class USocket extends UnixStream {
  #connecting: AbortController | undefined
  #attached = false
  /** The received descriptors that wait for `read`. */
  #held: HeldDescriptor[] = []
  /** The largest number of descriptors that a `read` has requested. */
  #requested = 0
  /** Duplicates of descriptors that were written without bytes, to be sent with the next byte. */
  #unsent: number[] = []

  /**
   * Creates a socket, and connects it if `options` has an address or a socket.
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

  /** The number of the socket, which this object owns; undefined without a connection. */
  get fd(): number | undefined {
    return this.socketFd
  }

  /**
   * Connects, or takes over a connected socket, and emits `'connected'` afterwards.
   *
   * A failure emits `'error'` and `'close'`. If nothing was written, `connect` may be called again.
   *
   * @param options a path, or `path` or `fd`
   * @param callback a listener of `'connected'`
   * @throws ERR_INVALID_STATE if it is connected or connecting; ERR_INVALID_ARG_TYPE
   */
  connect(options: string | USocketOptions, callback?: () => void): void {
    if (this.#attached || this.#connecting !== undefined)
      throw alreadyOpen('The socket is already connected or connecting')
    const { path, fd } = typeof options === 'string' ? { path: options, fd: undefined } : options
    if (typeof fd !== 'number' && typeof path !== 'string') throw invalidType('path', 'of type string', path)
    if (typeof callback === 'function') this.once('connected', callback)
    void this.#open(typeof fd === 'number' ? fd : path!)
  }

  async #open(from: string | number): Promise<void> {
    const connecting = new AbortController()
    this.#connecting = connecting
    try {
      // The caller adds listeners first. A connection of net or usocket takes a turn of the event loop too.
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

  /** @internal Takes over a connection that was accepted. */
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
   * Reads bytes, as every `Readable` does.
   *
   * @param size the number of bytes; all available ones without it, or if it is null
   * @returns a Buffer, or null if fewer bytes are available
   */
  override read(size?: number | null): Buffer | null
  /**
   * Reads bytes and descriptors.
   *
   * @param size the number of bytes; all available ones without it, or if it is null
   * @param count the number of descriptors; null for those that arrived with the bytes read so far
   * @returns both, or null if fewer bytes or descriptors are available
   */
  override read(size: number | null | undefined, count: number | null): USocketRead | null
  override read(size?: number | null, count?: number | null): unknown {
    if (count === undefined) return super.read(size ?? undefined) as unknown
    if (this.destroyed) return null
    if (count !== null && count > this.#held.length) {
      this.#requested = Math.max(this.#requested, count)
      super.read(0) // so that 'readable' is emitted when more arrives
      this.resumeReceiving()
      return null
    }
    const data = super.read(size ?? undefined) as Buffer | null
    const taken = count ?? (size === 0 ? this.#held.length : this.#countUpTo(this.consumedBytes))
    if (data === null && size !== 0 && (typeof size === 'number' || taken === 0)) return null
    const fds = this.#held.splice(0, taken).map(({ fd }) => fd.release())
    this.resumeReceiving()
    return { data, fds } satisfies USocketRead
  }

  #countUpTo(position: number): number {
    const after = this.#held.findIndex((held) => held.position > position)
    return after < 0 ? this.#held.length : after
  }

  /**
   * Puts bytes, descriptors or both back, to be read next.
   *
   * @param chunk the bytes
   * @param fds the numbers of descriptors, which the socket owns from now on
   */
  override unshift(chunk: Uint8Array | string | null | undefined, fds?: readonly number[] | BufferEncoding): void {
    if (Array.isArray(fds)) {
      this.#held.unshift(...fds.map((fd: number) => ({ fd: Descriptor.from(fd), position: 0 })))
      fds = undefined
    }
    if (chunk !== null && chunk !== undefined && chunk.length > 0) super.unshift(chunk, fds as BufferEncoding)
  }

  /**
   * Writes bytes, descriptors, or both. Descriptors are sent with the first byte. Descriptors without bytes are sent with the next byte
   * that is written, because a stream cannot carry them alone.
   *
   * The descriptors are captured when the call is made: the caller keeps them, and may close them when the call returns.
   *
   * @param chunk bytes, an array of descriptors, or `{ data, fds, callback }`
   * @param encoding the encoding of a string; or the callback
   * @param callback called when the kernel has accepted all bytes, or with an error
   * @returns false if the caller should wait for `'drain'` before it writes more
   * @throws `EBADF` for a number that is not open, `EMFILE` if the descriptor table has no room for duplicates, ERR_INVALID_ARG_TYPE,
   *   ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE. Nothing is written then, and the socket stays usable
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
      if (fds === null || fds === undefined || fds.length === 0) return this.writeMessage(bytes ?? '', [], settled)
      this.#unsent.push(...duplicateSources(fds))
      process.nextTick(settled, null)
      return !this.writableNeedDrain
    }
    if (this.#unsent.length === 0) return this.writeMessage(bytes, fds, settled)
    const written = this.writeMessage(bytes, [...this.#unsent, ...(fds ?? [])], settled)
    this.#closeUnsent()
    return written
  }

  /**
   * Writes a last chunk, if there is one, and ends this half of the connection.
   *
   * @param chunk as for {@link USocket.write}
   * @param encoding the encoding of a string; or the callback
   * @param callback called when all bytes were sent
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
    this.read(0) // so that the end of the peer's half is noticed
    return this
  }

  /** @internal */
  override _final(callback: USocketCallback): void {
    if (this.#unsent.length > 0) callback(carrierMissing('data'))
    else super._final(callback)
  }

  /** @internal */
  protected override acceptFds(fds: readonly Descriptor[], start: number, end: number): void {
    if (this.listenerCount('fds') > 0) {
      this.emit(
        'fds',
        fds.map((fd) => fd.release())
      )
      return
    }
    // Linux merges a message that has descriptors with the bytes before it, and never with those behind it
    // (unix_stream_read_generic in af_unix.c). Elsewhere descriptors arrive with the first byte.
    const position = process.platform === 'linux' ? end : start + 1
    for (const fd of fds) this.#held.push({ fd, position })
  }

  /** @internal Keeps a peer from filling the descriptor table of a program that does not read. */
  protected override get isFull(): boolean {
    return this.#held.length >= Math.max(this.#requested, MAX_RECEIVED_FDS)
  }

  /** @internal */
  protected override get isConnecting(): boolean {
    return this.#connecting !== undefined
  }

  /** @internal */
  protected override closeHeld(): void {
    this.#connecting?.abort()
    this.#connecting = undefined
    closeDescriptors(this.#held.splice(0).map(({ fd }) => fd))
    this.#closeUnsent()
  }

  #closeUnsent(): void {
    closeFds(this.#unsent.splice(0))
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
