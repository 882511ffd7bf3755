import { constants } from 'node:os'
import type { Abortable } from '../base/index.ts'
import {
  onAbort,
  signalOf,
  MAX_INT,
  integer,
  optionsOf,
  aborted,
  invalidType,
  invalidValue,
  protocolError,
  tooLarge,
  undecodable,
  rejection,
  Iteration,
  end,
  type Pending,
  settle,
  Queue
} from '../base/internal.ts'
import type { Descriptor, FdSource } from '../descriptor/index.ts'
import { closeQuietly } from '../descriptor/internal.ts'
import { isControlError, socketClosed } from '../socket/internal.ts'
import { systemError } from '../native/internal.ts'
import { UnixSocket } from '../socket/index.ts'
import { notReceived } from './errors.ts'
import { Lines } from './lines.ts'
import { type Internal, NodeMessage, type NodeValue, duplicateOf, isInternal, lineOf } from './node-message.ts'

/** Options of a {@link NodeChannel}. */
export interface NodeChannelOptions {
  /** The most bytes that a message may have (default 16 MiB); one that is longer ends the channel. */
  maxBytes?: number | undefined
}

/** How many bytes a message may have where nobody says. */
const DEFAULT_MAX_BYTES = 16 * 1024 * 1024

/** How often a descriptor is sent again that the other end could not receive: as often as Node does. */
const MOST_RETRIES = 3

/** How many descriptors are held for whoever receives next, how many that no line has told of, and how many answers wait to be read. */
const MOST_HELD = 64

/** A message on its way out. */
interface Sending extends Pending<void> {
  readonly line: Buffer
  /** A duplicate of what goes with it, kept until the other end has it. */
  readonly descriptor: Descriptor | undefined
  retries: number
  /** Whether nobody waits for it any more. */
  settled: boolean
}

type Receiving = Pending<NodeMessage | null>

/**
 * The channel between a Node process and its child: what `process.send()` and `process.on('message')` speak, over a socket of
 * one's own. The other end is an ordinary Node program, which is started with the number of its end in `NODE_CHANNEL_FD`:
 *
 * ```js
 * const [socket, theirs] = socketpair()
 * const number = theirs.release()
 * const env = { ...process.env, NODE_CHANNEL_FD: '3' }
 * spawn('node', ['child.js'], { stdio: ['inherit', 'inherit', 'inherit', number], env })
 * closeSync(number)
 *
 * const channel = new NodeChannel(socket)
 * await channel.send('serve', bindListener({ port: 8080 })) // there: process.on('message', (message, server) => …)
 * for await (const { message, fd } of channel) … // there: process.send(message, handle)
 * ```
 *
 * A descriptor arrives there as a `net.Socket`, a `net.Server` or a `dgram.Socket`. Messages keep their order, so that what is
 * behind a descriptor waits until the other end has acknowledged that. They are JSON: a child that was told
 * `serialization: 'advanced'` speaks another language.
 */
export class NodeChannel implements AsyncIterable<NodeMessage>, Disposable, AsyncDisposable {
  readonly #socket: UnixSocket
  readonly #maxBytes: number
  readonly #lines = new Lines()
  /** What has come and belongs to a line that has not. */
  readonly #descriptors = new Queue<Descriptor>()
  /** What has come and nobody has asked for yet. */
  readonly #held = new Queue<NodeMessage>()
  #heldBytes = 0
  #heldFds = 0
  readonly #receivings = new Queue<Receiving>()
  /** What waits until the other end has acknowledged a descriptor. */
  readonly #waiting = new Queue<Sending>()
  #unacknowledged: Sending | undefined
  /** How many answers to the other end's Node wait for it to read. */
  #untold = 0
  #reading = false
  /** Ends the receive that goes on. */
  #receive: AbortController | undefined
  /** Whether the program has closed it: an iteration ends then. */
  readonly #state = { closed: false }
  #begun = false
  #ended = false
  #failure: (() => Error) | undefined

  /**
   * Speak Node's protocol over a socket.
   *
   * @param socket a connected stream, which belongs to the channel from then on: it is closed for anything else
   * @param options `maxBytes`
   * @throws ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for another type of socket; ERR_OUT_OF_RANGE; ERR_SOCKET_CLOSED;
   *   ERR_SOCKET_NOT_EMPTY where an iteration took messages ahead
   */
  constructor(socket: UnixSocket, options?: NodeChannelOptions) {
    if (!(socket instanceof UnixSocket)) throw invalidType('socket', 'an instance of UnixSocket', socket)
    const { maxBytes = DEFAULT_MAX_BYTES } = optionsOf(options) ?? {}
    this.#maxBytes = integer('options.maxBytes', maxBytes, 1, MAX_INT)
    if (socket.type !== 'stream')
      throw invalidValue('socket', `is of type '${socket.type}', and Node's channel is a stream`)
    this.#socket = UnixSocket.from(socket.release())
  }

  /** Whether this side was closed, or failed. */
  get closed(): boolean {
    return this.#socket.closed
  }

  /**
   * Send a value, and a handle with it: `process.send(message, handle)`.
   *
   * What the descriptor means now is what is sent: it stays the caller's, and may be closed as soon as this has returned. Of a
   * `net.Socket` the connection is sent, and not what Node has read of it; close it here, as two would read from it.
   *
   * @param message what the other end gets as `message`: what JSON can tell of it
   * @param fd what it gets as `handle`: a TCP or Unix domain stream, a listener of these, or a UDP socket
   * @param options `signal`, whose abort takes back what waits behind another descriptor; of what is on its way it ends the
   *   waiting alone
   * @returns resolves when the kernel has taken the message; with a descriptor, when the other end has acknowledged that
   *
   *   Rejects with ERR_INVALID_FD_TYPE for a descriptor of another kind, of which Node would make nothing or a failed assertion;
   *   ERR_HANDLE_NOT_RECEIVED where the other end could not receive it in four attempts, for a full descriptor table as a rule;
   *   `EPIPE` or `ECONNRESET` where it has gone or disconnected; ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for an object whose
   *   `cmd` begins with `NODE_`, which Node takes for its own; what JSON.stringify throws; `EBADF`, `EMFILE`; ERR_SOCKET_CLOSED;
   *   AbortError.
   */
  send(message: NodeValue, fd?: FdSource | null, options?: Abortable): Promise<void> {
    try {
      const signal = signalOf(optionsOf(options))
      if (fd === undefined || fd === null) return this.#send(lineOf(message, undefined), undefined, signal)
      const descriptor = duplicateOf(fd)
      try {
        return this.#send(lineOf(message, descriptor), descriptor, signal)
      } catch (error) {
        closeQuietly(descriptor)
        throw error
      }
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #send(line: Buffer, descriptor: Descriptor | undefined, signal: AbortSignal | undefined): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure()
    if (this.closed) throw socketClosed()
    if (this.#ended) throw systemError(-constants.errno.EPIPE, 'sendmsg')
    return new Promise((resolve) => {
      const sending: Sending = { line, descriptor, retries: 0, settled: false, resolve, abortion: undefined }
      sending.abortion = onAbort(signal, () => {
        if (this.#waiting.remove(sending)) closeQuietly(sending.descriptor)
        this.#settle(sending, () => aborted(signal!))
      })
      this.#waiting.push(sending)
      this.#flush()
    })
  }

  /**
   * Receive a message: what the other end has sent by `process.send()`.
   *
   * @param options `signal`
   * @returns resolves to the message, whose descriptor is the caller's to close; to null when the other end has disconnected, or
   *   ended
   *
   *   Rejects with `EPROTO` for what is not Node's protocol in JSON, and `EMSGSIZE` for a message that is too long: the channel
   *   is closed then; `ECONNRESET` where the other end has gone without reading all; ERR_SOCKET_CLOSED; AbortError, which loses
   *   nothing.
   */
  async receive(options?: Abortable): Promise<NodeMessage | null> {
    return this.#take(signalOf(optionsOf(options)))
  }

  /**
   * The messages as they come, until the other end disconnects or this side's close. Leaving the iteration leaves the channel
   * open.
   *
   * @param options `signal` for the whole
   */
  messages(options?: Abortable): AsyncIterableIterator<NodeMessage, undefined> {
    const signal = signalOf(optionsOf(options))
    const take = async () => {
      try {
        const value = await this.#take(signal)
        return value === null ? end : { done: false as const, value }
      } catch (error) {
        if (this.#state.closed) return end
        throw error
      }
    }
    return new Iteration<NodeMessage>(this.#state, take, signal)
  }

  /** {@link NodeChannel.messages} without options. */
  [Symbol.asyncIterator](): AsyncIterableIterator<NodeMessage, undefined> {
    return this.messages()
  }

  #take(signal: AbortSignal | undefined): Promise<NodeMessage | null> | NodeMessage | null {
    const held = this.#held.shift()
    if (held !== undefined) {
      if (held.fd !== null) this.#heldFds--
      if (this.#held.length === 0) this.#heldBytes = 0
      this.#update()
      return held
    }
    if (this.#failure !== undefined) throw this.#failure()
    if (this.closed) throw socketClosed()
    if (this.#ended) return null
    return new Promise((resolve) => {
      const receiving: Receiving = { resolve, abortion: undefined }
      receiving.abortion = onAbort(signal, () => {
        this.#receivings.remove(receiving)
        settle(receiving, Promise.reject(aborted(signal!)))
        this.#update()
      })
      this.#receivings.push(receiving)
      this.#update()
    })
  }

  /** Let what waits keep the process alive, as it does at first. */
  ref(): this {
    this.#socket.ref()
    return this
  }

  /** Let the process end although something waits. */
  unref(): this {
    this.#socket.unref()
    return this
  }

  /**
   * Close the channel, which the other end sees as `'disconnect'`, and what has come and was not received. What waits rejects
   * with ERR_SOCKET_CLOSED, and an iteration ends.
   */
  close(): void {
    this.#state.closed = true
    this.#socket.close()
    for (let held = this.#held.shift(); held !== undefined; held = this.#held.shift()) held[Symbol.dispose]()
    this.#endWith(socketClosed, socketClosed)
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Close, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
  }

  /** Ends all that waits, and closes what belongs to no message. */
  #endWith(sendError: () => Error, receiveError?: () => Error): void {
    this.#ended = true
    for (let fd = this.#descriptors.shift(); fd !== undefined; fd = this.#descriptors.shift()) closeQuietly(fd)
    const sendings = this.#unacknowledged === undefined ? [] : [this.#unacknowledged]
    this.#unacknowledged = undefined
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) sendings.push(next)
    for (const sending of sendings) this.#finish(sending, sendError)
    for (let next = this.#receivings.shift(); next !== undefined; next = this.#receivings.shift()) {
      settle(next, receiveError === undefined ? null : rejection(receiveError))
    }
  }

  /** What has come breaks the protocol, or cannot be received any more. */
  #fail(error: () => Error): void {
    if (this.closed) return
    this.#failure = error
    this.#socket.close()
    this.#endWith(error, error)
  }

  #finish(sending: Sending, error?: () => Error): void {
    closeQuietly(sending.descriptor)
    this.#settle(sending, error)
  }

  #settle(sending: Sending, error?: () => Error): void {
    if (sending.settled) return // by an abort, or by the end while it was being written
    sending.settled = true
    settle(sending, error === undefined ? undefined : rejection(error))
  }

  /** Sends what waits, up to and with a descriptor, which the other end has to acknowledge. */
  #flush(): void {
    while (this.#unacknowledged === undefined) {
      const sending = this.#waiting.shift()
      if (sending === undefined) break
      this.#write(sending)
    }
    this.#update()
  }

  #write(sending: Sending): void {
    if (sending.descriptor !== undefined) this.#unacknowledged = sending
    void this.#writeLine(sending)
  }

  async #writeLine(sending: Sending): Promise<void> {
    const { descriptor, line } = sending
    try {
      // Without the signal, whose abort would end the stream within a line.
      await this.#socket.send(line, { fds: descriptor === undefined ? [] : [descriptor] })
      if (descriptor === undefined) this.#finish(sending)
    } catch (error) {
      this.#finish(sending, () => error as Error)
      if (this.#unacknowledged !== sending) return
      this.#unacknowledged = undefined
      if (!this.closed) this.#flush()
    }
  }

  /**
   * Whether something that comes in is wanted: somebody waits for a message, or for an acknowledgement and there is room; and the other end
   * takes the answers that it gets.
   */
  get #wants(): boolean {
    if (this.#ended || this.closed || this.#untold >= MOST_HELD) return false
    if (this.#receivings.length > 0) return true
    const hasRoom = this.#heldBytes <= this.#maxBytes && this.#heldFds < MOST_HELD
    return this.#unacknowledged !== undefined && hasRoom
  }

  #update(): void {
    if (!this.#wants) this.#receive?.abort()
    else if (!this.#reading) {
      this.#reading = true
      void this.#read()
    }
  }

  async #read(): Promise<void> {
    while (this.#wants) {
      this.#receive ??= new AbortController()
      const { signal } = this.#receive
      try {
        const message = await this.#socket.recv({ signal })
        if (this.closed) message?.close()
        else if (message === null) this.#end()
        else this.#accept(message.data, message.fds)
      } catch (error) {
        if (signal.aborted) this.#receive = undefined
        // Its descriptor was lost, its line was not: it will be told that, and send again.
        else if (isControlError(error)) this.#accept(error.data, [])
        else this.#fail(() => error as Error)
      }
    }
    this.#receive = undefined
    this.#reading = false
  }

  /** The other end has disconnected. */
  #end(): void {
    if (this.#lines.pending > 0) return this.#fail(() => protocolError('the other end has ended within a message'))
    this.#endWith(() => systemError(-constants.errno.ECONNRESET, 'recvmsg'))
  }

  #accept(data: Uint8Array, descriptors: readonly Descriptor[]): void {
    for (const descriptor of descriptors) this.#descriptors.push(descriptor)
    if (this.#descriptors.length > MOST_HELD)
      return this.#fail(() => protocolError('descriptors came without a message'))
    if (!this.#begun && data[0] === 0) {
      // The length of a message in V8's format, most significant byte first.
      return this.#fail(() => protocolError("the other end does not speak JSON, but serialization: 'advanced'"))
    }
    this.#begun = true
    for (const line of this.#lines.take(data)) {
      if (line.length > this.#maxBytes) return this.#failForLength(line.length)
      try {
        this.#handle(JSON.parse(line.toString()), line.length)
      } catch (error) {
        return this.#fail(() => undecodable(line, error))
      }
      if (this.closed) return // by whoever was told
    }
    if (this.#lines.pending > this.#maxBytes) this.#failForLength(this.#lines.pending)
  }

  #failForLength(length: number): void {
    this.#fail(() => tooLarge(`${length} bytes or more, and ${this.#maxBytes}`))
  }

  #handle(value: unknown, length: number): void {
    if (!isInternal(value)) return this.#deliver(new NodeMessage(value, null), length)
    const { cmd, key } = value
    if (cmd === 'NODE_HANDLE') this.#handleDescriptor(value, length)
    else if (cmd === 'NODE_HANDLE_ACK') this.#acknowledge()
    else if (cmd === 'NODE_HANDLE_NACK') this.#sendAgain()
    // A server there asks what has become of connections that it has sent here: it would wait for their end.
    else if (cmd === 'NODE_SOCKET_GET_COUNT') void this.#tell({ cmd: 'NODE_SOCKET_COUNT', key, count: 0 })
    else if (cmd === 'NODE_SOCKET_NOTIFY_CLOSE') void this.#tell({ cmd: 'NODE_SOCKET_ALL_CLOSED', key })
  }

  #handleDescriptor({ msg }: Internal, length: number): void {
    const descriptor = this.#descriptors.shift()
    if (descriptor === undefined) return void this.#tell({ cmd: 'NODE_HANDLE_NACK' })
    void this.#tell({ cmd: 'NODE_HANDLE_ACK' })
    let message = msg
    // Node wraps again what it sends again.
    while (isInternal(message) && message.cmd === 'NODE_HANDLE') message = message.msg
    this.#deliver(new NodeMessage(message, descriptor), length)
  }

  #deliver(message: NodeMessage, length: number): void {
    const receiving = this.#receivings.shift()
    if (receiving !== undefined) return settle(receiving, message)
    this.#held.push(message)
    this.#heldBytes += length
    if (message.fd !== null) this.#heldFds++
  }

  #acknowledge(): void {
    const sending = this.#unacknowledged
    if (sending === undefined) return
    this.#unacknowledged = undefined
    this.#finish(sending)
    this.#flush()
  }

  #sendAgain(): void {
    const sending = this.#unacknowledged
    if (sending === undefined) return
    if (sending.retries++ < MOST_RETRIES) return this.#write(sending)
    this.#unacknowledged = undefined
    this.#finish(sending, notReceived)
    this.#flush()
  }

  /** Says something to the other end's Node; where that has gone, nobody is to be told. */
  async #tell(value: Internal & Readonly<Record<string, unknown>>): Promise<void> {
    this.#untold++
    try {
      await this.#socket.send(`${JSON.stringify(value)}\n`)
    } catch {
      // The end of the channel says so.
    }
    this.#untold--
    this.#update()
  }
}
