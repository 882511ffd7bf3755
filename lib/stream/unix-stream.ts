import { constants } from 'node:os'
import { Duplex, type DuplexOptions } from 'node:stream'
import { bytesOf } from '../base/validate.ts'
import { borrow } from '../descriptor/borrow.ts'
import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { putFds } from '../descriptor/fd-source.ts'
import { closeFds, duplicateShared } from '../native/owned-fds.ts'
import { systemError } from '../native/system-error.ts'
import { carrierMissing, socketClosed } from '../socket/errors.ts'
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

/** An operation on the socket that waits until there is a socket. */
interface DelayedOperation {
  readonly run: (socket: UnixSocket) => Promise<void>
  readonly callback: Callback
}

/**
 * A Unix domain stream socket as a Node stream, with descriptors beside the bytes.
 *
 * Writable passes a Buffer on as the same object. So the duplicated descriptors of a write are found by its chunk, and Writable counts
 * buffered bytes as for any stream.
 */
export abstract class UnixStream extends Duplex {
  #socket: UnixSocket | undefined
  #referenced = true
  /** The duplicated descriptors of chunks that wait to be sent. */
  readonly #duplicates = new Map<Uint8Array, readonly number[]>()
  /** At most one of `_write`, `_writev` and `_final` waits for a socket. */
  #delayed: DelayedOperation | undefined
  #receiving = false
  /** Whether the stream has called `_read` and received nothing since. */
  #wanted = false
  /** Whether the last receive was as large as possible, so that there is probably more. */
  #wasFull = false
  #receivedBytes = 0

  protected constructor(options?: DuplexOptions) {
    super(options)
  }

  /**
   * @internal Takes descriptors that arrived with the bytes from `start` to `end` of the stream. Their message is the last one of
   * these bytes on Linux, otherwise the first.
   */
  protected abstract acceptFds(fds: readonly Descriptor[], start: number, end: number): void

  /** @internal Closes the descriptors that arrived and are held. */
  protected abstract closeHeld(): void

  /** @internal Whether to stop receiving; `resumeReceiving` continues. */
  protected get isFull(): boolean {
    return false
  }

  /** @internal Whether a socket is being connected. Without one, writing fails. */
  protected abstract get isConnecting(): boolean

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

  /** @internal Writes bytes, and duplicates of descriptors with the first of them. */
  protected writeMessage(data: unknown, sources: unknown, callback?: Callback): boolean {
    const bytes = bytesOf(data, 'bytes')
    const { writable } = this
    const count = putFds(sources, 'fds')
    // `write` reports that the stream is not writable.
    if (count === 0 || !writable) return super.write(bytes, callback)
    if (bytes.length === 0) throw carrierMissing('bytes')
    const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#duplicates.set(chunk, duplicateShared(count))
    return super.write(chunk, callback)
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
    for (const duplicates of this.#duplicates.values()) closeFds(duplicates)
    this.#duplicates.clear()
    this.closeHeld()
    delayed?.callback(error ?? socketClosed())
    callback(error)
  }

  /** @internal Receives if the stream needs bytes and no receive is pending. */
  protected resumeReceiving(): void {
    if (this.#socket === undefined || !this.#wanted || this.#receiving || this.isFull || this.destroyed) return
    void this.#receive(this.#socket)
  }

  async #receive(socket: UnixSocket): Promise<void> {
    let message: Message | null
    this.#receiving = true
    try {
      message = await endpointOf('socket', socket).receiver.receive(
        socket,
        defaultLimits,
        this.#wasFull ? toMessage : toMessageInTurn,
        undefined
      )
    } catch (error) {
      this.destroy(error as Error)
      return
    } finally {
      this.#receiving = false
    }
    this.#wanted = false
    if (message === null) {
      this.push(null)
      this.read(0) // emits 'end' without a reader if no bytes are left, as Node's net does
      return
    }
    const { data, fds } = message
    this.#wasFull = data.length === defaultLimits.maxBytes
    if (this.destroyed) {
      message.close()
      return
    }
    const start = this.#receivedBytes
    this.#receivedBytes += data.length
    if (fds.length > 0) this.acceptFds(fds, start, this.#receivedBytes)
    this.push(Buffer.from(data.buffer, data.byteOffset, data.length))
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
      const hasFds = this.#duplicates.has(chunk)
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
    const duplicates = this.#duplicates.get(chunk)
    // A send that has to wait duplicates its descriptors itself.
    const sent = socket.send(chunk, duplicates === undefined ? undefined : { fds: duplicates })
    if (duplicates !== undefined) {
      this.#duplicates.delete(chunk)
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

/** Duplicates descriptors to send later. The native side owns the returned numbers. */
export function duplicateSources(sources: unknown): number[] {
  return duplicateShared(putFds(sources, 'fds'))
}

/** Closes those descriptors that are still open. */
export function closeDescriptors(descriptors: readonly Descriptor[]): void {
  closeFds(takeFds(descriptors))
}
