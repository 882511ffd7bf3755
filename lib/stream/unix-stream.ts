import { Duplex, type DuplexOptions } from 'node:stream'
import { bytesOf } from '../base/validate.ts'
import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds, duplicateShared } from '../native/owned-fds.ts'
import { carrierMissing, socketClosed } from '../socket/errors.ts'
import { notConnected } from './errors.ts'
import { borrow } from '../descriptor/borrow.ts'
import { putFds } from '../descriptor/fd-source.ts'
import type { Message } from '../socket/message.ts'
import { type Shape, defaultLimits } from '../socket/receiver.ts'
import { sentAtOnce } from '../socket/sender.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/** How many bytes of small chunks go with one send. */
const TOGETHER = 65_536

const atOnce: Shape<Message | null> = (message) => message

/**
 * A stream does not ask its socket whether more is there: what comes while its listeners run would overtake what has come to other
 * sockets before, and a conversation with a fast peer would keep the event loop from going on. Only where a receive was full, more is there
 * in all likelihood. libuv reads for `net.Socket` in the same way (uv__read in src/unix/stream.c).
 */
const inTurn: Shape<Message | null> = Object.assign((message: Message | null) => message, { inTurn: true })

type Callback = (error?: Error | null) => void

/**
 * A Unix domain socket as a stream of Node's, with descriptors beside the bytes.
 *
 * Writable hands a Buffer on as the object that it was given. So the duplicates of a chunk are found by the chunk, and its buffer
 * counts bytes as that of any stream.
 */
export abstract class SocketStream extends Duplex {
  #socket: UnixSocket | undefined
  #referenced = true
  /** The duplicates that go with a chunk that waits. */
  readonly #captured = new Map<Uint8Array, readonly number[]>()
  /** What waits for the socket: at most one of `_write`, `_writev` and `_final`. */
  #delayed: { readonly write: (socket: UnixSocket) => Promise<void>; readonly callback: Callback } | undefined
  #receiving = false
  #wanted = false
  /** The last receive took as many bytes as it could. */
  #wasFull = false
  /** How many bytes have come. */
  #received = 0

  protected constructor(options?: DuplexOptions) {
    super(options)
  }

  /** @internal What is to be done with descriptors; their message is the last of `end` bytes, or the first from `start` on. */
  protected abstract takeFds(fds: readonly Descriptor[], start: number, end: number): void

  /** @internal Closes what is held that came. */
  protected abstract closeHeld(): void

  /** @internal Whether no more is to be received for now; `resumeReceiving` goes on. */
  protected get full(): boolean {
    return false
  }

  /** @internal Whether there will be a socket; without one, writing is an error. */
  protected abstract get awaitsSocket(): boolean

  /** @internal The number of the socket, while it is open. */
  protected get number(): number | undefined {
    return this.#socket === undefined || this.#socket.closed ? undefined : this.#socket[borrow]()
  }

  /** @internal How many of the bytes that came were read. */
  protected get consumed(): number {
    return this.#received - this.readableLength
  }

  /** @internal The stream closes the socket from now on. */
  protected attach(socket: UnixSocket): void {
    this.#socket = socket
    if (!this.#referenced) socket.unref()
    const delayed = this.#delayed
    this.#delayed = undefined
    if (delayed !== undefined) settle(delayed.write(socket), delayed.callback)
    this.resumeReceiving()
  }

  /** Lets what waits keep the process alive, as it does at first. */
  ref(): this {
    this.#referenced = true
    this.#socket?.ref()
    return this
  }

  /** Lets the process end although something waits. */
  unref(): this {
    this.#referenced = false
    this.#socket?.unref()
    return this
  }

  /** @internal Writes bytes behind those written before, and duplicates of descriptors with the first of them. */
  protected writeCarrying(data: unknown, sources: unknown, callback?: Callback): boolean {
    const bytes = bytesOf(data, 'bytes')
    const { writable } = this
    const count = putFds(sources, 'fds')
    // What cannot be written is told by write itself.
    if (count === 0 || !writable) return super.write(bytes, callback)
    if (bytes.length === 0) throw carrierMissing('bytes')
    const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#captured.set(chunk, duplicateShared(count))
    return super.write(chunk, callback)
  }

  /** @internal */
  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: Callback): void {
    this.#delay((socket) => this.#send(socket, chunk), callback)
  }

  /** @internal */
  override _writev(chunks: readonly { chunk: Uint8Array }[], callback: Callback): void {
    this.#delay((socket) => this.#sendAll(socket, chunks), callback)
  }

  /** @internal */
  override _final(callback: Callback): void {
    if (this.#socket === undefined && !this.awaitsSocket) {
      callback()
      return
    }
    this.#delay(async (socket) => {
      try {
        socket.shutdown('write')
      } catch (error) {
        // A peer that has gone needs not be told; Node's net takes it the same way.
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
    for (const captured of this.#captured.values()) closeFds(captured)
    this.#captured.clear()
    this.closeHeld()
    delayed?.callback(error ?? socketClosed())
    callback(error)
  }

  /** @internal Receives, if it is wanted and not going on already. */
  protected resumeReceiving(): void {
    if (this.#socket === undefined || !this.#wanted || this.#receiving || this.full || this.destroyed) return
    void this.#receive(this.#socket)
  }

  async #receive(socket: UnixSocket): Promise<void> {
    let message: Message | null
    this.#receiving = true
    try {
      message = await endpointOf('socket', socket).receiver.receive(
        socket,
        defaultLimits,
        this.#wasFull ? atOnce : inTurn,
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
      this.read(0) // emits 'end' although nobody reads, where nothing is left to be read, as Node's net does
      return
    }
    const { data, fds } = message
    this.#wasFull = data.length === defaultLimits.maxBytes
    if (this.destroyed) {
      message.close()
      return
    }
    const start = this.#received
    this.#received += data.length
    if (fds.length > 0) this.takeFds(fds, start, this.#received)
    this.push(Buffer.from(data.buffer, data.byteOffset, data.length))
  }

  /** Does something with the socket, as soon as there is one. */
  #delay(write: (socket: UnixSocket) => Promise<void>, callback: Callback): void {
    const socket = this.#socket
    if (socket !== undefined) settle(write(socket), callback)
    else if (this.awaitsSocket) this.#delayed = { write, callback }
    else callback(notConnected())
  }

  /** Sends a chunk with what was captured for it; small ones without descriptors go together. */
  async #sendAll(socket: UnixSocket, chunks: readonly { chunk: Uint8Array }[]): Promise<void> {
    let plain: Uint8Array[] = []
    let length = 0
    const flush = async () => {
      const data = plain.length === 1 ? plain[0]! : Buffer.concat(plain)
      plain = []
      length = 0
      await socket.send(data)
    }
    for (const { chunk } of chunks) {
      const carries = this.#captured.has(chunk)
      if (length > 0 && (carries || length + chunk.length > TOGETHER)) await flush()
      if (carries) {
        await this.#send(socket, chunk)
      } else {
        plain.push(chunk)
        length += chunk.length
      }
    }
    if (length > 0) await flush()
  }

  #send(socket: UnixSocket, chunk: Uint8Array): Promise<void> {
    const captured = this.#captured.get(chunk)
    // The socket makes duplicates of its own where it has to wait.
    const sent = socket.send(chunk, captured === undefined ? undefined : { fds: captured })
    if (captured !== undefined) {
      this.#captured.delete(chunk)
      closeFds(captured)
    }
    return sent
  }
}

/** Tells the callback what became of an operation: at once where it was done at once, as a microtask for each write would add up. */
function settle(operation: Promise<void>, callback: Callback): void {
  if (operation === sentAtOnce) callback()
  else void settleLater(operation, callback)
}

async function settleLater(operation: Promise<void>, callback: Callback): Promise<void> {
  let failure: Error | undefined
  try {
    await operation
  } catch (error) {
    failure = error as Error
  }
  callback(failure) // not within the try: what it throws is nobody's to catch
}

/** Duplicates of descriptors: what their numbers mean now. The native side owns them. */
export function capture(sources: unknown): number[] {
  return duplicateShared(putFds(sources, 'fds'))
}

/** Closes descriptors that nobody takes. */
export function closeAll(descriptors: readonly Descriptor[]): void {
  closeFds(takeFds(descriptors))
}
