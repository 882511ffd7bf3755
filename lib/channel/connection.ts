import { constants } from 'node:os'
import { clearTimeout, setTimeout } from 'node:timers'
import { onAbort } from '../base/abort.ts'
import { ChannelMessage, ChannelRequest } from './message.ts'
import { ChannelSender } from './frame-writer.ts'
import { type Codec, type Encoded, JSON_TEXT, UTF8 } from './codec.ts'
import { Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import type { Endpoint, Framing } from '../socket/endpoint.ts'
import { ControlStatus } from '../native/results.ts'
import { controlError, socketClosed } from '../socket/errors.ts'
import { type SystemError, systemError } from '../native/system-error.ts'
import { aborted } from '../base/errors/abort.ts'
import { invalidReturn, outOfRange } from '../base/errors/argument.ts'
import { noHandler, requestCancelled, tooManyPending } from './errors.ts'
import { protocolError, timedOut, tooLarge } from '../base/errors/system.ts'
import { rejection } from '../base/rejection.ts'
import { type FdSource, putFds } from '../descriptor/fd-source.ts'
import { CANCEL, CLOSE, ERROR, Frame, MESSAGE, REQUEST, RESPONSE } from './frame.ts'
import { AGAIN, BROKEN, END, MAX_CHANNEL_FDS } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { outcome } from '../native/shared-memory.ts'
import { type Pending, settle } from '../base/waiters.ts'
import { Queue } from '../base/queue.ts'
import { tell, toldError } from './remote-error.ts'
import { yieldToLoop, chargeTick } from '../event-loop/tick-budget.ts'

/** How many frames one wake takes before it lets the event loop go on. */
const PER_WAKE = 64

/** What a request meets whose channel has ended. */
const RESET = -constants.errno.ECONNRESET

/** What a send meets whose channel has ended. */
const BROKEN_PIPE = -constants.errno.EPIPE

/** How large messages may be, and how many may wait. */
export interface LinkLimits {
  readonly maxBytes: number
  readonly maxFds: number
  readonly maxPending: number
}

/** What a handler gives. */
interface Reply {
  value?: unknown
  fds?: readonly FdSource[] | null | undefined
}

/** What answers the other end's requests. */
export type Handler = (request: ChannelRequest) => unknown

/** What a caller makes of a message, or of null at the end. */
export interface Shape<T> {
  (message: ChannelMessage | null): T
  /** Whether this side's close is an end like any other, and no error. */
  readonly endsQuietly?: boolean
}

/** Somebody who waits for a message. */
interface Receive extends Pending<unknown> {
  /** Keeps the socket from being collected. */
  readonly owner: object
  readonly shape: Shape<unknown>
}

/** A request whose answer has not come. */
interface Question extends Pending<ChannelMessage> {
  readonly owner: object
  timer: NodeJS.Timeout | undefined
}

/** A message, or what went wrong with one, that came before anybody asked for it. */
type Held = { readonly taken: ChannelMessage | (() => unknown); readonly size: number }

/** The two halves of a channel: what takes the place of its socket's own sender and receiver. */
export class Link implements Framing {
  readonly #endpoint: Endpoint
  readonly #limits: LinkLimits
  readonly #codec: Codec
  readonly #sender: ChannelSender
  readonly #receives = new Queue<Receive>()
  /** What came while only an answer was waited for; bounded, as each limit of one message is theirs together. */
  readonly #held = new Queue<Held>()
  #heldBytes = 0
  #heldFds = 0
  readonly #questions = new Map<number, Question>()
  #lastId = 0
  /** The other end's requests that are being handled. */
  readonly #serving = new Map<number, ChannelRequest>()
  /** How many of the other end's requests have no answer yet that has gone whole. */
  #owed = 0
  /** The first request that is one too many. What is behind it stays in the socket; answers before it have come. */
  #postponed: { readonly id: number; readonly taken: Held['taken'] } | undefined
  #handler: Handler | undefined
  /** Whether frames are wanted only to learn of the end. */
  #watching = false
  /** What keeps the socket from being collected while there is a handler, or the end is awaited. */
  #owner: object | undefined
  readonly #frame = new Frame()
  /** A frame is being dispatched: what `decode` calls must not receive the next one before it. */
  #dispatching = false
  /** More frames are there, of which no event tells: one receive has brought them. */
  #more = false
  #resuming = false
  /** How it has ended: null in order; undefined while it has not. */
  #end: Error | null | undefined
  /** The end that nobody who receives was told of yet. */
  #untold: Error | undefined
  readonly closing: Promise<Error | null>
  #resolveClosing!: (why: Error | null) => void

  constructor(endpoint: Endpoint, limits: LinkLimits, codec: Codec) {
    this.#endpoint = endpoint
    this.#limits = limits
    this.#codec = codec
    this.#sender = new ChannelSender(endpoint, (code) => this.#sendingEnded(code))
    this.closing = new Promise((resolve) => (this.#resolveClosing = resolve))
    const code = native.channelOpen(endpoint.fd, limits.maxBytes, endpoint.takesFds ? limits.maxFds : 0)
    if (code < 0) throw systemError(code, 'getsockopt')
    endpoint.framing = this
  }

  /** Whether nothing can be received any more, nor is held. */
  get closed(): boolean {
    return this.#endpoint.closed && this.#held.length === 0 && this.#untold === undefined
  }

  // Sending

  /** Sends a message. */
  send(owner: object, value: unknown, sources: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (this.#sender.length >= this.#limits.maxPending) throw tooManyPending('messages', this.#limits.maxPending)
    const encoded = this.#encode(value)
    const count = putFds(sources, 'fds', this.#mostFds)
    return this.#post(owner, MESSAGE, 0, encoded, count, signal)
  }

  get #mostFds(): number {
    return Math.min(this.#limits.maxFds, MAX_CHANNEL_FDS)
  }

  #encode(value: unknown): Encoded {
    const encoded = this.#codec.encode(value)
    const { content } = encoded
    const most = this.#limits.maxBytes
    // A string's bytes are only counted where they could be too many.
    const short = typeof content === 'string' && content.length * UTF8 <= most
    const length = short ? 0 : typeof content === 'string' ? Buffer.byteLength(content) : content.length
    if (length > most) throw outOfRange('value', `at most ${most} bytes when it is encoded (options.maxBytes)`, length)
    return encoded
  }

  #post(owner: object, kind: number, id: number, encoded: Encoded, count: number, signal?: AbortSignal): Promise<void> {
    if (this.#endpoint.closed) throw this.#end === null ? systemError(BROKEN_PIPE, 'sendmsg') : this.#closedError()
    return this.#sender.send(owner, kind, id, encoded, count, signal)
  }

  get waitsForRoom(): boolean {
    return this.#sender.waitsForRoom
  }

  set referenced(on: boolean) {
    this.#sender.referenced = on
    for (const { timer } of this.#questions.values()) {
      if (on) timer?.ref()
      else timer?.unref()
    }
  }

  flushOutput(): void {
    this.#sender.flush()
    this.#closeIfDone()
  }

  /** Why nothing can be sent: what the other end gave as its reason, if it gave one, or the system's error. */
  #sendingEnded(code: number): Error {
    if (code === BROKEN_PIPE || code === RESET) {
      while (this.#mayHold && this.#postponed === undefined && this.#arrive());
    }
    return this.#end ?? systemError(code, 'sendmsg')
  }

  // Receiving

  get waitsForInput(): boolean {
    if (this.#end !== undefined || this.#postponed !== undefined) return false
    if (this.#receives.length > 0) return true
    return this.#mayHold && (this.#handler !== undefined || this.#questions.size > 0 || this.#watching)
  }

  get #mayHold(): boolean {
    const { maxBytes, maxFds, maxPending } = this.#limits
    return this.#held.length < maxPending && this.#heldBytes <= maxBytes && this.#heldFds <= maxFds
  }

  /** The next message in the caller's shape; null at the end. */
  receive<T>(owner: object, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    const held = this.#takeHeld()
    if (held !== undefined) return typeof held === 'function' ? Promise.reject(held()) : Promise.resolve(shape(held))
    if (this.#untold !== undefined) return Promise.reject(this.#takeUntold())
    if (this.#end === null) return Promise.resolve(shape(null))
    if (this.#endpoint.closed) throw this.#closedError()
    return new Promise((resolve) => {
      const receive: Receive = { owner, resolve: resolve as Receive['resolve'], shape, abortion: undefined }
      this.#receives.push(receive)
      receive.abortion = onAbort(signal, () => {
        if (!this.#receives.remove(receive)) return
        settle(
          receive,
          rejection(() => aborted(signal!))
        )
        this.#endpoint.update()
      })
      // Arming a socket costs more than a try; of one that is armed the event loop tells.
      if (!chargeTick()) this.#resume()
      else if (this.#more || !this.#endpoint.armedForReading) this.flushInput()
      this.#endpoint.update()
    })
  }

  #takeHeld(): Held['taken'] | undefined {
    const held = this.#held.shift()
    if (held === undefined) return undefined
    this.#heldBytes -= held.size
    if (typeof held.taken !== 'function') this.#heldFds -= held.taken.fds.length
    this.#wantsMore()
    return held.taken
  }

  #takeUntold(): Error {
    const error = this.#untold!
    this.#untold = undefined
    return error
  }

  /** Takes frames for as long as they are wanted, and one receive has brought them: of others the event loop tells. */
  flushInput(): void {
    for (let left = PER_WAKE; left > 0; left--) {
      if (!this.waitsForInput || !this.#arrive() || !this.#more) return
    }
    if (this.waitsForInput) this.#resume()
  }

  /** Frames are wanted that were not before, and may be there without an event. */
  #wantsMore(): void {
    if (this.#endpoint.closed) return
    if (this.#more && this.waitsForInput) this.#resume()
    this.#endpoint.update()
    this.#closeIfDone()
  }

  /** Goes on in the next turn. */
  #resume(): void {
    if (this.#resuming) return
    this.#resuming = true
    void this.#goOn()
  }

  async #goOn(): Promise<void> {
    await yieldToLoop()
    this.#resuming = false
    if (this.#endpoint.closed) return
    this.flushInput()
    this.#endpoint.update()
  }

  /** Takes one frame and gives it to whom it concerns; false where none is there. */
  #arrive(): boolean {
    if (this.#end !== undefined || this.#endpoint.closed || this.#dispatching) return false
    const { fd } = this.#endpoint
    const length = native.channelReceive(fd)
    if (length < 0) {
      this.#more = false
      if (length === END) this.#finish(null)
      else if (length === BROKEN) this.#refuse(this.#frameError())
      else if (length !== AGAIN) this.#finish(systemError(length, 'recvmsg'))
      return false
    }
    this.#frame.set(fd, length)
    this.#more = outcome[5] !== 0
    this.#dispatching = true
    try {
      this.#dispatch(this.#frame)
    } finally {
      this.#dispatching = false
    }
    return true
  }

  #dispatch(frame: Frame): void {
    const { kind, id, size } = frame
    if (kind === MESSAGE) {
      this.#deliver(this.#decode(frame), size)
    } else if (kind === REQUEST) {
      this.#demand(id, this.#decode(frame))
    } else if (kind === RESPONSE) {
      this.#answer(id, this.#decode(frame))
    } else {
      closeFds(takeFds(frame.fds))
      if (kind === CANCEL) this.#cancel(id)
      else this.#told(kind, id, toldError(frame.text()))
    }
  }

  /** Nobody waits for the reply any more. */
  #cancel(id: number): void {
    this.#serving.get(id)?.abort(requestCancelled())
    this.#serving.delete(id)
  }

  #told(kind: number, id: number, error: Error): void {
    if (kind === CLOSE) this.#finish(error)
    else this.#answer(id, () => error)
  }

  /** The message of the frame, or why there is none; its descriptors are closed then. */
  #decode(frame: Frame): Held['taken'] {
    const descriptors = frame.fds
    if (frame.lost) {
      const data = frame.bytes()
      return () => controlError(ControlStatus.Truncated, data)
    }
    try {
      return new ChannelMessage(this.#codec.decode(frame, frame.format), descriptors)
    } catch (error) {
      closeFds(takeFds(descriptors))
      return () => error
    }
  }

  #deliver(taken: Held['taken'], size: number): void {
    const receive = this.#receives.shift()
    if (receive !== undefined) {
      settle(receive, typeof taken === 'function' ? rejection(taken) : receive.shape(taken))
      return
    }
    this.#held.push({ taken, size })
    this.#heldBytes += size
    if (typeof taken !== 'function') this.#heldFds += taken.fds.length
  }

  // Requests

  /** Asks the other end. */
  request(
    owner: object,
    value: unknown,
    sources: unknown,
    timeout: number | undefined,
    signal: AbortSignal | undefined
  ): Promise<ChannelMessage> {
    if (this.#questions.size >= this.#limits.maxPending) throw tooManyPending('requests', this.#limits.maxPending)
    const encoded = this.#encode(value)
    const count = putFds(sources, 'fds', this.#mostFds)
    const id = this.#nextId()
    const given = signal === undefined && timeout === undefined ? undefined : new AbortController()
    const sent = this.#post(owner, REQUEST, id, encoded, count, given?.signal)
    return new Promise((resolve) => {
      const question: Question = { owner, resolve, abortion: undefined, timer: undefined }
      const giveUp = (error: () => Error) => {
        if (!this.#conclude(id, rejection(error))) return
        const waited = this.#sender.length
        given?.abort() // takes the request back if it still waits
        // Otherwise it has gone: the other end need not go on.
        if (this.#sender.length === waited) void this.#tellQuietly(CANCEL, id, '')
      }
      question.abortion = onAbort(signal, () => giveUp(() => aborted(signal!)))
      if (timeout !== undefined) question.timer = setTimeout(() => giveUp(() => timedOut(timeout)), timeout)
      if (!this.#endpoint.referenced) question.timer?.unref()
      this.#questions.set(id, question)
      sent.catch((error: unknown) => this.#conclude(id, Promise.reject(error)))
      this.#wantsMore()
    })
  }

  #nextId(): number {
    do this.#lastId = (this.#lastId + 1) >>> 0
    while (this.#questions.has(this.#lastId))
    return this.#lastId
  }

  #answer(id: number, taken: Held['taken']): void {
    const asked = this.#conclude(id, typeof taken === 'function' ? rejection(taken) : taken)
    // Nobody asks any more: it crossed the cancellation.
    if (!asked && typeof taken !== 'function') taken.close()
  }

  #conclude(id: number, answer: ChannelMessage | Promise<never>): boolean {
    const question = this.#questions.get(id)
    if (answer instanceof Promise) answer.catch(() => {}) // where nobody asks any more
    if (question === undefined) return false
    this.#questions.delete(id)
    clearTimeout(question.timer)
    settle(question, answer)
    return true
  }

  /** Sets what answers requests. */
  handle(owner: object, handler: Handler | undefined): void {
    this.#handler = handler
    this.#keep(owner)
  }

  /** Wants to know of the end. */
  watch(owner: object): void {
    if (this.#watching) return
    this.#watching = true
    this.#keep(owner)
  }

  #keep(owner: object): void {
    if (this.#end !== undefined || this.#endpoint.closed) return
    this.#owner = this.#handler === undefined && !this.#watching ? undefined : owner
    this.#wantsMore()
  }

  /** Serves a request now, or once there are fewer. */
  #demand(id: number, taken: Held['taken']): void {
    if (this.#owed < this.#limits.maxPending) void this.#serve(id, taken)
    else this.#postponed = { id, taken }
  }

  async #serve(id: number, taken: Held['taken']): Promise<void> {
    const owner = this.#owner ?? this
    const request = typeof taken === 'function' ? undefined : new ChannelRequest(taken.value, taken.fds)
    if (request !== undefined) this.#serving.set(id, request)
    this.#owed++
    try {
      if (typeof taken === 'function') throw taken()
      const { value, fds: sources } = await this.#handle(request!)
      const given = descriptorsOf(sources)
      try {
        if (request!.isAborted) return
        await this.#post(owner, RESPONSE, id, this.#encode(value), putFds(sources, 'fds', this.#mostFds))
      } finally {
        closeFds(takeFds(given))
      }
    } catch (error) {
      if (request?.isAborted !== true) await this.#tellFailure(id, error)
    } finally {
      if (this.#serving.get(id) === request) this.#serving.delete(id)
      this.#owed--
      const next = this.#postponed
      this.#postponed = undefined
      if (next !== undefined) void this.#serve(next.id, next.taken)
      this.#wantsMore()
    }
  }

  /** What the handler makes of a request. */
  async #handle(request: ChannelRequest): Promise<Reply> {
    if (this.#handler !== undefined) return replyOf(await this.#handler(request))
    request.close()
    throw noHandler()
  }

  /** Answers by an error. Where not even that can be sent, the other end would wait for ever: the channel ends. */
  async #tellFailure(id: number, error: unknown): Promise<void> {
    if (this.#endpoint.closed) return
    try {
      await this.#post(this.#owner ?? this, ERROR, id, { content: tell(error), format: JSON_TEXT }, 0)
    } catch (failure) {
      const { code } = failure as SystemError
      // The other end has gone, or receives no more.
      if (code !== 'EPIPE' && code !== 'ECONNRESET') this.#finish(failure as SystemError)
    }
  }

  /** Sends what nobody waits for; resolves when it has gone, or never will. */
  #tellQuietly(kind: number, id: number, content: string): Promise<void> {
    if (this.#endpoint.closed) return Promise.resolve()
    return this.#post(this.#owner ?? this, kind, id, { content, format: JSON_TEXT }, 0).catch(() => {})
  }

  // The end

  #frameError(): Error {
    const why = outcome[0]
    const announced = outcome[1]! >>> 0
    const { maxBytes, maxFds } = this.#limits
    if (why === 1) return tooLarge(`${announced} bytes, and ${maxBytes}`)
    if (why === 2) return tooLarge(`${announced} descriptors, and ${this.#endpoint.takesFds ? maxFds : 0}`)
    if (why === 3) return protocolError(`a frame announced ${announced} descriptors, and ${outcome[2]} came`)
    return protocolError(why === 4 ? 'the channel ended inside of a frame' : 'what came is no frame')
  }

  /** Ends the channel because of what the other end has sent, and tells it so. */
  #refuse(error: Error): void {
    // Not as a frame that somebody waits for: where the peer is gone, that would ask again why.
    this.#sender.sendLast(CLOSE, { content: tell(error), format: JSON_TEXT })
    this.#finish(error)
  }

  /** Nothing more will come: null at the end that the other side made. */
  #finish(error: Error | null): void {
    if (this.#end !== undefined) return
    this.#end = error
    const gone = () => error ?? systemError(RESET, 'recvmsg')
    for (const id of this.#questions.keys()) this.#conclude(id, rejection(gone))
    // Whoever only sends no more, and still receives, gets the answers.
    const nobodyReceives = error !== null || (this.#serving.size > 0 && native.send(this.#endpoint.fd, 0, 0) < 0)
    if (nobodyReceives) for (const request of this.#serving.values()) request.abort(gone())
    const first = this.#receives.shift()
    if (first === undefined) this.#untold = error ?? undefined
    else settle(first, error === null ? first.shape(null) : rejection(gone))
    for (let receive = this.#receives.shift(); receive !== undefined; receive = this.#receives.shift()) {
      settle(receive, error === null || receive.shape.endsQuietly === true ? receive.shape(null) : rejection(gone))
    }
    this.#resolveClosing(error)
    this.#owner = undefined
    // Not while the endpoint goes on after a callback, which it does not on a number that is somebody else's.
    if (nobodyReceives) {
      this.#sender.fail(() => error ?? systemError(BROKEN_PIPE, 'sendmsg'))
      this.#endpoint.close()
    } else {
      this.#closeIfDone()
    }
  }

  /** Closes the socket once the other end has ended and nothing is left to be sent to it. */
  #closeIfDone(): void {
    if (this.#end === undefined || this.#endpoint.closed) return
    if (this.#owed === 0 && this.#sender.length === 0) this.#endpoint.close()
  }

  #closedError(): Error {
    return this.#end ?? socketClosed()
  }

  fail(error: () => Error): void {
    this.#finish(error())
  }

  end(): void {
    this.#sender.close(() => this.#closedError())
    this.#owner = undefined
    const postponed = this.#postponed?.taken
    if (postponed !== undefined && typeof postponed !== 'function') postponed.close()
    this.#postponed = undefined
    if (this.#end !== undefined) return // what is held can still be taken
    for (const id of this.#questions.keys()) this.#conclude(id, rejection(socketClosed))
    for (const request of this.#serving.values()) request.abort(socketClosed())
    for (let receive = this.#receives.shift(); receive !== undefined; receive = this.#receives.shift()) {
      settle(receive, receive.shape.endsQuietly === true ? receive.shape(null) : rejection(socketClosed))
    }
    this.drop()
    this.#resolveClosing(null)
  }

  drop(): void {
    for (let held = this.#held.shift(); held !== undefined; held = this.#held.shift()) {
      if (typeof held.taken !== 'function') held.taken.close()
    }
    this.#untold = undefined
  }
}

/** What a handler gave, if it is a reply; each of its properties is read once. */
function replyOf(reply: unknown): Reply {
  if (reply === undefined || reply === null) return {}
  if (typeof reply !== 'object' || !('value' in reply || 'fds' in reply)) {
    throw invalidReturn('handler', 'an object with value, fds or both, or nothing,', reply)
  }
  const { value, fds: sources } = reply as Reply
  return { value, fds: sources }
}

/** Those of a reply's sources that are given away with it. */
function descriptorsOf(sources: unknown): Descriptor[] {
  return Array.isArray(sources) ? sources.filter((source) => source instanceof Descriptor) : []
}
