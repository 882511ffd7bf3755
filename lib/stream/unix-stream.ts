import { constants } from 'node:os'
import { Duplex } from 'node:stream'
import { invalidType, withCode } from '../base/errors.ts'
import { Queue } from '../base/collections.ts'
import { MAX_INT, boolean, bytesOf, integer } from '../base/validate.ts'
import { type FdSource, borrow, putFds } from '../descriptor/fd-source.ts'
import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { requireDrain } from '../descriptor/node-internals.ts'
import { MAX_RECEIVED_FDS, MAX_SENT_FDS } from '../native/codes.ts'
import { closeFds, duplicateShared } from '../native/owned-fds.ts'
import { systemError } from '../native/system-error.ts'
import { type ControlError, dataRequired, isControlError, socketClosed } from '../socket/errors.ts'
import type { Message } from '../socket/message.ts'
import { type Shape, defaultLimits } from '../socket/receiver.ts'
import { sentAtOnce } from '../socket/sender.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/** The maximum number of bytes of chunks that are sent together. */
const MAX_BATCH_BYTES = 65_536

const toMessage: Shape<Message | null> = (message) => message

/**
 * Receives when the event loop reports that the socket is readable, as libuv does for `net.Socket` (uv__read in src/unix/stream.c).
 * An immediate attempt would overtake earlier data of other sockets, and a conversation with a fast peer would block the event loop.
 */
const toMessageInTurn: Shape<Message | null> = Object.assign((message: Message | null) => message, { inTurn: true })

type Callback = (error?: Error | null) => void

// The class sets this: its constructor is not public.
/** Creates a stream, and takes its socket once the options are checked. */
export let openStream: (take: () => UnixSocket, options?: UnixStreamOptions) => UnixStream

/** Options of {@link UnixSocket.toStream} and {@link Descriptor.toStream}. */
export interface UnixStreamOptions {
  /** Whether this side stays writable after the peer has ended its half (default false, as for `net.Socket`). */
  allowHalfOpen?: boolean | undefined
  /**
   * The most descriptors that belong to unread bytes (default, and least: two messages' of the kernel, 506; 1,024 on macOS and FreeBSD).
   * The stream receives nothing while the next message could exceed it. `write` returns false while so many wait to be sent.
   */
  maxFds?: number | undefined
}

/** The default `maxFds`: a full message whose other bytes arrive later, and the next one. */
const DEFAULT_MAX_FDS = 2 * MAX_RECEIVED_FDS

/** The number of descriptors that a listener got, and the position in the stream up to which their bytes reach. */
interface DeliveredFds {
  readonly count: number
  readonly end: number
}

/** An operation on the socket that waits until there is a socket. */
interface DelayedOperation {
  readonly run: (socket: UnixSocket) => Promise<void>
  readonly callback: Callback
}

/** A chunk, and the duplicated descriptors that are sent with its first byte. */
interface ChunkWithFds {
  readonly chunk: Uint8Array
  readonly duplicates: readonly number[]
}

/**
 * A Unix domain stream socket as a Node stream, with descriptors beside the bytes. {@link UnixSocket.toStream} and
 * {@link Descriptor.toStream} create it.
 *
 * Unlike a `net.Socket`, it loses neither the descriptors that arrive nor the bytes behind them, and it delivers every byte that the peer
 * sent before it hung up, unless a write fails first.
 *
 * The event `'fds'` reports descriptors, before the bytes that they arrived with can be read. The listener owns them. Without a listener
 * they are closed. A message's descriptors belong to one of the bytes that one receive returned: on Linux to the last message among
 * them, on macOS and FreeBSD to the first. A protocol that needs to know which descriptors belong to which of its messages counts them in
 * its messages, as D-Bus does.
 *
 * Descriptors are back-pressure, as bytes are: the stream receives nothing while descriptors of unread bytes leave no room for those of
 * another message (`maxFds`).
 *
 * The event `'fdsLost'` reports an ERR_CONTROL_TRUNCATED error: descriptors were lost, for instance to a full descriptor table. Its
 * listener gets the error and the offset, as that of `'fds'`. The bytes follow, and the stream goes on. Without a listener the error
 * destroys the stream, because a program that counts descriptors would take later ones for those that were lost.
 *
 * Any other error destroys the stream. When the peer ends its half, the stream ends its own, unless `allowHalfOpen` is set.
 */
export class UnixStream extends Duplex {
  #socket: UnixSocket | undefined
  #referenced = true
  /** The chunks with descriptors that wait to be sent, in order. */
  readonly #withFds = new Queue<ChunkWithFds>()
  #duplicateCount = 0
  /** At most one of `_write`, `_writev` and `_final` waits for a socket. */
  #delayed: DelayedOperation | undefined
  #receiving = false
  /** Whether the stream has called `_read` and received nothing since. */
  #wanted = false
  /** Whether the last receive was as large as possible, so that there is probably more. */
  #wasFull = false
  #receivedBytes = 0
  /** The most descriptors that belong to unread bytes. */
  protected readonly maxFds: number
  /** The descriptors that listeners of `'fds'` got, and whose bytes were not read when that was last checked. */
  readonly #delivered: DeliveredFds[] = []
  #deliveredCount = 0

  /**
   * Use {@link UnixSocket.toStream}.
   *
   * @param options `allowHalfOpen`, `maxFds`
   */
  protected constructor(options: UnixStreamOptions) {
    const { maxFds = DEFAULT_MAX_FDS, allowHalfOpen = false } = options
    integer('options.maxFds', maxFds, DEFAULT_MAX_FDS, MAX_INT)
    boolean('options.allowHalfOpen', allowHalfOpen)
    super({ allowHalfOpen })
    this.maxFds = maxFds
  }

  static {
    openStream = (take, options = {}) => {
      const stream = new UnixStream(options)
      stream.attach(take())
      return stream
    }
  }

  /**
   * @internal Takes descriptors for which `'fds'` has no listener, and which arrived with the bytes from `start` to `end` of the stream.
   * Their message is the last one of these bytes on Linux, otherwise the first.
   */
  protected keepFds(fds: readonly Descriptor[], _start: number, _end: number): void {
    closeFds(takeFds(fds))
  }

  /** @internal Emits `'fds'` with descriptors that arrived with the bytes from `start` on. The listener owns them. */
  protected emitFds(fds: readonly Descriptor[], start: number): void {
    this.emit('fds', [...fds], start)
  }

  /** @internal Takes note of received bytes, before their descriptors are emitted. */
  protected scan(_data: Uint8Array): void {}

  /**
   * @internal Reports the error of descriptors that were lost, and that belong to bytes which reach up to `end`. Returns whether the stream
   * goes on: not if the reader would take later descriptors for them.
   */
  protected loseFds(error: ControlError, end: number): boolean {
    return this.emit('fdsLost', error, end - error.data.length)
  }

  /** @internal Closes the descriptors that arrived and are held. */
  protected closeHeld(_error: Error | null): void {}

  /** @internal Whether to stop receiving, because unread bytes have many descriptors; `resumeReceiving` continues. */
  protected get isFull(): boolean {
    const { consumedBytes } = this
    while (this.#delivered.length > 0 && this.#delivered[0]!.end <= consumedBytes) {
      this.#deliveredCount -= this.#delivered.shift()!.count
    }
    return this.#deliveredCount + MAX_RECEIVED_FDS > this.maxFds
  }

  /** @internal Whether a socket is being connected. Without one, writing fails. */
  protected get isConnecting(): boolean {
    return false
  }

  /** @internal The descriptor number of the open socket. */
  protected get socketFd(): number | undefined {
    return this.#socket === undefined || this.#socket.closed ? undefined : this.#socket[borrow]()
  }

  /** @internal The number of received bytes that were read. */
  protected get consumedBytes(): number {
    return this.#receivedBytes - this.readableLength
  }

  /** @internal Sets the socket, which the stream owns from now on. */
  protected attach(socket: UnixSocket): void {
    this.#socket = socket
    if (!this.#referenced) socket.unref()
    const delayed = this.#delayed
    this.#delayed = undefined
    if (delayed !== undefined) callBack(delayed.run(socket), delayed.callback)
    this.resumeReceiving()
  }

  /** Keeps the process alive while operations are pending. This is the default. */
  ref(): this {
    this.#referenced = true
    this.#socket?.ref()
    return this
  }

  /** Lets the process exit while operations are pending. */
  unref(): this {
    this.#referenced = false
    this.#socket?.unref()
    return this
  }

  /**
   * Adds a listener. The events are those of every `Duplex`, and `'fds'`: `(fds: Descriptor[], offset: number)`, `'fdsLost'`:
   * `(error: ControlError, offset: number)`.
   *
   * @param event the event
   * @param listener for `'fds'`: called with descriptors, which it owns, and with the position in the stream, in bytes, of the first byte
   *   that the same receive returned
   * @returns the stream
   */
  override on(event: 'fds', listener: (fds: Descriptor[], offset: number) => void): this
  override on(event: 'fdsLost', listener: (error: ControlError, offset: number) => void): this
  override on(event: 'data', listener: (chunk: Buffer) => void): this
  override on(event: 'error', listener: (error: Error) => void): this
  override on(event: string | symbol, listener: (...args: any[]) => void): this
  override on(event: string | symbol, listener: (...args: any[]) => void): this {
    return super.on(event, listener)
  }

  /**
   * Reads bytes, as every `Readable` does. If descriptors of unread bytes have stopped the stream, it continues to receive.
   *
   * A read of more bytes than are there could not end while the stream is stopped: it destroys the stream with
   * ERR_TOO_MANY_DESCRIPTORS.
   *
   * @param size the number of bytes; all available ones without it
   * @returns a Buffer, or null if fewer bytes are available
   */
  override read(size?: number): Buffer | null {
    const chunk = super.read(size) as Buffer | null
    if (!this.#wanted || this.#receiving) return chunk
    if (chunk === null && size !== undefined && size > this.readableLength && !this.destroyed && this.isFull) {
      this.destroy(tooManyUnread(this.maxFds))
    } else {
      this.resumeReceiving()
    }
    return chunk
  }

  /**
   * Writes bytes, in order with those passed to `write`, and descriptors with the first of them.
   *
   * The descriptors are captured when the call is made: the caller keeps them, and may close them when the call returns.
   *
   * @param chunk at least one byte; they must not change until they are sent
   * @param fds at most 253 descriptors
   * @param callback called when the kernel has accepted all bytes, or with an error
   * @returns false if the caller should wait for `'drain'` before it writes more, as `write` does
   * @throws `EBADF` for a number that is not open, `EMFILE` if the descriptor table has no room for duplicates, ERR_INVALID_ARG_TYPE,
   *   ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE. Nothing is written then, and the stream stays usable
   */
  writeWithFds(
    chunk: Uint8Array | string,
    fds: readonly FdSource[],
    callback?: (error?: Error | null) => void
  ): boolean {
    if (callback !== undefined && typeof callback !== 'function') {
      throw invalidType('callback', 'of type function', callback)
    }
    return this.writeMessage(chunk, fds, callback)
  }

  /**
   * @internal Writes bytes, and duplicates of descriptors with the first of them.
   *
   * @param captured duplicates to send before those of `sources`, which the stream owns if this returns and the stream is writable
   */
  protected writeMessage(
    data: unknown,
    sources: unknown,
    callback?: Callback,
    captured: readonly number[] = []
  ): boolean {
    const bytes = bytesOf(data, 'chunk')
    const { writable } = this
    const count = putFds(sources, 'fds')
    // `write` reports that the stream is not writable.
    if (count + captured.length === 0 || !writable) return super.write(bytes, callback)
    if (bytes.length === 0) throw dataRequired('chunk')
    const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    const duplicates = [...captured, ...(count === 0 ? [] : duplicateShared(count))]
    this.#withFds.push({ chunk, duplicates })
    this.#duplicateCount += duplicates.length
    const hasRoom = super.write(chunk, callback)
    if (this.#duplicateCount + MAX_SENT_FDS <= this.maxFds) return hasRoom
    requireDrain(this)
    return false
  }

  /** @internal */
  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: Callback): void {
    this.#withSocket((socket) => this.#send(socket, chunk), callback)
  }

  /** @internal */
  override _writev(chunks: readonly { chunk: Uint8Array }[], callback: Callback): void {
    this.#withSocket((socket) => this.#sendAll(socket, chunks), callback)
  }

  /** @internal */
  override _final(callback: Callback): void {
    if (this.#socket === undefined && !this.isConnecting) {
      callback()
      return
    }
    this.#withSocket(async (socket) => {
      try {
        socket.shutdown('write')
      } catch (error) {
        // The peer is gone, and needs no end of the stream. Node's net ignores the error too.
        if ((error as NodeJS.ErrnoException).code !== 'ENOTCONN') throw error
      }
    }, callback)
  }

  /** @internal */
  override _read(): void {
    this.#wanted = true
    this.resumeReceiving()
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#socket?.close()
    const delayed = this.#delayed
    this.#delayed = undefined
    for (let next = this.#withFds.shift(); next !== undefined; next = this.#withFds.shift()) closeFds(next.duplicates)
    this.#duplicateCount = 0
    this.closeHeld(error)
    delayed?.callback(error ?? socketClosed())
    callback(error)
  }

  /** @internal Receives if the stream needs bytes and no receive is pending. */
  protected resumeReceiving(): void {
    if (this.#socket === undefined || !this.#wanted || this.#receiving || this.isFull || this.destroyed) return
    void this.#receive(this.#socket)
  }

  async #receive(socket: UnixSocket): Promise<void> {
    let message: Message | ControlError | null
    this.#receiving = true
    try {
      message = await endpointOf('socket', socket).receiver.receive(
        socket,
        defaultLimits,
        this.#wasFull ? toMessage : toMessageInTurn,
        undefined
      )
    } catch (error) {
      if (!isControlError(error) || error.code === 'ERR_UNEXPECTED_CONTROL') {
        this.destroy(error as Error)
        return
      }
      message = error
    } finally {
      this.#receiving = false
    }
    this.#wanted = false
    if (message === null) {
      this.push(null)
      this.read(0) // emits 'end' without a reader if no bytes are left, as Node's net does
      return
    }
    const { data } = message
    this.#wasFull = data.length === defaultLimits.maxBytes
    if (this.destroyed) {
      if (!(message instanceof Error)) message.close()
      return
    }
    const start = this.#receivedBytes
    this.#receivedBytes += data.length
    this.scan(data)
    if (message instanceof Error) {
      if (!this.loseFds(message, this.#receivedBytes)) {
        this.destroy(message)
        return
      }
    } else if (message.fds.length > 0) {
      this.#acceptFds(message.fds, start, this.#receivedBytes)
    }
    this.push(data)
  }

  /** Passes descriptors to the listeners of `'fds'`, which own them from then on. */
  #acceptFds(fds: readonly Descriptor[], start: number, end: number): void {
    if (this.listenerCount('fds') === 0) {
      this.keepFds(fds, start, end)
      return
    }
    this.#delivered.push({ count: fds.length, end })
    this.#deliveredCount += fds.length
    this.emitFds(fds, start)
  }

  /** Runs an operation on the socket, now or when there is a socket. */
  #withSocket(run: (socket: UnixSocket) => Promise<void>, callback: Callback): void {
    const socket = this.#socket
    if (socket !== undefined) callBack(run(socket), callback)
    else if (this.isConnecting) this.#delayed = { run, callback }
    else callback(systemError(-constants.errno.ENOTCONN, 'sendmsg'))
  }

  /** Sends chunks. Small ones without descriptors are sent together. */
  async #sendAll(socket: UnixSocket, chunks: readonly { chunk: Uint8Array }[]): Promise<void> {
    let batch: Uint8Array[] = []
    let length = 0
    const flush = async () => {
      const data = batch.length === 1 ? batch[0]! : Buffer.concat(batch)
      batch = []
      length = 0
      await socket.send(data)
    }
    for (const { chunk } of chunks) {
      const hasFds = this.#withFds.peek()?.chunk === chunk
      if (length > 0 && (hasFds || length + chunk.length > MAX_BATCH_BYTES)) await flush()
      if (hasFds) {
        await this.#send(socket, chunk)
      } else {
        batch.push(chunk)
        length += chunk.length
      }
    }
    if (length > 0) await flush()
  }

  #send(socket: UnixSocket, chunk: Uint8Array): Promise<void> {
    const duplicates = this.#withFds.peek()?.chunk === chunk ? this.#withFds.shift()!.duplicates : undefined
    // A send that has to wait duplicates its descriptors itself.
    const sent = socket.send(chunk, duplicates === undefined ? undefined : { fds: duplicates })
    if (duplicates !== undefined) {
      this.#duplicateCount -= duplicates.length
      closeFds(duplicates)
    }
    return sent
  }
}

/** Calls back when an operation has settled. One that is done calls back at once, because a microtask for each write adds up. */
function callBack(operation: Promise<void>, callback: Callback): void {
  if (operation === sentAtOnce) callback()
  else void callBackLater(operation, callback)
}

async function callBackLater(operation: Promise<void>, callback: Callback): Promise<void> {
  let failure: Error | undefined
  try {
    await operation
  } catch (error) {
    failure = error as Error
  }
  callback(failure) // outside of `try`, because an error that the callback throws must stay uncaught
}

/** Returns the error of a read that needs more bytes, while those that are there have as many descriptors as a stream accepts. */
function tooManyUnread(maxFds: number): Error {
  const text = `The peer sent too many descriptors beside the bytes of one read: at most ${maxFds} belong to unread bytes (maxFds)`
  return withCode(new Error(text), 'ERR_TOO_MANY_DESCRIPTORS')
}
