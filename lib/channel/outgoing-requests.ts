import { clearTimeout, setTimeout } from 'node:timers'
import { onAbort } from '../base/abort.ts'
import { aborted } from '../base/errors/abort.ts'
import { timedOut } from '../base/errors/system.ts'
import { rejection } from '../base/rejection.ts'
import { type Waiter, settle } from '../base/waiters.ts'
import { tooManyPending } from './errors.ts'
import { CANCEL, REQUEST } from './frame.ts'
import type { FrameWriter } from './frame-writer.ts'
import type { ChannelMessage, Received } from './message.ts'

/** A request without a response. */
interface PendingRequest extends Waiter<ChannelMessage> {
  /** Keeps the socket from being collected. */
  readonly owner: object
  timer: NodeJS.Timeout | undefined
}

/** The requests that this end sent, by id. */
export class OutgoingRequests {
  readonly #writer: FrameWriter
  readonly #maxPending: number
  readonly #pending = new Map<number, PendingRequest>()
  #lastId = 0

  constructor(writer: FrameWriter, maxPending: number) {
    this.#writer = writer
    this.#maxPending = maxPending
  }

  /** The number of pending requests. */
  get size(): number {
    return this.#pending.size
  }

  /** Whether timeouts keep the process alive. */
  set referenced(on: boolean) {
    for (const { timer } of this.#pending.values()) {
      if (on) timer?.ref()
      else timer?.unref()
    }
  }

  /** Sends a request; resolves to the response. */
  send(
    owner: object,
    value: unknown,
    sources: unknown,
    timeout: number | undefined,
    signal: AbortSignal | undefined
  ): Promise<ChannelMessage> {
    if (this.#pending.size >= this.#maxPending) throw tooManyPending('requests', this.#maxPending)
    const id = this.#nextId()
    const withdrawal = signal === undefined && timeout === undefined ? undefined : new AbortController()
    const sent = this.#writer.sendValue(owner, REQUEST, id, value, sources, withdrawal?.signal)
    return new Promise((resolve) => {
      const request: PendingRequest = { owner, resolve, abortion: undefined, timer: undefined }
      const giveUp = (error: () => Error) => {
        if (!this.#settle(id, rejection(error))) return
        const { length } = this.#writer
        withdrawal?.abort()
        // A request that was not withdrawn has been sent, so the peer is handling it.
        if (this.#writer.length === length) this.#cancel(request, id)
      }
      request.abortion = onAbort(signal, () => giveUp(() => aborted(signal!)))
      if (timeout !== undefined) request.timer = setTimeout(() => giveUp(() => timedOut(timeout)), timeout)
      if (!this.#writer.referenced) request.timer?.unref()
      this.#pending.set(id, request)
      sent.catch((error: unknown) => this.#settle(id, Promise.reject(error)))
    })
  }

  #nextId(): number {
    do this.#lastId = (this.#lastId + 1) >>> 0
    while (this.#pending.has(this.#lastId))
    return this.#lastId
  }

  #cancel({ owner }: PendingRequest, id: number): void {
    // A failure needs no report: the end of the channel cancels all requests.
    if (!this.#writer.closed) this.#writer.sendText(owner, CANCEL, id, '').catch(() => {})
  }

  /** Settles the request that a response or an error belongs to. */
  settle(id: number, received: Received): void {
    const isPending = this.#settle(id, typeof received === 'function' ? rejection(received) : received)
    // The request was cancelled before its response arrived.
    if (!isPending && typeof received !== 'function') received.close()
  }

  #settle(id: number, response: ChannelMessage | Promise<never>): boolean {
    const request = this.#pending.get(id)
    if (response instanceof Promise) response.catch(() => {}) // no request may be left to reject
    if (request === undefined) return false
    this.#pending.delete(id)
    clearTimeout(request.timer)
    settle(request, response)
    return true
  }

  /** Rejects all pending requests. */
  fail(error: () => Error): void {
    for (const id of this.#pending.keys()) this.#settle(id, rejection(error))
  }
}
