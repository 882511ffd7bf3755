import { clearTimeout, setTimeout } from 'node:timers'
import { onAbort } from '../base/abort.ts'
import { type Encoded, UTF8 } from './codec.ts'
import type { Endpoint } from '../socket/endpoint.ts'
import { aborted } from '../base/errors/abort.ts'
import { rejection } from '../base/rejection.ts'
import { AGAIN, BUSY } from '../native/codes.ts'
import { SMALL, bytes, outcome, text } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'
import { Backoff } from '../base/backoff.ts'
import { type Pending, settle } from '../base/waiters.ts'
import { Queue } from '../base/queue.ts'
import { yieldToLoop, chargeTick } from '../event-loop/tick-budget.ts'

/** How long a message may be that is put together with others. */
const GATHERED = 4096

/** How many are put together. */
const MOST_GATHERED = 128

const done: Promise<void> = Promise.resolve()

/** A frame that waits for room. */
interface Outgoing extends Pending<void> {
  /** Keeps the socket from being collected. */
  readonly owner: object
}

/** The sending half of a channel: the native side captures the frames that wait, and here is who waits for each. */
export class ChannelSender {
  readonly #endpoint: Endpoint
  readonly #outgoing = new Queue<Outgoing>()
  /** Gives why nothing can be sent any more, from the error number of a send. */
  readonly #ended: (code: number) => Error
  #timer: NodeJS.Timeout | undefined
  readonly #backoff = new Backoff()
  /** Whether small messages are put together that are sent before anything is awaited, and how many are. */
  #gathering = false
  #gathered = 0

  constructor(endpoint: Endpoint, ended: (code: number) => Error) {
    this.#endpoint = endpoint
    this.#ended = ended
  }

  /** How many frames wait. */
  get length(): number {
    return this.#outgoing.length
  }

  /** Whether the reactor should tell when there is room: not while a pause runs, whose end nothing announces. */
  get waitsForRoom(): boolean {
    return this.#outgoing.length > 0 && this.#timer === undefined
  }

  /** Whether a pause keeps the process alive. */
  set referenced(on: boolean) {
    if (on) this.#timer?.ref()
    else this.#timer?.unref()
  }

  /** Sends a frame with the first `count` of the shared numbers, or has the native side capture it. */
  send(owner: object, kind: number, id: number, encoded: Encoded, count: number, signal?: AbortSignal): Promise<void> {
    const code = this.#write(kind, id, encoded, count)
    if (code === 0) return chargeTick() ? done : yieldToLoop()
    if (code !== AGAIN && code !== BUSY) return Promise.reject(this.#ended(code))
    return new Promise((resolve) => {
      const outgoing: Outgoing = { owner, resolve, abortion: undefined }
      outgoing.abortion = onAbort(signal, () => this.#abandon(outgoing, signal!))
      this.#outgoing.push(outgoing)
      if (code === BUSY) this.#wait()
      if (!this.#gathering) this.#endpoint.update()
    })
  }

  /** Sends a frame: 0; or has it wait: AGAIN or BUSY. */
  #write(kind: number, id: number, { content, format }: Encoded, count: number): number {
    const { fd } = this.#endpoint
    if (typeof content !== 'string' && content.length > SMALL) {
      this.#sendGathered()
      return native.channelSendFrom(content, fd, kind, format, id, count)
    }
    if (content.length > GATHERED || count > 0) {
      this.#sendGathered()
      if (content.length * UTF8 > bytes.length) {
        return native.channelSendFrom(Buffer.from(content), fd, kind, format, id, count)
      }
    }
    let { length } = content
    if (typeof content === 'string') length = text.write(content)
    else for (let i = 0; i < length; i++) bytes[i] = content[i]!
    if (this.#gathered === MOST_GATHERED) this.#sendGathered()
    if (this.#gathering) {
      this.#gathered++
      native.channelPush(fd, kind, format, id, length)
      return AGAIN!
    }
    if (this.#outgoing.length === 0 && count === 0) this.#gather()
    return native.channelSend(fd, kind, format, id, length, count)
  }

  /**
   * The first small message goes at once, and those that follow it before whoever sends them awaits anything go together:
   * a call for each costs several times what all else about it costs.
   */
  #gather(): void {
    this.#gathering = true
    this.#gathered = 0
    queueMicrotask(() => this.#sendGathered())
  }

  #sendGathered(): void {
    if (!this.#gathering) return
    this.#gathering = false
    if (this.#outgoing.length === 0 || this.#endpoint.closed) return
    this.#endpoint.framing!.flushOutput()
    this.#endpoint.update()
  }

  /** Sends a frame that nobody waits for, if it can go at once. */
  sendLast(kind: number, encoded: Encoded): void {
    this.#sendGathered()
    this.#write(kind, 0, encoded, 0)
  }

  /** Takes a frame back; what has gone in part goes on, as whatever followed would be taken for its rest. */
  #abandon(outgoing: Outgoing, signal: AbortSignal): void {
    const index = this.#outgoing.indexOf(outgoing)
    if (index < 0) return
    if (native.channelCancel(this.#endpoint.fd, index) === 1) this.#outgoing.remove(outgoing)
    settle(
      outgoing,
      rejection(() => aborted(signal))
    )
    this.#endpoint.update()
  }

  /** Sends what waits, as far as there is room. */
  flush(): void {
    if (this.#endpoint.closed) return
    const gone = native.channelFlush(this.#endpoint.fd)
    const code = gone < 0 ? gone : outcome[0]!
    this.#settleGone(gone)
    if (gone > 0) this.#backoff.reset()
    if (code === BUSY) {
      this.#wait()
    } else if (code !== 0 && code !== AGAIN) {
      const error = this.#ended(code)
      this.fail(() => error)
    }
  }

  /** So many frames have gone whole. */
  #settleGone(count: number): void {
    for (let left = count; left > 0 && this.#outgoing.length > 0; left--) settle(this.#outgoing.shift()!, undefined)
  }

  /** Tries again after a pause, each longer than the last. */
  #wait(): void {
    if (this.#timer !== undefined) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#endpoint.framing!.flushOutput()
      this.#endpoint.update()
    }, this.#backoff.next())
    if (!this.#endpoint.referenced) this.#timer.unref()
  }

  /** Fails everything that waits. */
  fail(why: () => Error): void {
    for (let outgoing = this.#outgoing.shift(); outgoing !== undefined; outgoing = this.#outgoing.shift()) {
      const failed = rejection(why)
      failed.catch(() => {}) // who gave up after the first byte had gone was told already, and does not take it
      settle(outgoing, failed)
    }
  }

  /** Ends everything that waits, because this side closes; messages that would have gone at once go now. */
  close(error: () => Error): void {
    if (this.#gathering) this.#settleGone(native.channelFlush(this.#endpoint.fd))
    this.#gathering = false
    this.fail(error)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
