import { constants } from 'node:os'
import { protocolError } from '../base/errors.ts'
import { takeFds } from '../descriptor/descriptor.ts'
import { chargeTick } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { closeFds } from '../native/owned-fds.ts'
import { systemError } from '../native/system-error.ts'
import type { Endpoint, Framing } from '../socket/endpoint.ts'
import { socketClosed } from '../socket/errors.ts'
import type { Codec } from './codec.ts'
import { tooManyPending, OutgoingRequests } from './outgoing-requests.ts'
import { CANCEL, CLOSE, ERROR, MESSAGE, REQUEST, RESPONSE, type ReceivedFrame } from './frame.ts'
import { type FrameConsumer, FrameReader } from './frame-reader.ts'
import { FrameWriter } from './frame-writer.ts'
import { type ChannelLimits, Inbox, type Shape } from './inbox.ts'
import { IncomingRequests, type RequestHandler } from './incoming-requests.ts'
import { type ChannelMessage, type Received, closeReceived } from './message.ts'
import { deserializeError, serializeError } from './remote-error.ts'

/** The error number of pending requests when the channel ends. */
const RESET = -constants.errno.ECONNRESET

/** The error number of sends after the channel ended. */
const BROKEN_PIPE = -constants.errno.EPIPE

/** A socket's connection as a channel: passes frames between the socket, the inbox and the requests, and ends them together. */
export class ChannelConnection implements Framing, FrameConsumer {
  readonly #endpoint: Endpoint
  readonly #codec: Codec
  readonly #maxPending: number
  readonly #takesMessages: boolean
  readonly #writer: FrameWriter
  readonly #reader: FrameReader
  readonly #inbox: Inbox
  readonly #outgoing: OutgoingRequests
  readonly #incoming: IncomingRequests
  /** Whether frames are needed only to notice the end. */
  #watching = false
  /** Keeps the socket from being collected while there is a handler, or the end is awaited. */
  #owner: object | undefined
  /** How the channel ended: null in order; undefined while it is open. */
  #end: Error | null | undefined
  /** Resolves when the channel has ended. */
  readonly closing: Promise<Error | null>
  #resolveClosing!: (error: Error | null) => void

  constructor(endpoint: Endpoint, limits: ChannelLimits, codec: Codec) {
    const { maxFds, maxReceivedBytes, maxReceivedFds, maxPending, messages } = limits
    this.#endpoint = endpoint
    this.#codec = codec
    this.#maxPending = maxPending
    this.#takesMessages = messages
    this.#reader = new FrameReader(endpoint, this, maxReceivedBytes, maxReceivedFds)
    this.#writer = new FrameWriter(endpoint, codec, maxFds, {
      failed: (code) => this.#sendFailed(code),
      closed: () => (this.#end === null ? systemError(BROKEN_PIPE, 'sendmsg') : this.#closedError())
    })
    this.#inbox = new Inbox(limits, () => endpoint.update())
    this.#outgoing = new OutgoingRequests(this.#writer, maxPending)
    this.#incoming = new IncomingRequests(this.#writer, limits, this)
    this.closing = new Promise((resolve) => (this.#resolveClosing = resolve))
    endpoint.framing = this
  }

  /** Whether the socket is closed and no message is held. */
  get closed(): boolean {
    return this.#endpoint.closed && this.#inbox.isEmpty
  }

  // Framing: the socket's events

  get waitsForRoom(): boolean {
    return this.#writer.waitsForRoom
  }

  get waitsForInput(): boolean {
    if (this.#end !== undefined || this.#incoming.isFull) return false
    if (this.#inbox.isAwaited) return true
    return (this.#owner !== undefined || this.#outgoing.size > 0) && this.#inbox.hasRoom
  }

  get hasRoom(): boolean {
    return this.#inbox.hasRoom && !this.#incoming.isFull
  }

  get roomForBytes(): number {
    return this.#inbox.roomForBytes
  }

  get roomForFds(): number {
    return this.#inbox.roomForFds
  }

  postpone(): void {
    this.#inbox.postpone()
  }

  set referenced(on: boolean) {
    this.#writer.referenced = on
    this.#outgoing.referenced = on
  }

  flushInput(): void {
    this.#reader.readAvailable()
  }

  flushOutput(): void {
    this.#writer.flush()
    this.#closeIfDone()
  }

  // Calls of Channel. `owner` keeps the socket from being collected while an operation is pending.

  /** Sends a message. */
  send(owner: object, value: unknown, sources: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (this.#writer.length >= this.#maxPending) throw tooManyPending('messages', this.#maxPending)
    return this.#writer.sendValue(owner, MESSAGE, 0, value, sources, signal)
  }

  /** Returns the next message in the caller's shape; null in that shape at the end. */
  receive<T>(owner: object, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    const held = this.#inbox.take()
    if (held !== undefined) {
      this.#inputNeeded()
      return typeof held === 'function' ? Promise.reject(held()) : Promise.resolve(shape(held))
    }
    if (this.#end === null) return Promise.resolve(shape(null))
    if (this.#endpoint.closed) throw this.#closedError()
    const received = this.#inbox.add(owner, shape, signal)
    if (!chargeTick()) this.#reader.resume()
    else this.#reader.tryRead()
    this.#endpoint.update()
    return received
  }

  /** Sends a request; resolves to the response. */
  request(
    owner: object,
    value: unknown,
    sources: unknown,
    timeout: number | undefined,
    signal: AbortSignal | undefined
  ): Promise<ChannelMessage> {
    const response = this.#outgoing.send(owner, value, sources, timeout, signal)
    this.#inputNeeded()
    return response
  }

  /** Sets the handler of the peer's requests. */
  handle(owner: object, handler: RequestHandler | undefined): void {
    this.#incoming.handler = handler
    this.#setOwner(owner)
  }

  /** Reads frames from now on, so that the end is noticed. */
  watch(owner: object): void {
    if (this.#watching) return
    this.#watching = true
    this.#setOwner(owner)
  }

  #setOwner(owner: object): void {
    if (this.#end !== undefined || this.#endpoint.closed) return
    this.#owner = this.#incoming.handler === undefined && !this.#watching ? undefined : owner
    this.#inputNeeded()
  }

  /** Updates the socket after frames became needed that were not before, and that may have arrived without an event. */
  #inputNeeded(): void {
    if (this.#endpoint.closed) return
    if (this.#reader.hasMore && this.waitsForInput) this.#reader.resume()
    this.#endpoint.update()
    this.#closeIfDone()
  }

  // Calls of the reader and of incoming requests

  get hasEnded(): boolean {
    return this.#end !== undefined
  }

  consume(frame: ReceivedFrame): void {
    const { kind, id } = frame
    if (kind === MESSAGE && !this.#takesMessages) {
      closeFds(takeFds(frame.fds))
      this.refuse(protocolError('the peer sent a message to a side that takes requests only'))
    } else if (kind === MESSAGE || kind === REQUEST) {
      this.#accept(frame, this.#codec.decode(frame))
    } else if (kind === RESPONSE && this.#outgoing.has(id)) {
      this.#outgoing.settle(id, this.#codec.decode(frame))
    } else {
      // An answer that no request waits for is not even decoded: a peer can send them without end.
      closeFds(takeFds(frame.fds))
      if (kind === CANCEL) this.#incoming.cancel(id)
      else if (kind === CLOSE) this.finish(deserializeError(frame.text()))
      else if (kind === ERROR && this.#outgoing.has(id)) this.#settleError(id, deserializeError(frame.text()))
    }
  }

  #settleError(id: number, error: Error): void {
    this.#outgoing.settle(id, () => error)
  }

  #accept({ kind, id, size }: ReceivedFrame, received: Received): void {
    if (this.#endpoint.closed)
      closeReceived(received) // `decode` has closed the channel
    else if (kind === MESSAGE) this.#inbox.deliver(received, size)
    else this.#incoming.add(this.#owner ?? this, id, received, size)
  }

  requestHandled(): void {
    this.#inputNeeded()
  }

  // The end

  /** Ends the channel because of a frame that the peer sent, and reports the reason to the peer. */
  refuse(error: Error): void {
    // Not as a pending frame: its failure would read further frames for the peer's reason.
    this.#writer.sendLastText(CLOSE, serializeError(error))
    this.finish(error)
  }

  /** Ends the channel: null if the peer closed it in order. */
  finish(error: Error | null): void {
    if (this.#end !== undefined) return
    this.#end = error
    const reset = () => error ?? systemError(RESET, 'recvmsg')
    this.#outgoing.fail(reset)
    // A peer that only shut down its writing side still receives responses.
    const peerGone = error !== null || (this.#incoming.isHandling && native.send(this.#endpoint.fd, 0, 0) < 0)
    if (peerGone) this.#incoming.abort(reset)
    this.#inbox.end(error)
    this.#resolveClosing(error)
    this.#owner = undefined
    if (peerGone) {
      this.#writer.fail(() => error ?? systemError(BROKEN_PIPE, 'sendmsg'))
      this.#endpoint.close()
    } else {
      this.#closeIfDone()
    }
  }

  /** Closes the socket once the peer has ended the channel and no answer is left to send. */
  #closeIfDone(): void {
    if (this.#end === undefined || this.#endpoint.closed) return
    if (this.#incoming.isIdle && this.#writer.length === 0) this.#endpoint.close()
  }

  /** Returns the reason why a send failed: the peer's if it sent one, otherwise the system's. */
  #sendFailed(code: number): Error {
    if (code === BROKEN_PIPE || code === RESET) this.#reader.readLastFrames()
    return this.#end ?? systemError(code, 'sendmsg')
  }

  #closedError(): Error {
    return this.#end ?? socketClosed()
  }

  fail(error: () => Error): void {
    this.finish(error())
  }

  end(): void {
    this.#writer.close(() => this.#closedError())
    this.#owner = undefined
    this.#incoming.dropPostponed()
    if (this.#end !== undefined) return // held messages can still be received
    this.#outgoing.fail(socketClosed)
    this.#incoming.abort(socketClosed)
    this.#inbox.close(socketClosed)
    this.#resolveClosing(null)
  }

  drop(): void {
    this.#inbox.clear()
  }
}
