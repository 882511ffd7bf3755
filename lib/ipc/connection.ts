import { constants } from 'node:os'
import type { Descriptor } from '../descriptor/index.ts'
import { systemError } from '../native/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { socketClosed } from '../socket/internal.ts'
import { Inbox } from './inbox.ts'
import { NodeMessage } from './node-message.ts'
import { encodeInternal, type InternalMessage, isInternal, unwrap } from './protocol.ts'
import { Reader, type ValueConsumer } from './reader.ts'
import { Sender } from './sender.ts'

/** The maximum number of answers to the peer's Node that wait for room in the socket. */
const MAX_ANSWERS = 64

/** A socket's connection as Node's channel: passes values between the reader, the inbox and the sender, and ends them together. */
export class NodeConnection implements ValueConsumer {
  readonly #socket: UnixSocket
  readonly #reader: Reader
  readonly #sender: Sender
  readonly #inbox: Inbox
  /** The number of answers to the peer's Node that wait for room in the socket. */
  #answers = 0
  #ended = false
  #failure: (() => Error) | undefined

  constructor(socket: UnixSocket, maxBytes: number) {
    const update = () => this.#reader.update()
    this.#socket = socket
    this.#reader = new Reader(socket, maxBytes, this)
    this.#sender = new Sender(socket, update)
    this.#inbox = new Inbox(maxBytes, update)
  }

  /**
   * Sends a line; throws if the channel has ended.
   *
   * @param descriptor a duplicate, which the connection owns if this does not throw
   */
  send(line: Buffer, descriptor: Descriptor | undefined, signal: AbortSignal | undefined): Promise<void> {
    this.#checkOpen()
    if (this.#ended) throw systemError(-constants.errno.EPIPE, 'sendmsg')
    return this.#sender.send(line, descriptor, signal)
  }

  /** Returns the next message; null at the end. */
  receive(signal: AbortSignal | undefined): Promise<NodeMessage | null> | NodeMessage | null {
    const held = this.#inbox.take()
    if (held !== undefined) {
      this.#reader.update()
      return held
    }
    this.#checkOpen()
    if (this.#ended) return null
    const received = this.#inbox.add(signal)
    this.#reader.update()
    return received
  }

  #checkOpen(): void {
    if (this.#failure !== undefined) throw this.#failure()
    if (this.#socket.closed) throw socketClosed()
  }

  /** Whether a receive is pending, or an acknowledgement is awaited and messages before it can be held. */
  get waitsForInput(): boolean {
    if (this.#ended || this.#socket.closed || this.#answers >= MAX_ANSWERS) return false
    return this.#inbox.isAwaited || (this.#sender.awaitsAcknowledgement && this.#inbox.hasRoom)
  }

  consume(value: unknown, bytes: number): void {
    if (!isInternal(value)) return this.#inbox.deliver(new NodeMessage(value, null), bytes)
    const { cmd, key } = value
    if (cmd === 'NODE_HANDLE') this.#consumeHandle(value, bytes)
    else if (cmd === 'NODE_HANDLE_ACK') this.#sender.acknowledge()
    else if (cmd === 'NODE_HANDLE_NACK') this.#sender.retry()
    // A net.Server of the peer queries the connections that it sent, and would wait for their end.
    else if (cmd === 'NODE_SOCKET_GET_COUNT') void this.#answer({ cmd: 'NODE_SOCKET_COUNT', key, count: 0 })
    else if (cmd === 'NODE_SOCKET_NOTIFY_CLOSE') void this.#answer({ cmd: 'NODE_SOCKET_ALL_CLOSED', key })
  }

  #consumeHandle(value: InternalMessage, bytes: number): void {
    const descriptor = this.#reader.takeDescriptor()
    if (descriptor === undefined) return void this.#answer({ cmd: 'NODE_HANDLE_NACK' })
    void this.#answer({ cmd: 'NODE_HANDLE_ACK' })
    this.#inbox.deliver(new NodeMessage(unwrap(value), descriptor), bytes)
  }

  /** Sends an answer to the peer's Node. */
  async #answer(message: InternalMessage & Readonly<Record<string, unknown>>): Promise<void> {
    this.#answers++
    try {
      await this.#socket.send(encodeInternal(message))
    } catch {
      // The next receive reports the end of the channel.
    }
    this.#answers--
    this.#reader.update()
  }

  finish(): void {
    this.#end(() => systemError(-constants.errno.ECONNRESET, 'recvmsg'))
  }

  fail(error: () => Error): void {
    if (this.#socket.closed) return
    this.#failure = error
    this.#socket.close()
    this.#end(error, error)
  }

  /** Closes the socket and all held messages, and rejects all pending operations. */
  close(): void {
    this.#socket.close()
    this.#inbox.clear()
    this.#end(socketClosed, socketClosed)
  }

  #end(sendError: () => Error, receiveError?: () => Error): void {
    this.#ended = true
    this.#reader.close()
    this.#sender.fail(sendError)
    this.#inbox.end(receiveError)
  }
}
