import { types } from 'node:util'
import { type ControlError, connect, UnixSocket } from '../socket/index.ts'
import { Descriptor, type FdSource } from '../descriptor/index.ts'
import { putFds, takeFds } from '../descriptor/internal.ts'
import { closeFds, duplicateShared, MAX_RECEIVED_FDS, MAX_SENT_FDS } from '../native/internal.ts'
import { UnixStream } from '../stream/index.ts'
import { dataRequired, socketClosed } from '../socket/internal.ts'
import { invalidType, invalidState, outOfRange } from '../base/internal.ts'
import { yieldToLoop } from '../event-loop/internal.ts'

/** Options of {@link USocket}. */
export interface USocketOptions {
  /** The address to connect to: a path, or an abstract address, which begins with `'\0'`. */
  path?: string | undefined
  /** The number of a connected socket, which this object owns from then on. */
  fd?: number | undefined
  /** Whether this side stays open after the peer has ended its half (default true, as for every `Duplex`). */
  allowHalfOpen?: boolean | undefined
  /**
   * The most descriptors that `read` has not taken, or whose bytes were not read (default, and least: 506; 1,024 on macOS and FreeBSD).
   * The socket receives nothing while the next message of the kernel could exceed it, except as many as a `read` requests; `write` returns
   * false while so many wait to be sent.
   */
  maxFds?: number | undefined
}

/** A message for {@link USocket.write}. */
export interface USocketMessage {
  /** The bytes. */
  data?: Uint8Array | string | null | undefined
  /** The descriptors to send with the first byte, at most 253. The caller keeps each. */
  fds?: readonly FdSource[] | null | undefined
  /**
   * Called when the kernel has accepted all bytes, or with an error. Without bytes: when it has accepted the next byte, which carries
   * the descriptors.
   */
  callback?: USocketCallback | null | undefined
}

/** The result of {@link USocket.read} with a `count`. */
export interface USocketRead {
  /** The bytes; null if `size` is 0, or if there are only descriptors. */
  data: Buffer | null
  /**
   * The numbers of the descriptors, close-on-exec, which the caller must close. -1 is in the place of a descriptor that was lost, for
   * instance because the descriptor table was full: `read(size, null)` returns 253 of them for a message, because the kernel does not report
   * their count.
   */
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
  /** The descriptor; undefined for those of one message that were lost. */
  readonly fd: Descriptor | undefined
  readonly position: number
}

/**
 * A Unix domain stream socket with the interface of usocket 1.1: a `Duplex` that also reads and writes descriptors, as numbers.
 *
 * Events beside those of a `Duplex`: `'connected'`, and `'fds'`: `(fds: number[])`, with descriptors as they arrive. With a listener
 * of `'fds'` they belong to the listener, which must close them. Otherwise they are held for `read`, and closed with the socket.
 *
 * Descriptors of one message that were lost, for instance because the descriptor table was full, are -1 for `read`, and the socket goes on.
 * With a listener of `'fds'` and none of `'fdsLost'` they are an error, which destroys the socket.
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
  /** The callbacks of the writes of `#unsent`. */
  #unsentCallbacks: USocketCallback[] = []

  /**
   * Creates a socket, and connects it if `options` has an address or a socket.
   *
   * @param options a path, or `path` or `fd`, and `allowHalfOpen`
   * @param callback a listener of `'connected'`
   */
  constructor(options?: string | USocketOptions | null, callback?: () => void) {
    const given = typeof options === 'string' ? { path: options } : (options ?? {})
    if (typeof given !== 'object') throw invalidType('options', 'of type string or object', options)
    super({ allowHalfOpen: given.allowHalfOpen !== false, maxFds: given.maxFds })
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
      throw invalidState('The socket is already connected or connecting')
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
    if (this.writableLength > 0 || this.writableEnded || this.#unsent.length > 0) {
      this.destroy(error)
      return
    }
    this.emit('error', error)
    this.emit('close', error)
  }

  /**
   * Adds a listener. The events are those of every `Duplex`, `'connected'`, and `'fds'`: `(fds: number[])`.
   *
   * @param event the event
   * @param listener for `'fds'`: called with the numbers of descriptors, which it owns
   * @returns the socket
   */
  override on(event: 'fds', listener: (fds: number[]) => void): this
  override on(event: 'data', listener: (chunk: Buffer) => void): this
  override on(event: 'error', listener: (error: Error) => void): this
  override on(event: string | symbol, listener: (...args: any[]) => void): this
  override on(event: string | symbol, listener: (...args: any[]) => void): this {
    return super.on(event, listener)
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
    if (count === undefined) return super.read(size ?? undefined)
    if (this.destroyed) return null
    if (count !== null && count > this.#available) {
      this.#requested = Math.max(this.#requested, count)
      super.read(0) // so that 'readable' is emitted when more arrives
      this.resumeReceiving()
      return null
    }
    const data = super.read(size ?? undefined)
    const taken = count ?? (size === 0 ? this.#held.length : this.#countUpTo(this.consumedBytes))
    if (data === null && size !== 0 && (typeof size === 'number' || taken === 0)) return null
    const fds = count === null ? this.#takeAll(taken) : this.#take(count)
    this.#requested = 0
    this.resumeReceiving()
    return { data, fds } satisfies USocketRead
  }

  /** The number of descriptors that `read` can return. */
  get #available(): number {
    return this.#held.reduce((sum, { fd }) => sum + (fd === undefined ? MAX_SENT_FDS : 1), 0)
  }

  /** Takes the descriptors of so many entries. */
  #takeAll(entries: number): number[] {
    return this.#held.splice(0, entries).flatMap(({ fd }) => fd?.release() ?? new Array<number>(MAX_SENT_FDS).fill(-1))
  }

  /** Takes so many descriptors. Those that one message has lost are as many as are missing, and at most what a message carries. */
  #take(count: number): number[] {
    const taken: number[] = []
    while (taken.length < count) {
      const { fd } = this.#held.shift()!
      if (fd === undefined) taken.push(...new Array<number>(Math.min(count - taken.length, MAX_SENT_FDS)).fill(-1))
      else taken.push(fd.release())
    }
    return taken
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
      if (this.destroyed) this.closeHeld(null)
      fds = undefined
    }
    if (chunk !== null && chunk !== undefined && chunk.length > 0) super.unshift(chunk, fds as BufferEncoding)
  }

  /**
   * Writes bytes, descriptors, or both. Descriptors are sent with the first byte. Descriptors without bytes are sent with the next byte
   * that is written, because a stream cannot carry them alone. At most 253 wait for it.
   *
   * The descriptors are captured when the call is made: the caller keeps them, and may close them when the call returns.
   *
   * @param chunk bytes, an array of descriptors, or `{ data, fds, callback }`
   * @param encoding the encoding of a string; or the callback
   * @param callback called when the kernel has accepted all bytes, or with an error. Without bytes: when it has accepted the next byte
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
    if (!this.writable) return this.writeMessage(bytes ?? '', fds, settled) // which reports that
    this.#checkRoom(fds)
    if (bytes === null || bytes === undefined || bytes.length === 0) {
      if (fds === null || fds === undefined || fds.length === 0) return this.writeMessage(bytes ?? '', [], settled)
      this.#unsent.push(...duplicateShared(putFds(fds, 'fds')))
      this.#unsentCallbacks.push(settled)
      return !this.writableNeedDrain
    }
    const [carried, callbacks] = [this.#unsent, this.#unsentCallbacks]
    if (carried.length === 0) return this.writeMessage(bytes, fds, settled)
    const allSettled = (error?: Error | null) => [...callbacks, settled].forEach((call) => call(error))
    this.#unsent = []
    this.#unsentCallbacks = []
    try {
      return this.writeMessage(bytes, fds, allSettled, carried)
    } catch (error) {
      this.#unsent = carried
      this.#unsentCallbacks = callbacks
      throw error
    }
  }

  /**
   * Writes bytes and descriptors, as {@link USocket.write} does with `{ data, fds, callback }`.
   *
   * @param chunk the bytes
   * @param fds at most 253 descriptors
   * @param callback called when the kernel has accepted all bytes, or with an error
   * @returns false if the caller should wait for `'drain'` before it writes more
   * @throws the errors of {@link USocket.write}
   */
  override writeWithFds(chunk: Uint8Array | string, fds: readonly FdSource[], callback?: USocketCallback): boolean {
    return this.write({ data: chunk, fds, callback })
  }

  /** Refuses descriptors that one byte could not carry with those that wait for it. */
  #checkRoom(fds: readonly FdSource[] | null | undefined): void {
    const waiting = this.#unsent.length
    if (waiting === 0 || !Array.isArray(fds) || waiting + fds.length <= MAX_SENT_FDS) return
    const limit = `<= ${MAX_SENT_FDS - waiting}, because ${waiting} descriptors wait for the next byte, which carries ${MAX_SENT_FDS}`
    throw outOfRange('fds.length', limit, fds.length)
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
    if (this.#unsent.length > 0) callback(dataRequired('data'))
    else super._final(callback)
  }

  /** @internal */
  protected override keepFds(fds: readonly Descriptor[], start: number, end: number): void {
    // Linux merges a message that has descriptors with the bytes before it, and never with those behind it
    // (unix_stream_read_generic in af_unix.c). Elsewhere descriptors arrive with the first byte.
    const position = process.platform === 'linux' ? end : start + 1
    for (const fd of fds) this.#held.push({ fd, position })
  }

  /** @internal */
  protected override loseFds(error: ControlError, end: number): boolean {
    const isReported = super.loseFds(error, end)
    if (this.listenerCount('fds') > 0) return isReported
    const position = process.platform === 'linux' ? end : end - error.data.length + 1
    this.#held.push({ fd: undefined, position })
    return true
  }

  /** @internal */
  protected override emitFds(fds: readonly Descriptor[]): void {
    this.emit(
      'fds',
      fds.map((fd) => fd.release())
    )
  }

  /** @internal Keeps a peer from filling the descriptor table of a program that does not read. */
  protected override get isFull(): boolean {
    const held = this.#held.length
    return super.isFull || (held >= this.#requested && held + MAX_RECEIVED_FDS > this.maxFds)
  }

  /** @internal */
  protected override get isConnecting(): boolean {
    return this.#connecting !== undefined
  }

  /** @internal */
  protected override closeHeld(error: Error | null): void {
    this.#connecting?.abort()
    this.#connecting = undefined
    closeFds(takeFds(this.#held.splice(0).flatMap(({ fd }) => fd ?? [])))
    closeFds(this.#unsent.splice(0))
    const failure = error ?? socketClosed()
    for (const callback of this.#unsentCallbacks.splice(0)) process.nextTick(callback, failure)
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
