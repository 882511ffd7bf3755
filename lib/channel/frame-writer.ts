import { clearTimeout, setTimeout } from 'node:timers'
import { onAbort, aborted } from '../base/abort.ts'
import { Backoff } from '../base/backoff.ts'
import { rejection } from '../base/errors.ts'
import { Waiter, Waiters, settle } from '../base/waiters.ts'
import { putFds } from '../descriptor/fd-source.ts'
import { yieldToLoop, chargeTick } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { AGAIN, BUSY } from '../native/codes.ts'
import { flushResult, putBytes } from '../native/results.ts'
import { SMALL, bytes, text } from '../native/shared-memory.ts'
import type { Endpoint } from '../socket/endpoint.ts'
import { type Codec, type Encoded, MAX_UTF8_PER_UNIT } from './codec.ts'
import { JSON_TEXT } from './frame.ts'

/** The maximum length of a message that is sent together with others. */
const MAX_BATCHED_LENGTH = 4096

/** The maximum number of messages that are sent together. */
const MAX_BATCH = 128

const sentAtOnce: Promise<void> = Promise.resolve()

/** A frame that waits for room in the socket. */
class PendingFrame extends Waiter<void> {
  /** Keeps the socket from being collected. */
  readonly owner: object

  constructor(owner: object) {
    super()
    this.owner = owner
  }
}

/** Creates the errors of frames that cannot be sent; they depend on how the channel ended. */
export interface SendErrors {
  /** @param code the negative error number of a failed send */
  failed(code: number): Error
  /** The error of a send after the socket was closed. */
  closed(): Error
}

/**
 * The sending half of a channel. The native side captures the data and descriptors of pending frames; this class holds their
 * promises, in the same order.
 */
export class FrameWriter {
  readonly #endpoint: Endpoint
  readonly #codec: Codec
  readonly #maxFds: number
  readonly #errors: SendErrors
  readonly #pending = new Waiters<PendingFrame>()
  readonly #backoff = new Backoff()
  #retryTimer: NodeJS.Timeout | undefined
  /** Whether small messages sent before the next microtask form a batch, and how many are in it. */
  #batching = false
  #batchLength = 0

  constructor(endpoint: Endpoint, codec: Codec, maxFds: number, errors: SendErrors) {
    this.#endpoint = endpoint
    this.#codec = codec
    this.#maxFds = maxFds
    this.#errors = errors
  }

  /** The number of pending frames. */
  get length(): number {
    return this.#pending.length
  }

  /** Whether the socket is closed. */
  get closed(): boolean {
    return this.#endpoint.closed
  }

  /** Whether the reactor should report when the socket has room. False during a delay, whose end no event reports. */
  get waitsForRoom(): boolean {
    return this.#pending.length > 0 && this.#retryTimer === undefined
  }

  /** Whether pending operations keep the process alive. */
  get referenced(): boolean {
    return this.#endpoint.referenced
  }

  set referenced(on: boolean) {
    if (on) this.#retryTimer?.ref()
    else this.#retryTimer?.unref()
  }

  /** Encodes a value and sends it with descriptors; throws if that is not possible. */
  sendValue(
    owner: object,
    kind: number,
    id: number,
    value: unknown,
    sources: unknown,
    signal?: AbortSignal
  ): Promise<void> {
    const encoded = this.#codec.encode(value)
    return this.#send(owner, kind, id, encoded, putFds(sources, 'fds', this.#maxFds), signal)
  }

  /** Sends JSON text, whatever the limits of the channel. */
  sendText(owner: object, kind: number, id: number, content: string): Promise<void> {
    return this.#send(owner, kind, id, { content, format: JSON_TEXT }, 0)
  }

  /** Sends a last frame of JSON text if the socket has room; a failure has no effect. */
  sendLastText(kind: number, content: string): void {
    this.#flushBatch()
    this.#write(kind, 0, { content, format: JSON_TEXT }, 0)
  }

  /** @param count the number of the frame's descriptors in the shared numbers */
  #send(owner: object, kind: number, id: number, encoded: Encoded, count: number, signal?: AbortSignal): Promise<void> {
    if (this.#endpoint.closed) throw this.#errors.closed()
    const code = this.#write(kind, id, encoded, count)
    if (code === 0) return chargeTick() ? sentAtOnce : yieldToLoop()
    if (code !== AGAIN && code !== BUSY) return Promise.reject(this.#errors.failed(code))
    const frame = new PendingFrame(owner)
    const sent = this.#pending.add<void>(frame)
    if (signal !== undefined) frame.abortion = onAbort(signal, () => this.#abort(frame, signal))
    if (code === BUSY) this.#retryLater()
    if (!this.#batching) this.#endpoint.update()
    return sent
  }

  /** Sends a frame, and returns 0; AGAIN or BUSY if the native side captured it; otherwise a negative error number. */
  #write(kind: number, id: number, { content, format }: Encoded, count: number): number {
    const { fd } = this.#endpoint
    if (typeof content !== 'string' && content.length > SMALL) {
      this.#flushBatch()
      return native.channelSendFrom(content, fd, kind, format, id, count)
    }
    if (content.length > MAX_BATCHED_LENGTH || count > 0) {
      this.#flushBatch()
      if (content.length * MAX_UTF8_PER_UNIT > bytes.length) {
        return native.channelSendFrom(Buffer.from(content), fd, kind, format, id, count)
      }
    }
    let { length } = content
    if (typeof content === 'string') length = text.write(content)
    else putBytes(content)
    if (this.#batchLength === MAX_BATCH) this.#flushBatch()
    if (this.#batching) {
      this.#batchLength++
      native.channelPush(fd, kind, format, id, length)
      return AGAIN!
    }
    if (this.#pending.length === 0 && count === 0) this.#startBatch()
    return native.channelSend(fd, kind, format, id, length, count)
  }

  /**
   * Starts a batch: the first small message is sent at once, and those that follow before the next microtask are sent with one
   * call. One call for each message costs several times the rest of a send.
   */
  #startBatch(): void {
    this.#batching = true
    this.#batchLength = 0
    queueMicrotask(() => this.#flushBatch())
  }

  #flushBatch(): void {
    if (!this.#batching) return
    this.#batching = false
    if (this.#pending.length === 0 || this.#endpoint.closed) return
    this.#endpoint.framing!.flushOutput()
    this.#endpoint.update()
  }

  /** Withdraws a frame. One of which a part was sent is completed, because its peer would take the next frame for the rest. */
  #abort(frame: PendingFrame, signal: AbortSignal): void {
    const index = this.#pending.indexOf(frame)
    if (index < 0) return
    const error = () => aborted(signal)
    if (native.channelCancel(this.#endpoint.fd, index) === 1) this.#pending.reject(frame, error)
    else settle(frame, rejection(error))
    this.#endpoint.update()
  }

  /** Sends pending frames as long as the socket has room. */
  flush(): void {
    if (this.#endpoint.closed) return
    const sent = native.channelFlush(this.#endpoint.fd)
    const code = sent < 0 ? sent : flushResult.stopped
    this.#settleSent(sent)
    if (sent > 0) this.#backoff.reset()
    if (code === BUSY) {
      this.#retryLater()
    } else if (code !== 0 && code !== AGAIN) {
      const error = this.#errors.failed(code)
      this.fail(() => error)
    }
  }

  #settleSent(count: number): void {
    for (let left = count; left > 0 && this.#pending.length > 0; left--) settle(this.#pending.shift()!, undefined)
  }

  #retryLater(): void {
    if (this.#retryTimer !== undefined) return
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined
      this.#endpoint.framing!.flushOutput()
      this.#endpoint.update()
    }, this.#backoff.next())
    if (!this.#endpoint.referenced) this.#retryTimer.unref()
  }

  /** Rejects all pending frames. */
  fail(error: () => Error): void {
    this.#pending.settleAll(() => handledRejection(error))
  }

  /** Sends the batch if there is one, and rejects all other pending frames, because this side closes. */
  close(error: () => Error): void {
    if (this.#batching) this.#settleSent(native.channelFlush(this.#endpoint.fd))
    this.#batching = false
    this.fail(error)
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
  }
}

/** A frame that was aborted after its first byte was sent has settled already, and would leave a rejection unhandled. */
function handledRejection(reason: () => Error): Promise<never> {
  const failed = rejection(reason)
  failed.catch(() => {})
  return failed
}
