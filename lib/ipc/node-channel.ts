import type { Abortable } from '../base/index.ts'
import {
  type InspectionArguments,
  inspected,
  inspection,
  stateOf,
  uncloneable,
  signalOf,
  MAX_INT,
  integer,
  optionsOf,
  invalidType,
  invalidValue,
  Iteration,
  end
} from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import { closeQuietly } from '../descriptor/internal.ts'
import { UnixSocket } from '../socket/index.ts'
import { openSocket, takeSocketFd } from '../socket/internal.ts'
import { NodeConnection } from './connection.ts'
import type { NodeMessage, NodeValue } from './inbox.ts'
import { duplicateOf, encodeMessage } from './protocol.ts'

/** Options of a {@link NodeChannel}. */
export interface NodeChannelOptions {
  /** The maximum number of bytes of a received message, 1 to 2,147,483,647 (default 16 MiB). A longer message ends the channel. */
  maxBytes?: number | undefined
}

const DEFAULT_MAX_BYTES = 16 * 1024 * 1024

/**
 * The channel between a Node process and its child, which `process.send()` and `process.on('message')` use, over any socket. The
 * peer is an ordinary Node program that is started with the number of its socket in `NODE_CHANNEL_FD`:
 *
 * ```js
 * const [socket, theirs] = socketpair()
 * const env = { ...process.env, NODE_CHANNEL_FD: '3' }
 * spawn('node', ['child.js'], { stdio: ['inherit', 'inherit', 'inherit', theirs.fd], env })
 * theirs.close()
 *
 * const channel = new NodeChannel(socket)
 * await channel.send('serve', bindListener({ port: 8080 })) // in the child: process.on('message', (message, server) => …)
 * for await (const { message, fd } of channel) … // in the child: process.send(message, handle)
 * ```
 *
 * The peer receives a descriptor as a `net.Socket`, `net.Server` or `dgram.Socket`. Messages keep their order, so messages after a
 * descriptor wait until the peer has acknowledged it. Messages are JSON: a child started with `serialization: 'advanced'` is not
 * supported.
 */
export class NodeChannel implements AsyncIterable<NodeMessage>, Disposable, AsyncDisposable {
  /** @internal */
  protected readonly uncloneable = uncloneable
  readonly #socket: UnixSocket
  readonly #connection: NodeConnection
  /** Whether this side closed the channel, which ends iterations. */
  readonly #iterated = { closed: false }

  /**
   * Creates a channel over a socket.
   *
   * @param socket a connected stream socket. The channel takes it over: the object is closed afterwards
   * @param options `maxBytes`
   * @throws ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for a socket of another type; ERR_OUT_OF_RANGE; ERR_SOCKET_CLOSED;
   *   ERR_SOCKET_NOT_EMPTY if the socket holds messages that an iteration received ahead
   */
  constructor(socket: UnixSocket, options?: NodeChannelOptions) {
    if (!(socket instanceof UnixSocket)) throw invalidType('socket', 'an instance of UnixSocket', socket)
    const { maxBytes = DEFAULT_MAX_BYTES } = optionsOf(options) ?? {}
    integer('options.maxBytes', maxBytes, 1, MAX_INT)
    if (socket.type !== 'stream') throw invalidValue('socket', `must be of type 'stream', not '${socket.type}'`)
    this.#socket = openSocket(takeSocketFd(socket), 'stream')
    this.#connection = new NodeConnection(this.#socket, maxBytes)
  }

  /**
   * Whether the channel's socket is closed: this side closed it, the channel failed, or the peer has disconnected and was sent everything.
   * Received messages can still be taken.
   */
  get closed(): boolean {
    return this.#socket.closed
  }

  /**
   * Sends a value, and a handle with it, as `process.send(message, handle)` does.
   *
   * The descriptor is captured when the call is made: the caller keeps it, and may close it when the call returns. Of a `net.Socket`
   * the connection is sent, without the bytes that Node has read from it. Close it on this side, because two processes would read
   * from it.
   *
   * @param message the value that the peer receives as `message`; it must be representable in JSON
   * @param fd the descriptor that the peer receives as `handle`: a TCP or Unix stream socket, a listener of these, or a UDP socket
   * @param options `signal`. An abort withdraws a message that waits behind a descriptor; a message that is being sent is sent all
   *   the same
   * @returns resolves when the kernel has accepted the message; with a descriptor, when the peer has acknowledged it
   *
   *   Rejects with ERR_INVALID_FD_TYPE for a descriptor of another kind, which the peer's Node would drop or fail on;
   *   ERR_HANDLE_NOT_RECEIVED if the peer could not receive the descriptor in four attempts, usually because its descriptor table is full;
   *   `EPIPE` or `ECONNRESET` if the peer is gone or has disconnected; ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for an
   *   object whose `cmd` begins with `NODE_`, which Node reserves; the error that JSON.stringify throws; `EBADF`; `EMFILE`;
   *   ERR_SOCKET_CLOSED; AbortError
   */
  send(message: NodeValue, fd?: FdSource | null, options?: Abortable): Promise<void> {
    try {
      const signal = signalOf(optionsOf(options))
      if (fd === undefined || fd === null) {
        return this.#connection.send(encodeMessage(message, undefined), undefined, signal)
      }
      const descriptor = duplicateOf(fd)
      try {
        return this.#connection.send(encodeMessage(message, descriptor), descriptor, signal)
      } catch (error) {
        closeQuietly(descriptor)
        throw error
      }
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Receives a message that the peer sent with `process.send()`.
   *
   * @param options `signal`
   * @returns resolves to the message, whose descriptor the caller must close; to null when the peer has disconnected or exited
   *
   *   Rejects with `EPROTO` for data that are not Node's protocol in JSON, and if the peer ended within a message, which Node reports as
   *   `'disconnect'`; with `EMSGSIZE` for a message that is too long. Each closes the channel. Rejects with `ECONNRESET` if the peer closed
   *   without reading everything, with ERR_SOCKET_CLOSED, or with AbortError, which loses no message.
   */
  async receive(options?: Abortable): Promise<NodeMessage | null> {
    return this.#connection.receive(signalOf(optionsOf(options)))
  }

  /**
   * Iterates over the messages, until the peer disconnects or this side closes the channel. Leaving the iteration keeps the channel
   * open.
   *
   * @param options `signal` for the whole iteration
   */
  messages(options?: Abortable): AsyncIterableIterator<NodeMessage, undefined> {
    const signal = signalOf(optionsOf(options))
    const take = async () => {
      try {
        const value = await this.#connection.receive(signal)
        return value === null ? end : { done: false as const, value }
      } catch (error) {
        if (this.#iterated.closed) return end
        throw error
      }
    }
    return new Iteration<NodeMessage>(this.#iterated, take, signal)
  }

  /** {@link NodeChannel.messages} without options. */
  [Symbol.asyncIterator](): AsyncIterableIterator<NodeMessage, undefined> {
    return this.messages()
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    return inspected('NodeChannel', () => ({ socket: this.#socket, state: stateOf(this) }), args)
  }

  /** Keeps the process alive while operations are pending. This is the default. */
  ref(): this {
    this.#connection.referenced = true
    return this
  }

  /** Lets the process exit while operations are pending. */
  unref(): this {
    this.#connection.referenced = false
    return this
  }

  /**
   * Closes the channel, which the peer receives as `'disconnect'`, and all messages that were not received. Pending operations
   * reject with ERR_SOCKET_CLOSED, and iterations end.
   */
  close(): void {
    this.#iterated.closed = true
    this.#connection.close()
  }

  /** Closes the channel, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Closes the channel, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
  }
}
