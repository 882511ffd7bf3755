import { type Abortable, signalOf } from '../base/abort.ts'
import { MAX_INT, integer, optionsOf } from '../base/validate.ts'
import type { ChannelMessage, ChannelRequest } from './message.ts'
import { codecOf } from './codec.ts'
import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { socketNotEmpty } from '../socket/errors.ts'
import type { FdSource } from '../descriptor/fd-source.ts'
import { Iteration, end } from '../base/async-iterator.ts'
import { type Handler, Link, type Shape } from './connection.ts'
import { MAX_CHANNEL_FDS } from '../native/codes.ts'
import { openReactor } from '../event-loop/reactor.ts'
import { type UnixSocket, endpointOf } from '../socket/unix-socket.ts'

/** Options of {@link Channel}. */
export interface ChannelOptions<T = unknown> {
  /**
   * The most bytes of a message, as it is encoded, in either direction (default 16 MiB, at most 2 GiB - 1). What is received
   * takes memory as it comes, not as it is announced.
   */
  maxBytes?: number | undefined
  /** The most descriptors of a message, in either direction (default 1,024, at most 4,048). */
  maxFds?: number | undefined
  /**
   * The most messages that may wait to be sent, requests that may wait for their answers, and requests of the other end that
   * are handled at a time (default 65,536 of each). One's own that is too many rejects with ERR_TOO_MANY_PENDING; the
   * other end's wait in the socket.
   */
  maxPending?: number | undefined
  /**
   * Makes the data of a message out of a value. By default bytes go as they are and all else as JSON.
   *
   * @param value what is to be sent
   * @returns the data; a string goes as UTF-8
   */
  encode?: ((value: T) => Uint8Array | string) | undefined
  /**
   * Makes a value out of the data of a message. By default what the other end has sent as bytes, or as JSON.
   *
   * @param data the data, which it may keep
   * @returns the value
   */
  decode?: ((data: Uint8Array) => T) | undefined
}

/** Options of {@link Channel.request}. */
export interface RequestOptions extends Abortable {
  /** How long to wait for the answer, in milliseconds, at least 1 (default: without an end). */
  timeout?: number | undefined
}

/** What answers a request: a value, and descriptors that go with it. */
export interface ChannelReply {
  /** The value (default `undefined`). */
  value?: unknown
  /** The descriptors. Those that are a {@link Descriptor} are given away with the reply: it closes them here. */
  fds?: readonly FdSource[] | null | undefined
}

/** What holds where nobody says. */
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
 * Messages over a connection, each a value with exactly the descriptors that were sent with it, whatever the kernel merges or
 * splits; and requests that are answered. PROTOCOL.md describes the bytes, so that any program can be at the other end.
 *
 * Messages keep their order, in either direction. What the other end does not take fills the socket, and then a send waits;
 * what this end does not take stays in the socket: nothing is received that nobody waits for, except, within the
 * limits of one message, while an answer, a request or the end is waited for.
 *
 * A peer that does not keep to the protocol or to this end's limits ends the channel, with an error at both ends:
 * `EPROTO`, or `EMSGSIZE` for a message that is too large. What came before it arrives. Descriptors that could not be
 * delivered, because the table is full, take only their message along (ERR_CONTROL_TRUNCATED, its bytes in `data`).
 */
export class Channel<T = unknown> implements AsyncIterable<ChannelMessage<T>>, AsyncDisposable, Disposable {
  /** The socket, which belongs to the channel: it can still tell who is at the other end, and be closed. */
  readonly socket: UnixSocket
  readonly #link: Link

  /**
   * @param socket a connected stream socket, of which nothing waits to be received or sent; the channel's from now on
   * @param options `maxBytes`, `maxFds`, `maxPending`, `encode`, `decode`
   * @throws ERR_INVALID_ARG_VALUE for a socket of another type, or with operations that wait; ERR_SOCKET_NOT_EMPTY while
   *   it holds messages that an iteration received ahead; ERR_INVALID_STATE if it belongs to a channel; ERR_SOCKET_CLOSED
   */
  constructor(socket: UnixSocket, options?: ChannelOptions<T>) {
    openReactor()
    const {
      maxBytes = DEFAULT_MAX_BYTES,
      maxFds = DEFAULT_MAX_FDS,
      maxPending = DEFAULT_MAX_PENDING,
      encode,
      decode
    } = optionsOf(options) ?? {}
    const limits = {
      maxBytes: integer('options.maxBytes', maxBytes, 0, MAX_INT),
      maxFds: integer('options.maxFds', maxFds, 0, MAX_CHANNEL_FDS),
      maxPending: integer('options.maxPending', maxPending, 1, MAX_INT)
    }
    const codec = codecOf(encode, decode)
    const endpoint = endpointOf('socket', socket)
    const { receiver, sender } = endpoint
    if (!endpoint.isStream) throw invalidValue('socket', `must be of type 'stream', which this one is not`)
    if (receiver.held > 0) throw socketNotEmpty(`${receiver.held} messages`)
    if (receiver.waitsForInput || !sender.idle) throw invalidValue('socket', 'has operations that wait')
    this.socket = socket
    this.#link = new Link(endpoint, limits, codec)
  }

  /**
   * Resolves when the channel has ended, and says why: to null where either end closed it in order, to the error
   * otherwise. It never rejects. Asking for it lets the channel receive ahead, so that the end is noticed, and keeps
   * the process alive as any other operation does.
   */
  get closed(): Promise<Error | null> {
    this.#link.watch(this)
    return this.#link.closing
  }

  /**
   * Send a message.
   *
   * @param value bytes, unchanged until the promise settles, or what `encode` takes
   * @param fds what goes with it, at most `maxFds`; each stays the caller's, and may be closed as soon as this has returned
   * @param options `signal`
   * @returns resolves when the kernel has taken the whole message
   *
   *   Rejects with ERR_OUT_OF_RANGE for a message over the limits, ERR_TOO_MANY_PENDING, what `encode` throws, `EPIPE` or
   *   `ECONNRESET` when the peer is gone, and with the peer's reason if it gave one; `EMFILE` if it has to wait and the
   *   table has no room for duplicates; ERR_SOCKET_CLOSED; AbortError. An abort before the first byte sends nothing;
   *   after it the message goes all the same.
   */
  send(value: T, fds?: readonly FdSource[] | null, options?: Abortable): Promise<void> {
    try {
      return this.#link.send(this, value, fds, signalOf(optionsOf(options)))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receive the next message.
   *
   * @param options `signal`
   * @returns resolves to the message, whose descriptors are the caller's to close; to null at the end of the channel
   *
   *   Rejects with what ended the channel (see there), with `ECONNRESET` if the peer closed without reading all; with
   *   ERR_CONTROL_TRUNCATED where the message's descriptors were lost, and `EPROTO` with the reason as `cause` where it
   *   could not be decoded: its bytes are in `data`, and the next one can be received; ERR_SOCKET_CLOSED; AbortError,
   *   which loses nothing.
   */
  receive(options?: Abortable): Promise<ChannelMessage<T> | null> {
    try {
      const signal = signalOf(optionsOf(options))
      return this.#link.receive(this, toMessage, signal) as Promise<ChannelMessage<T> | null>
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** The messages as they come, until the end of the channel. Leaving the iteration leaves the channel open, and loses nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<ChannelMessage<T>, undefined> {
    const take = () => this.#link.receive(this, toResult, undefined) as Promise<Result<T>>
    return new Iteration(this.#link, take, undefined)
  }

  /**
   * Send a message that asks for an answer.
   *
   * @param value as in {@link Channel.send}
   * @param fds as in {@link Channel.send}
   * @param options `timeout` in milliseconds, `signal`
   * @returns resolves to the answer, whose descriptors are the caller's to close
   *
   *   Rejects as {@link Channel.send}; with the error that the other end's handler threw: its message, `code`, `errno`,
   *   `syscall`, `path` and `address`; ERR_NO_HANDLER if there is no handler; `ECONNRESET` if the channel ends first;
   *   `ETIMEDOUT`; AbortError. The other end is told where nobody waits any more.
   */
  request(value: T, fds?: readonly FdSource[] | null, options?: RequestOptions): Promise<ChannelMessage<T>> {
    try {
      const signal = signalOf(optionsOf(options))
      const { timeout } = options ?? {}
      if (timeout !== undefined) integer('options.timeout', timeout, 1, MAX_INT)
      return this.#link.request(this, value, fds, timeout, signal) as Promise<ChannelMessage<T>>
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Answer the other end's requests, from now on and while the channel is open.
   *
   * @param handler gets each request, whose descriptors are its to close, and gives the reply, or a promise of it, or
   *   nothing; what it throws is the other end's error, without its stack. Several run at a time. Null: answer no more
   */
  onRequest(
    handler: ((request: ChannelRequest<T>) => ChannelReply | void | Promise<ChannelReply | void>) | null
  ): this {
    if (handler !== null && typeof handler !== 'function') {
      throw invalidType('handler', 'of type function or null', handler)
    }
    this.#link.handle(this, (handler ?? undefined) as Handler | undefined)
    return this
  }

  /** Let operations that wait, and a handler, keep the process alive, as they do at first. */
  ref(): this {
    this.socket.ref()
    return this
  }

  /** Let the process end although operations wait. */
  unref(): this {
    this.socket.unref()
    return this
  }

  /**
   * Close the channel and its socket at once; nothing happens if it already is.
   *
   * What waits rejects with ERR_SOCKET_CLOSED; an iteration ends; messages that nobody took are closed. A message that
   * has not gone out whole is not sent: await your sends first.
   */
  close(): void {
    this.socket.close()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** As {@link Channel.close}, with the closing of descriptors, which can block, on the thread pool. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.socket[Symbol.asyncDispose]()
  }
}
