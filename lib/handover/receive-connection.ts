import type { Socket } from 'node:net'
import { type Abortable, raceAbort, signalOf } from '../base/abort.ts'
import { boolean, optionsOf } from '../base/validate.ts'
import { HEADER, MAX_HEAD } from './connection-frame.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { isControlError } from '../socket/errors.ts'
import { protocolError } from '../base/errors/system.ts'
import type { Endpoint } from '../socket/endpoint.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/** The longest packet that is received of a channel that keeps packets apart; the kernel allows less. */
const MAX_PACKET = 1024 * 1024

/** Options of {@link receiveConnection}. */
export interface ReceiveConnectionOptions extends Abortable {
  /** Whether the socket stays writable when its peer has ended its half (default false), as an HTTP server wants it. */
  allowHalfOpen?: boolean | undefined
}

/**
 * Receive a connection that {@link handOver} has sent without a `message` of the caller's.
 *
 * @param channel where from; receive nothing else from it meanwhile. Several calls are served in order
 * @param options `allowHalfOpen`, `signal`
 * @returns resolves to the connection, which is the caller's to close, and whose first bytes are what the sender's Node had
 *   read; to null at the end of the channel
 *
 *   Rejects with `EPROTO` for what is no such message, or ends midway; ERR_CONTROL_TRUNCATED where the descriptor was lost to a
 *   full table, and the next call gives the next connection; ERR_INVALID_FD_TYPE if what came is no connection; as
 *   {@link UnixSocket.recv} otherwise. An abort loses nothing.
 */
export async function receiveConnection(
  channel: UnixSocket,
  options?: ReceiveConnectionOptions
): Promise<Socket | null> {
  openReactor()
  const signal = signalOf(optionsOf(options))
  const { allowHalfOpen = false } = options ?? {}
  boolean('options.allowHalfOpen', allowHalfOpen)
  const received = await receiveNext(channel, signal)
  return received === null ? null : openReceived(received, allowHalfOpen)
}

/** A connection that has come through a channel, and what came with it. */
export interface ReceivedConnection {
  readonly connection: Descriptor
  readonly head: Uint8Array
}

/** The next connection that comes through a channel; null at its end. */
export function receiveNext(channel: UnixSocket, signal: AbortSignal | undefined): Promise<ReceivedConnection | null> {
  const endpoint = endpointOf('channel', channel)
  let receiver = receivers.get(channel)
  if (receiver === undefined) receivers.set(channel, (receiver = new ConnectionReceiver(endpoint)))
  return receiver.next(channel, signal)
}

/** Makes a socket of a connection, whose first bytes are its head. What throws has closed the connection. */
export function openReceived({ connection, head }: ReceivedConnection, allowHalfOpen: boolean): Socket {
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

/** The connections that come through a channel. What a call has received of one when it is aborted is the next call's. */
class ConnectionReceiver {
  readonly #endpoint: Endpoint
  readonly #isStream: boolean
  /** Settles when the calls before have. */
  #last: Promise<unknown> = Promise.resolve()
  readonly #header = Buffer.alloc(HEADER)
  #head: Uint8Array[] = []
  #received = 0
  #connection: Descriptor | undefined
  /** Why the connection cannot be had of which the rest is still to come. */
  #lost: Error | undefined
  /** Why nothing can be received any more: where a message begins is not known. */
  #broken: Error | undefined

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint
    this.#isStream = endpoint.isStream
  }

  /** The next connection, when the calls before have had theirs. */
  next(channel: UnixSocket, signal: AbortSignal | undefined): Promise<ReceivedConnection | null> {
    const before = this.#last
    const result = raceAbort(before, signal).then(() => this.#receive(channel, signal))
    this.#last = Promise.allSettled([before, result])
    return result
  }

  async #receive(channel: UnixSocket, signal: AbortSignal | undefined): Promise<ReceivedConnection | null> {
    while (this.#broken === undefined && this.#missing > 0) {
      try {
        const message = await channel.recv({ maxBytes: this.#missing, maxFds: 1, signal })
        message?.pidfd?.closeSync()
        if (message !== null) this.#add(message.data, message.size, message.fds[0])
        else if (this.#received === 0) return null
        else this.#broken = protocolError('the channel ended inside of a message')
      } catch (error) {
        if (!isControlError(error)) {
          if (channel.closed) this.#connection?.closeSync() // nobody can receive the rest
          throw error
        }
        this.#lost ??= error
        this.#add(error.data, error.data.length, undefined)
      }
    }
    return this.#take()
  }

  /** How many bytes are missing; of packets, how many the next may have. */
  get #missing(): number {
    if (!this.#isStream) return this.#received === 0 ? MAX_PACKET : 0
    // On a stream no byte more, which would be the next message's.
    return HEADER - this.#received + (this.#received < HEADER ? 0 : this.#length)
  }

  get #length(): number {
    return this.#header.readUInt32BE()
  }

  #add(data: Uint8Array, size: number, connection: Descriptor | undefined): void {
    const isFirst = this.#received === 0
    const header = data.subarray(0, Math.max(HEADER - this.#received, 0))
    if (header.length > 0) this.#header.set(header, this.#received)
    this.#head.push(data.subarray(header.length))
    this.#received += data.length
    if (isFirst) this.#endpoint.arriving = this.#connection = connection
    else connection?.closeSync()
    if (isFirst === (connection === undefined) && this.#lost === undefined) {
      this.#fail('a message came without a connection, or a connection inside of a message')
    } else if (this.#received >= HEADER && this.#length > MAX_HEAD) {
      this.#fail(`a message says that it has ${this.#length} bytes`)
    } else if (!this.#isStream && (size > data.length || this.#received !== HEADER + this.#length)) {
      this.#fail('a packet is not as long as it says')
    }
  }

  /** What follows on a stream could be anything; packets stay apart. */
  #fail(text: string): void {
    if (this.#isStream) this.#broken = protocolError(text)
    else this.#lost ??= protocolError(text)
  }

  /** What was received; the next message begins behind it. */
  #take(): ReceivedConnection {
    const error = this.#broken ?? this.#lost
    const connection = this.#connection
    const head = Buffer.concat(this.#head)
    this.#endpoint.arriving = this.#connection = this.#lost = undefined
    this.#head = []
    this.#received = 0
    if (error === undefined) return { connection: connection!, head }
    connection?.closeSync()
    throw error
  }
}
