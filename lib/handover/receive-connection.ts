import type { Socket } from 'node:net'
import { type Abortable, raceAbort, signalOf } from '../base/abort.ts'
import { boolean, optionsOf } from '../base/validate.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { isControlError } from '../socket/errors.ts'
import { ByteBuffer } from '../base/collections.ts'
import { protocolError, outOfRange } from '../base/errors.ts'
import { checkRuntime } from '../base/runtime.ts'
import { MOST_BYTES } from '../native/shared-memory.ts'
import type { Endpoint } from '../socket/endpoint.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/** The length of the header in bytes. */
const HEADER = 4
/** The most bytes that one message carries of what Node had read. */
const MAX_HEAD = 16 * 1024 * 1024

/** Returns the bytes that Node had read from a connection, behind their length in four bytes, big-endian. */
export function lengthPrefixed(head: Uint8Array): Uint8Array {
  if (head.length > MAX_HEAD) throw outOfRange('head.length', `<= ${MAX_HEAD}`, head.length)
  const framed = Buffer.allocUnsafe(HEADER + head.length)
  framed.writeUInt32BE(head.length)
  framed.set(head, HEADER)
  return framed
}

/** The longest packet that is received from a seqpacket socket. The kernel's limit is lower. */
const MAX_PACKET = 1024 * 1024

/** Options of {@link receiveConnection}. */
export interface ReceiveConnectionOptions extends Abortable {
  /** Whether the socket stays writable after its peer has ended its sending half (default false). HTTP servers need it. */
  allowHalfOpen?: boolean | undefined
}

/**
 * Receives a connection that {@link handOver} has sent with its default `message`.
 *
 * @param channel the socket to receive from. Receive nothing else from it in the meantime. Several calls are served in order
 * @param options `allowHalfOpen`, `signal`
 * @returns resolves to the connection, which the caller owns and must close. Its first bytes are those that the sender's Node had
 *   read. Resolves to null at the end of the channel
 *
 *   Rejects as {@link UnixSocket.recv}, and with
 *   - `EPROTO` for a message of another format, and for one that is cut off by the end of the channel
 *   - ERR_CONTROL_TRUNCATED if the descriptor was lost because the descriptor table is full; the next call continues with the next
 *     connection
 *   - ERR_INVALID_FD_TYPE if the descriptor is not a connection
 *   - ERR_UNSUPPORTED_PLATFORM on Bun, before anything is received
 *
 *   An abort loses nothing: the next call continues.
 */
export async function receiveConnection(
  channel: UnixSocket,
  options?: ReceiveConnectionOptions
): Promise<Socket | null> {
  openReactor()
  checkRuntime(
    'Bun',
    'receiveConnection() does not work on Bun, whose net.Socket reads no received descriptor: use recvFd() and toDuplex(), and read the head (PROTOCOL.md)'
  )
  const signal = signalOf(optionsOf(options))
  const { allowHalfOpen = false } = options ?? {}
  boolean('options.allowHalfOpen', allowHalfOpen)
  const received = await receiveNextConnection(channel, signal)
  return received === null ? null : openReceivedConnection(received, allowHalfOpen)
}

/** A received connection, and the bytes that came with it. */
export interface ReceivedConnection {
  readonly connection: Descriptor
  readonly head: Uint8Array
}

/** Receives the next connection from a channel; resolves to null at its end. */
export function receiveNextConnection(
  channel: UnixSocket,
  signal: AbortSignal | undefined
): Promise<ReceivedConnection | null> {
  const endpoint = endpointOf('channel', channel)
  let receiver = receivers.get(channel)
  if (receiver === undefined) receivers.set(channel, (receiver = new ConnectionReceiver(endpoint)))
  return receiver.next(channel, signal)
}

/** Makes a socket of a received connection, and puts the bytes that came with it first. Closes the connection if it throws. */
export function openReceivedConnection({ connection, head }: ReceivedConnection, allowHalfOpen: boolean): Socket {
  try {
    const socket = connection.toSocket({ allowHalfOpen })
    if (head.length > 0) socket.unshift(head)
    return socket
  } catch (error) {
    connection.closeSync()
    throw error
  }
}

const receivers = new WeakMap<UnixSocket, ConnectionReceiver>()

/** Receives the connections of a channel. The next call continues with a message that an aborted call has received in part. */
class ConnectionReceiver {
  readonly #endpoint: Endpoint
  readonly #isStream: boolean
  /** Settles when the previous calls have settled. */
  #last: Promise<unknown> = Promise.resolve()
  readonly #header = Buffer.alloc(HEADER)
  readonly #head = new ByteBuffer()
  #received = 0
  #connection: Descriptor | undefined
  /** The error of the current message, whose rest has to be received all the same. */
  #lost: Error | undefined
  /** The error after which nothing can be received, because the next message's beginning is unknown. */
  #broken: Error | undefined

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint
    this.#isStream = endpoint.isStream
  }

  /** Receives the next connection, after the previous calls have received theirs. */
  next(channel: UnixSocket, signal: AbortSignal | undefined): Promise<ReceivedConnection | null> {
    const before = this.#last
    const result = raceAbort(before, signal).then(() => this.#receive(channel, signal))
    this.#last = Promise.allSettled([before, result])
    return result
  }

  async #receive(channel: UnixSocket, signal: AbortSignal | undefined): Promise<ReceivedConnection | null> {
    while (this.#broken === undefined && this.#missingBytes > 0) {
      try {
        const message = await channel.recv({
          maxBytes: Math.min(this.#missingBytes, this.#mostBytes),
          maxFds: 1,
          signal
        })
        message?.pidfd?.closeSync()
        if (message !== null) this.#add(message.data, message.size, message.fds[0])
        else if (this.#received === 0) return null
        else this.#broken = protocolError('the channel ended inside of a message')
      } catch (error) {
        if (!isControlError(error)) {
          if (channel.closed) this.#connection?.closeSync() // the rest cannot be received any more
          throw error
        }
        this.#lost ??= error
        this.#add(error.data, error.data.length, undefined)
      }
    }
    return this.#take()
  }

  /** The number of missing bytes of the current message; of packets, the most bytes of the next one. */
  get #missingBytes(): number {
    if (!this.#isStream) return this.#received === 0 ? MAX_PACKET : 0
    // On a stream exactly these: a further byte would belong to the next message, and so would its descriptor.
    return HEADER - this.#received + (this.#received < HEADER ? 0 : this.#length)
  }

  /** The most bytes of one receive, which allocates as many: on a stream, a part of what is missing. */
  get #mostBytes(): number {
    return this.#isStream ? MOST_BYTES : MAX_PACKET
  }

  get #length(): number {
    return this.#header.readUInt32BE()
  }

  #add(data: Uint8Array, size: number, connection: Descriptor | undefined): void {
    const isFirst = this.#received === 0
    const header = data.subarray(0, Math.max(HEADER - this.#received, 0))
    if (header.length > 0) this.#header.set(header, this.#received)
    this.#head.append(data.subarray(header.length))
    this.#received += data.length
    if (isFirst) this.#endpoint.arriving = this.#connection = connection
    else connection?.closeSync()
    if (isFirst === (connection === undefined) && this.#lost === undefined) {
      this.#fail('a message arrived without a connection, or a connection within a message')
    } else if (this.#received >= HEADER && this.#length > MAX_HEAD) {
      this.#fail(`a message announces ${this.#length} bytes`)
    } else if (!this.#isStream && (size > data.length || this.#received !== HEADER + this.#length)) {
      this.#fail('the length of a packet differs from the announced one')
    }
  }

  /** Fails the current message. On a stream, the beginning of the next one is unknown then; packets stay separate. */
  #fail(text: string): void {
    if (this.#isStream) this.#broken = protocolError(text)
    else this.#lost ??= protocolError(text)
  }

  /** Returns or throws the received message, and starts with the next one. */
  #take(): ReceivedConnection {
    const error = this.#broken ?? this.#lost
    const connection = this.#connection
    const head = this.#head.take()
    this.#endpoint.arriving = this.#connection = this.#lost = undefined
    this.#received = 0
    if (error === undefined) return { connection: connection!, head }
    connection?.closeSync()
    throw error
  }
}
