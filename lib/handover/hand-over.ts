import type { Socket } from 'node:net'
import { type Abortable, onAbort, signalOf } from '../base/abort.ts'
import { type Bytes, optionsOf } from '../base/validate.ts'
import { frame } from './connection-frame.ts'
import { aborted } from '../base/errors/abort.ts'
import { connectionClosed } from './errors.ts'
import { invalidReturn, invalidType, invalidValue } from '../base/errors/argument.ts'
import { fds } from '../native/shared-memory.ts'
import { isNetSocket, numberOf, stopReading } from '../descriptor/node-internals.ts'
import { openReactor } from '../event-loop/reactor.ts'
import type { DeferredMessage } from '../socket/pending-send.ts'
import { yieldToLoop, chargeTick } from '../event-loop/tick-budget.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/**
 * Hand a live connection over: its descriptor, and what Node has already read of it.
 *
 * In one turn of the event loop it takes what Node has read and nobody has consumed, sends it together with the descriptor,
 * and destroys Node's side once the kernel has taken the message. While the channel is full the bytes are back in the
 * socket; the next attempt takes them again, with what came meanwhile. What arrives from then on is read by whoever receives
 * the connection, which is in non-blocking mode, as Node has it. It waits until the socket is connected, and has written what
 * was given to it to write.
 *
 * From the call on leave the socket alone: write nothing, and read nothing. It is paused, if it was flowing, and its errors are
 * this promise's. What was consumed before, such as the request of an HTTP upgrade, is the caller's to add in `message`.
 *
 * @param channel where to
 * @param socket the connection: TCP or Unix domain, without an encoding
 * @param message makes the message out of what Node has read; called again for each attempt. Without it the message is the
 *   length of the head in four bytes, the most significant first, and then the head, of at most 16 MiB: what
 *   {@link receiveConnection} takes
 * @param options `signal`
 * @returns resolves when the kernel has taken the message, and the socket is destroyed here
 *
 *   Rejects as {@link UnixSocket.send}, with ERR_INVALID_ARG_VALUE for a TLSSocket (its keys would stay behind), one with an
 *   encoding (its bytes are gone), and one that is closed or has no descriptor; with its own error, or ERR_SOCKET_CLOSED, if it
 *   is closed meanwhile; with what `message` throws, or ERR_INVALID_RETURN_VALUE; AbortError. The socket goes on working then,
 *   with not a byte missing.
 */
export async function handOver(
  channel: UnixSocket,
  socket: Socket,
  message: (head: Uint8Array) => Bytes = frame,
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
    if (connecting) await connection.until(signal, (done) => socket.once('connect', () => done()))
    while (!connection.isWritten || !(await connection.send(channel, signal))) await connection.written(signal)
    if (!chargeTick()) await yieldToLoop()
  } catch (error) {
    connection.stay()
    throw error
  } finally {
    socket.off('error', ignore)
  }
}

function ignore(): void {}

/** Why a connection that was to be handed over is closed. */
function connectionError(socket: Socket): Error {
  return socket.errored ?? connectionClosed()
}

/** Takes out of a socket what Node has read and nobody has consumed. */
function takeRead(socket: Socket): Uint8Array {
  const parts: Uint8Array[] = []
  // read() emits 'data' as well: a listener would get what is about to be sent.
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
  /** What was taken out of the socket. */
  #head: Uint8Array = new Uint8Array()
  /** Has Node read again, after the descriptor has gone with a part of the message. */
  #goOn: (() => void) | undefined

  constructor(socket: Socket, message: (head: Uint8Array) => Bytes, isStream: boolean) {
    this.#socket = socket
    this.#message = message
    this.#isStream = isStream
    this.#flowing = socket.readableFlowing === true
    if (this.#flowing) socket.pause()
    socket.on('error', ignore)
  }

  /** Waits for something that ends with the connection. */
  until(signal: AbortSignal | undefined, start: (done: (error?: Error | null) => void) => void): Promise<void> {
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

  /** Whether the kernel has everything that was given to the socket to write, its end included. */
  get isWritten(): boolean {
    const { writableLength, writableEnded, writableFinished } = this.#socket
    return writableLength === 0 && writableEnded === writableFinished
  }

  /** Waits until everything is written. */
  async written(signal: AbortSignal | undefined): Promise<void> {
    const socket = this.#socket
    await this.until(signal, (done) => {
      if (socket.writableEnded) socket.once('finish', () => done())
      else socket.write('', done) // behind what waits
    })
  }

  /** Sends it; false where something has to be written first. */
  async send(channel: UnixSocket, signal: AbortSignal | undefined): Promise<boolean> {
    // Asked again: the channel may have been closed meanwhile, and its number be another socket's.
    const sending = endpointOf('channel', channel).sender.sendDeferred(channel, this, signal)
    const closed = () => {
      if (this.#goOn === undefined) sending.cancel(() => connectionError(this.#socket))
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
      fds[0] = numberOf('socket', socket) // last, as the function above can send something else
      return bytes
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
      this.rollback() // at once: an emptied socket whose peer has ended would emit 'end'
      this.#goOn = stopReading(this.#socket)
    }
  }

  /** Lets the socket go on as if nothing had been. */
  stay(): void {
    this.#goOn?.()
    if (this.#flowing) this.#socket.resume()
  }
}
