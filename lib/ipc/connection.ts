import { constants } from 'node:os'
import { clearTimeout, setTimeout } from 'node:timers'
import type { Descriptor } from '../descriptor/index.ts'
import { borrow } from '../descriptor/internal.ts'
import { native, systemError } from '../native/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { socketClosed } from '../socket/internal.ts'
import { Inbox, NodeMessage } from './inbox.ts'
import { encodeInternal, type InternalMessage, isInternal, unwrap } from './protocol.ts'
import { Reader, type ValueConsumer } from './reader.ts'
import { Sender } from './sender.ts'

/** The maximum number of answers to the peer's Node that wait for room in the socket. */
const MAX_ANSWERS = 64

/** How often a peer is checked whose end is behind messages that are not received, in milliseconds. */
const CHECK_INTERVAL_MS = 500

/** A socket's connection as Node's channel: passes values between the reader, the inbox and the sender, and ends them together. */
export class NodeConnection implements ValueConsumer {
  readonly #socket: UnixSocket
  readonly #reader: Reader
  readonly #sender: Sender
  readonly #inbox: Inbox
  /** The number of answers to the peer's Node that wait for room in the socket. */
  #answers = 0
  /** Checks whether the peer has ended, while an acknowledgement is awaited. */
  #check: NodeJS.Timeout | undefined
  /** Whether the peer is gone, so that what is left to read is bounded. */
  #peerGone = false
  #referenced = true
  /** Whether this side closed the channel. */
  #closed = false
  #ended = false
  #failure: (() => Error) | undefined

  constructor(socket: UnixSocket, maxBytes: number) {
    this.#socket = socket
    this.#reader = new Reader(socket, maxBytes, this)
    this.#sender = new Sender(socket, () => {
      this.#reader.update()
      this.#watchPeer()
      this.#closeIfDone()
    })
    this.#inbox = new Inbox(maxBytes, () => this.#reader.update())
  }

  /**
   * Notices the end of a peer whose acknowledgement is awaited, but whose messages are not read because none may be held any more.
   * Otherwise the send would be pending, and its descriptor open, until the program receives.
   */
  #watchPeer(): void {
    if (this.#check !== undefined || !this.#sender.awaitsAcknowledgement) return
    this.#check = setTimeout(() => {
      this.#check = undefined
      if (this.#ended || this.#socket.closed || !this.#sender.awaitsAcknowledgement) return
      // A send of no bytes fails if the peer is gone. Then the kernel holds a bounded rest, which may have the acknowledgement.
      if (!this.waitsForInput && native.send(this.#socket[borrow](), 0, 0) < 0) this.#peerGone = true
      if (this.#peerGone) this.#reader.update()
      else this.#watchPeer()
    }, CHECK_INTERVAL_MS)
    if (!this.#referenced) this.#check.unref()
  }

  /** Whether pending operations keep the process alive. */
  set referenced(on: boolean) {
    this.#referenced = on
    if (on) {
      this.#socket.ref()
      this.#check?.ref()
    } else {
      this.#socket.unref()
      this.#check?.unref()
    }
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
    if (this.#closed) throw socketClosed()
  }

  /** Whether a receive is pending, or an acknowledgement is awaited and messages before it can be held. */
  get waitsForInput(): boolean {
    if (this.#ended || this.#socket.closed || this.#answers >= MAX_ANSWERS) return false
    return this.#inbox.isAwaited || (this.#sender.awaitsAcknowledgement && (this.#inbox.hasRoom || this.#peerGone))
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
    this.#closeIfDone()
  }

  finish(): void {
    this.#end(() => systemError(-constants.errno.ECONNRESET, 'recvmsg'))
    this.#closeIfDone()
  }

  /** Closes the socket, as Node does, once the peer has disconnected and nothing is left to send: it may still read that. */
  #closeIfDone(): void {
    if (this.#ended && this.#answers === 0 && !this.#sender.isWriting) this.#socket.close()
  }

  fail(error: () => Error): void {
    if (this.#socket.closed) return
    this.#failure = error
    this.#socket.close()
    this.#end(error, error)
  }

  /** Closes the socket and all held messages, and rejects all pending operations. */
  close(): void {
    this.#closed = true
    this.#socket.close()
    this.#inbox.clear()
    this.#end(socketClosed, socketClosed)
  }

  #end(sendError: () => Error, receiveError?: () => Error): void {
    this.#ended = true
    clearTimeout(this.#check)
    this.#reader.close()
    this.#sender.fail(sendError)
    this.#inbox.end(receiveError)
  }
}
