import type { Socket } from 'node:net'
import { type Abortable, onAbort, signalOf, aborted } from '../base/abort.ts'
import { type Bytes, optionsOf, unshared } from '../base/validate.ts'
import { lengthPrefixed } from './receive-connection.ts'
import { invalidReturn, invalidType, invalidValue, withCode } from '../base/errors.ts'
import { putFdAt } from '../native/results.ts'
import { isNetSocket, numberOf, stopReading } from '../descriptor/node-internals.ts'
import { openReactor } from '../event-loop/reactor.ts'
import type { DeferredMessage } from '../socket/pending-send.ts'
import { yieldToLoop, chargeTick } from '../event-loop/tick-budget.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/**
 * Hands a live connection over to another process: its descriptor, and the bytes that Node has already read from it.
 *
 * It waits until the socket is connected and has written everything. Then, in one turn of the event loop, it takes the bytes that Node
 * has read and nothing has consumed, and sends them with the descriptor. When the kernel has taken the message, the socket is
 * destroyed here. While the channel is full, the bytes are returned to the socket; the next attempt takes them again, with those that
 * arrived in the meantime. The receiver reads all later bytes. The connection stays in non-blocking mode, as in Node.
 *
 * Do not read from the socket or write to it after the call. A flowing socket is paused, and the socket's errors reject the returned
 * promise. Bytes that were consumed before, such as the request of an HTTP upgrade, must be added in `message`.
 *
 * @param channel the socket to send over
 * @param socket the connection: TCP or Unix domain, without an encoding
 * @param message makes the message from the bytes that Node has read; called once for each attempt. By default the message is what
 *   {@link receiveConnection} accepts: the length of these bytes, in four bytes, big-endian, and then the bytes, at most 16 MiB
 * @param options `signal`
 * @returns resolves when the kernel has taken the message, and the socket is destroyed here
 *
 *   If it rejects, the socket continues to work, and no byte is missing. Rejects as {@link UnixSocket.send}, and with
 *   - ERR_INVALID_ARG_VALUE for a TLSSocket and the socket below it, whose keys would stay here; for a socket that an HTTP parser or an HTTP/2
 *     session reads, whose requests would stay here; for a socket with an encoding, whose bytes were decoded; and for a socket that is
 *     closed or has no descriptor
 *   - the socket's error, or ERR_SOCKET_CLOSED, if it is closed in the meantime
 *   - the error that `message` throws, or ERR_INVALID_RETURN_VALUE; AbortError
 *
 * @example
 * ```js
 * import { once } from 'node:events'
 * import { connect, createServer } from 'node:net'
 * import { handOver, receiveConnection, socketpair } from 'fdpass'
 *
 * const [channel, worker] = socketpair() // usually the worker is another process
 * const server = createServer(async (connection) => {
 *   await handOver(channel, connection)
 *   const received = await receiveConnection(worker)
 *   received.end('served by the worker')
 * })
 * await once(server.listen(0), 'listening')
 * const client = connect(server.address().port)
 * console.log(String((await once(client, 'data'))[0])) // served by the worker
 * server.close()
 * for (const each of [channel, worker]) each.close()
 * ```
 */
export async function handOver(
  channel: UnixSocket,
  socket: Socket,
  message: (head: Uint8Array) => Bytes = lengthPrefixed,
  options?: Abortable
): Promise<void> {
  openReactor()
  const { isStream } = endpointOf('channel', channel)
  if (!isNetSocket(socket)) throw invalidType('socket', 'an instance of net.Socket', socket)
  const connecting = socket.connecting && !('encrypted' in socket)
  if (!connecting) numberOf('socket', socket)
  if (socket.readableEncoding) throw invalidValue('socket', 'has an encoding: its bytes are gone')
  if (typeof message !== 'function') throw invalidType('message', 'of type function', message)
  const signal = signalOf(optionsOf(options))
  const connection = new OutgoingConnection(socket, message, isStream)
  try {
    if (connecting) await connection.waitFor(signal, (done) => socket.once('connect', () => done()))
    while (!connection.isWritten || !(await connection.send(channel, signal))) await connection.untilWritten(signal)
    if (!chargeTick()) await yieldToLoop()
  } catch (error) {
    connection.restore()
    throw error
  } finally {
    socket.off('error', ignore)
  }
}

function ignore(): void {}

/** Returns the error of a connection that was closed before it was handed over. */
function connectionError(socket: Socket): Error {
  return socket.errored ?? connectionClosed()
}

/** Takes the bytes out of a socket that Node has read and nothing has consumed. */
function takeRead(socket: Socket): Uint8Array {
  const parts: Uint8Array[] = []
  // read() also emits 'data', by which a listener would receive the bytes that are about to be sent.
  const emit = socket.emit.bind(socket) as (event: string | symbol, ...args: unknown[]) => boolean
  const own = Object.getOwnPropertyDescriptor(socket, 'emit')
  const quiet = (event: string | symbol, ...args: unknown[]) => event === 'data' || emit(event, ...args)
  Object.defineProperty(socket, 'emit', { value: quiet, configurable: true })
  try {
    while (socket.readableLength > 0) parts.push(socket.read() as Uint8Array)
  } finally {
    delete (socket as Partial<Socket>).emit
    if (own !== undefined) Object.defineProperty(socket, 'emit', own)
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts)
}

/** Thrown by `build` while bytes wait to be written. */
const unwritten = new Error('unwritten')

/** A connection that is being handed over. */
class OutgoingConnection implements DeferredMessage {
  readonly #socket: Socket
  readonly #message: (head: Uint8Array) => Bytes
  readonly #isStream: boolean
  readonly #flowing: boolean
  /** The bytes that were taken out of the socket. */
  #head: Uint8Array = new Uint8Array()
  /** Resumes reading. Set when the descriptor was sent with a part of the message. */
  #resumeReading: (() => void) | undefined

  constructor(socket: Socket, message: (head: Uint8Array) => Bytes, isStream: boolean) {
    this.#socket = socket
    this.#message = message
    this.#isStream = isStream
    this.#flowing = socket.readableFlowing === true
    if (this.#flowing) socket.pause()
    socket.on('error', ignore)
  }

  /** Waits for an event of the socket; rejects if the socket is closed before. */
  waitFor(signal: AbortSignal | undefined, start: (done: (error?: Error | null) => void) => void): Promise<void> {
    const socket = this.#socket
    if (socket.destroyed) return Promise.reject(connectionError(socket))
    return new Promise((resolve, reject) => {
      const closed = () => settle(connectionError(socket))
      const settle = (error?: Error | null) => {
        socket.off('close', closed)
        abortion?.[Symbol.dispose]()
        if (error) reject(error)
        else resolve()
      }
      socket.once('close', closed)
      const abortion = onAbort(signal, () => settle(aborted(signal!)))
      start(settle)
    })
  }

  /** Whether the kernel has taken everything that was written to the socket, including its end. */
  get isWritten(): boolean {
    const { writableLength, writableEnded, writableFinished } = this.#socket
    return writableLength === 0 && writableEnded === writableFinished
  }

  /** Waits until the kernel has taken everything that was written. */
  async untilWritten(signal: AbortSignal | undefined): Promise<void> {
    const socket = this.#socket
    await this.waitFor(signal, (done) => {
      if (socket.writableEnded) socket.once('finish', () => done())
      else socket.write('', done) // calls back after all queued writes
    })
  }

  /** Sends the connection. Returns false if the socket has to write first. */
  async send(channel: UnixSocket, signal: AbortSignal | undefined): Promise<boolean> {
    // Looked up again: the channel may have been closed in the meantime, and its number reused.
    const sending = endpointOf('channel', channel).sender.sendDeferred(channel, this, signal)
    const closed = () => {
      if (this.#resumeReading === undefined) sending.cancel(() => connectionError(this.#socket))
    }
    this.#socket.once('close', closed)
    try {
      await sending.taken
      this.#socket.destroy()
      return true
    } catch (error) {
      if (error === unwritten) return false
      throw error
    } finally {
      this.#socket.off('close', closed)
    }
  }

  build(): Uint8Array {
    const socket = this.#socket
    if (!this.isWritten) throw unwritten
    this.#head = takeRead(socket)
    try {
      const data: unknown = this.#message(this.#head)
      const bytes = typeof data === 'string' ? Buffer.from(data) : data
      if (!(bytes instanceof Uint8Array) || (bytes.length === 0 && this.#isStream)) {
        throw invalidReturn('message', 'a string or a Uint8Array with at least one byte', data)
      }
      if (socket.destroyed) throw connectionError(socket)
      putFdAt(0, numberOf('socket', socket)) // last, because `message` may send something itself
      return unshared(bytes)
    } catch (error) {
      this.rollback()
      throw error
    }
  }

  rollback(): void {
    if (this.#head.length > 0) this.#socket.unshift(this.#head)
    this.#head = new Uint8Array()
  }

  sent(whole: boolean): void {
    if (whole) {
      this.#socket.destroy()
    } else {
      this.rollback() // immediately, because an emptied socket whose peer has ended would emit 'end'
      this.#resumeReading = stopReading(this.#socket)
    }
  }

  /** Returns the socket to its state before the call. */
  restore(): void {
    this.#resumeReading?.()
    if (this.#flowing) this.#socket.resume()
  }
}

/** Returns the error of a connection that was closed before it was handed over. */
function connectionClosed(): Error {
  return withCode(new Error('The connection was closed before it was handed over'), 'ERR_SOCKET_CLOSED')
}
