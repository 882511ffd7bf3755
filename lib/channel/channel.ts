import { type Abortable, signalOf } from '../base/abort.ts'
import { Iteration, end } from '../base/async-iterator.ts'
import { invalidType, invalidValue } from '../base/errors.ts'
import { MAX_INT, boolean, integer, optionsOf } from '../base/validate.ts'
import type { FdSource } from '../descriptor/fd-source.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { MAX_CHANNEL_FDS } from '../native/codes.ts'
import { socketNotEmpty } from '../socket/errors.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'
import { Codec } from './codec.ts'
import { ChannelConnection } from './connection.ts'
import type { ChannelLimits, Shape } from './inbox.ts'
import type { RequestHandler } from './incoming-requests.ts'
import type { ChannelMessage, ChannelRequest } from './message.ts'

/** Options of {@link Channel}. */
export interface ChannelOptions<T = unknown> {
  /**
   * The maximum number of bytes of an encoded message, in either direction (default 16 MiB, at most 2 GiB - 1). Memory for a
   * received message is allocated as its bytes arrive, not as the peer announces them.
   */
  maxBytes?: number | undefined
  /** The maximum number of descriptors of a message, in either direction (default 1,024, at most 4,048). */
  maxFds?: number | undefined
  /** The maximum number of bytes of a message of the peer, where the peer may send less than this side (default `maxBytes`). */
  maxReceivedBytes?: number | undefined
  /** The maximum number of descriptors of a message of the peer (default `maxFds`). */
  maxReceivedFds?: number | undefined
  /**
   * Whether the peer may send messages, as opposed to requests and answers (default true). If false, a message ends the channel with
   * `EPROTO`. For a side that calls neither `receive` nor the iterator: messages that are not received end the receiving once
   * `maxPending` of them, or the limits of one message, are held, and the end of the peer behind them is not noticed.
   */
  messages?: boolean | undefined
  /**
   * The maximum number of pending messages, of pending requests, and of the peer's requests that are handled at a time (default
   * 65,536 of each). Further calls of `send` or `request` reject with ERR_TOO_MANY_PENDING. Further requests of the peer stay
   * in the socket.
   */
  maxPending?: number | undefined
  /**
   * The maximum number of bytes of the peer's requests that are handled at a time, together (default 16 MiB, or `maxReceivedBytes`
   * if that is more). Another request is read when it arrives, and handled once there is room for it; later ones stay in the
   * socket. Bytes are counted as they arrive: a value that was decoded from JSON can take 30 times as much memory.
   */
  maxRequestBytes?: number | undefined
  /**
   * The maximum number of descriptors of the peer's requests that are handled at a time, together (default 1,024, or
   * `maxReceivedFds` if that is more). As `maxRequestBytes`.
   */
  maxRequestFds?: number | undefined
  /**
   * Encodes a value. By default bytes stay bytes, and all other values become JSON.
   *
   * @param value the value passed to `send` or `request`, or a reply's
   * @returns the data; a string is sent as UTF-8
   */
  encode?: ((value: T) => Uint8Array | string) | undefined
  /**
   * Decodes the data of a message. By default the data are bytes or JSON, as the peer sent them.
   *
   * @param data the data, which the callback may keep
   * @returns the value
   */
  decode?: ((data: Uint8Array) => T) | undefined
}

/** Options of {@link Channel.request}. */
export interface RequestOptions extends Abortable {
  /** The maximum time until the response arrives, in milliseconds, at least 1 (default: no limit). */
  timeout?: number | undefined
}

/** The reply to a request: a value, and descriptors. */
export interface ChannelReply {
  /** The value (default `undefined`). */
  value?: unknown
  /**
   * The descriptors. Each {@link Descriptor} among them is transferred: it is closed on this side once the reply was sent or has
   * failed. All other sources stay the handler's to close.
   */
  fds?: readonly FdSource[] | null | undefined
}

const DEFAULT_MAX_BYTES = 16 * 1024 * 1024
const DEFAULT_MAX_FDS = 1024
const DEFAULT_MAX_PENDING = 65_536

type Result<T> = IteratorResult<ChannelMessage<T>, undefined>

const toMessage: Shape<ChannelMessage | null> = (message) => message

const toResult: Shape<Result<unknown>> = Object.assign(
  (message: ChannelMessage | null): Result<unknown> => (message === null ? end : { done: false, value: message }),
  { endsQuietly: true }
)

/**
 * Sends and receives messages over a stream connection: values with descriptors, and requests with responses. A message arrives
 * with exactly the descriptors that were sent with it, even if the kernel merges or splits its bytes. PROTOCOL.md specifies the
 * bytes, so that the peer can be written in any language.
 *
 * Messages keep their order in each direction. If the peer stops reading, the socket fills and sends stay pending. If this side
 * stops receiving, messages stay in the socket. Messages are received ahead only while a response, a request or the end of the
 * channel is awaited, and at most up to the limits of one message.
 *
 * A peer that violates the protocol or this side's limits ends the channel, with an error on both sides: `EPROTO`, or `EMSGSIZE`
 * for a message that is too large. Messages before the violation are delivered. Descriptors that are lost because the descriptor
 * table is full affect only their message (ERR_CONTROL_TRUNCATED, with its bytes in `data`).
 *
 * @example
 * ```js
 * import { Channel, memfd, socketpair } from 'fdpass'
 *
 * const [socket, peer] = socketpair() // usually the other end is in another process
 * const server = new Channel(peer)
 * server.onRequest(({ value, fds }) => ({ value: `${value}: ${fds.length} descriptor`, fds }))
 *
 * const channel = new Channel(socket)
 * const memory = memfd({ data: 'x' })
 * const answer = await channel.request('back', [memory])
 * memory.closeSync()
 * console.log(answer.value) // back: 1 descriptor
 * answer.close()
 * channel.close()
 * server.close()
 * ```
 */
export class Channel<T = unknown> implements AsyncIterable<ChannelMessage<T>>, AsyncDisposable, Disposable {
  /** The socket, which the channel owns. Use it to identify the peer or to close the connection. */
  readonly socket: UnixSocket
  readonly #connection: ChannelConnection

  /**
   * Creates a channel over a socket.
   *
   * @param socket a connected stream socket without pending operations, which the channel owns from now on
   * @param options `maxBytes`, `maxFds`, `maxReceivedBytes`, `maxReceivedFds`, `messages`, `maxPending`, `maxRequestBytes`,
   *   `maxRequestFds`, `encode`, `decode`
   * @throws ERR_INVALID_ARG_VALUE for a socket of another type or with pending operations; ERR_SOCKET_NOT_EMPTY if it holds
   *   messages that an iteration received ahead; ERR_INVALID_STATE if another channel owns it; ERR_SOCKET_CLOSED;
   *   ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE
   */
  constructor(socket: UnixSocket, options?: ChannelOptions<T>) {
    openReactor()
    const {
      maxBytes = DEFAULT_MAX_BYTES,
      maxFds = DEFAULT_MAX_FDS,
      maxReceivedBytes = maxBytes,
      maxReceivedFds = maxFds,
      messages = true,
      maxPending = DEFAULT_MAX_PENDING,
      maxRequestBytes,
      maxRequestFds,
      encode,
      decode
    } = optionsOf(options) ?? {}
    integer('options.maxBytes', maxBytes, 0, MAX_INT)
    integer('options.maxFds', maxFds, 0, MAX_CHANNEL_FDS)
    integer('options.maxReceivedBytes', maxReceivedBytes, 0, MAX_INT)
    integer('options.maxReceivedFds', maxReceivedFds, 0, MAX_CHANNEL_FDS)
    boolean('options.messages', messages)
    integer('options.maxPending', maxPending, 1, MAX_INT)
    if (maxRequestBytes !== undefined) integer('options.maxRequestBytes', maxRequestBytes, 0, MAX_INT)
    if (maxRequestFds !== undefined) integer('options.maxRequestFds', maxRequestFds, 0, MAX_INT)
    const limits = {
      maxFds,
      maxReceivedBytes,
      maxReceivedFds,
      messages,
      maxPending,
      maxRequestBytes: maxRequestBytes ?? Math.max(DEFAULT_MAX_BYTES, maxReceivedBytes),
      maxRequestFds: maxRequestFds ?? Math.max(DEFAULT_MAX_FDS, maxReceivedFds)
    }
    const codec = new Codec(encode, decode, maxBytes)
    const endpoint = endpointOf('socket', socket)
    const { receiver, sender } = endpoint
    if (!endpoint.isStream) throw invalidValue('socket', `must be of type 'stream'`)
    if (receiver.held > 0) throw socketNotEmpty(`${receiver.held} messages`)
    if (receiver.waitsForInput || !sender.idle) throw invalidValue('socket', 'has pending operations')
    this.socket = socket
    this.#connection = new ChannelConnection(endpoint, limits, codec)
  }

  /**
   * Resolves when the channel has ended: to null if either side closed it in order, otherwise to the error that ended it. It
   * never rejects. Reading this property lets the channel receive ahead, so that it notices the end, and keeps the process alive
   * as any pending operation does.
   */
  get closed(): Promise<Error | null> {
    this.#connection.watch(this)
    return this.#connection.closing
  }

  /**
   * Sends a message.
   *
   * @param value bytes, which must not change until the promise settles, or a value for `encode`
   * @param fds descriptors to send with the message, at most `maxFds`. The caller keeps each, and may close it when the call
   *   returns
   * @param options `signal`
   * @returns resolves when the kernel has accepted the whole message
   *
   *   Rejects with ERR_OUT_OF_RANGE for a message above the limits, ERR_TOO_MANY_PENDING, the error that `encode` threw, `EPIPE` or
   *   `ECONNRESET` if the peer is gone, the peer's reason if it sent one, `EMFILE` if the message has to wait and the
   *   descriptor table has no room for duplicates, ERR_SOCKET_CLOSED, or AbortError. An abort before the first byte was sent withdraws
   *   the message; a later one does not stop it.
   */
  send(value: T, fds?: readonly FdSource[] | null, options?: Abortable): Promise<void> {
    try {
      return this.#connection.send(this, value, fds, signalOf(optionsOf(options)))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receives the next message.
   *
   * @param options `signal`
   * @returns resolves to the message, whose descriptors the caller must close; to null at the end of the channel
   *
   *   Rejects with the error that ended the channel, or with `ECONNRESET` if the peer closed without reading everything. Rejects with
   *   ERR_CONTROL_TRUNCATED if the message's descriptors were lost, and with `EPROTO` and the reason as `cause` if it could not be
   *   decoded; both have its bytes in `data`, and the next message can be received. Rejects with ERR_SOCKET_CLOSED, or with
   *   AbortError, which loses no message.
   */
  receive(options?: Abortable): Promise<ChannelMessage<T> | null> {
    try {
      const signal = signalOf(optionsOf(options))
      return this.#connection.receive(this, toMessage, signal) as Promise<ChannelMessage<T> | null>
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** Iterates over the messages until the channel ends. Leaving the iteration keeps the channel open and loses no message. */
  [Symbol.asyncIterator](): AsyncIterableIterator<ChannelMessage<T>, undefined> {
    const take = () => this.#connection.receive(this, toResult, undefined) as Promise<Result<T>>
    return new Iteration(this.#connection, take, undefined)
  }

  /**
   * Sends a request.
   *
   * @param value as in {@link Channel.send}
   * @param fds as in {@link Channel.send}
   * @param options `timeout` in milliseconds, `signal`
   * @returns resolves to the response, whose descriptors the caller must close
   *
   *   Rejects as {@link Channel.send}; with the error that the peer's handler threw, of which `message`, `code`, `errno`,
   *   `syscall`, `path` and `address` are sent; ERR_NO_HANDLER if the peer has no handler; `ECONNRESET` if the channel ends
   *   first; `ETIMEDOUT`; AbortError. After a timeout or an abort the peer is notified that the response is no longer needed.
   */
  request(value: T, fds?: readonly FdSource[] | null, options?: RequestOptions): Promise<ChannelMessage<T>> {
    try {
      const signal = signalOf(optionsOf(options))
      const { timeout } = options ?? {}
      if (timeout !== undefined) integer('options.timeout', timeout, 1, MAX_INT)
      return this.#connection.request(this, value, fds, timeout, signal) as Promise<ChannelMessage<T>>
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Sets the handler of the peer's requests.
   *
   * @param handler called with each request, whose descriptors it must close. It returns the reply, a promise of it, or nothing.
   *   An error that it throws is sent to the peer without its stack. Several calls run at a time. Null removes the handler: requests
   *   are then refused with ERR_NO_HANDLER
   * @returns the channel
   * @throws ERR_INVALID_ARG_TYPE
   */
  onRequest(
    handler: ((request: ChannelRequest<T>) => ChannelReply | void | Promise<ChannelReply | void>) | null
  ): this {
    if (handler !== null && typeof handler !== 'function') {
      throw invalidType('handler', 'of type function or null', handler)
    }
    this.#connection.handle(this, (handler ?? undefined) as RequestHandler | undefined)
    return this
  }

  /** Keeps the process alive while operations are pending or a handler is set. This is the default. */
  ref(): this {
    this.socket.ref()
    return this
  }

  /** Lets the process exit while operations are pending. */
  unref(): this {
    this.socket.unref()
    return this
  }

  /**
   * Closes the channel and its socket at once. Closing a closed channel has no effect.
   *
   * Pending operations reject with ERR_SOCKET_CLOSED. Iterations end. Messages that were not received are closed. A message that
   * was not sent completely is lost: await pending sends first.
   */
  close(): void {
    this.socket.close()
  }

  /** Closes the channel, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Closes the channel, for `await using`. Descriptors, whose closing can block, are closed on the thread pool. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.socket[Symbol.asyncDispose]()
  }
}

const NOTHING: ChannelLimits = {
  maxFds: 0,
  maxReceivedBytes: 0,
  maxReceivedFds: 0,
  messages: false,
  maxPending: 1,
  maxRequestBytes: 0,
  maxRequestFds: 0
}

/**
 * Refuses a connection whose peer expects a channel: sends it the reason, as the close of a channel, and closes the socket.
 * Nothing is received from the peer.
 */
export function refuse(socket: UnixSocket, reason: Error): void {
  try {
    const endpoint = endpointOf('socket', socket)
    new ChannelConnection(endpoint, NOTHING, new Codec(undefined, undefined, 0)).refuse(reason)
  } finally {
    socket.close()
  }
}
