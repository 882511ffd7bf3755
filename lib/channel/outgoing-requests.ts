import { rejection, withCode } from '../base/errors.ts'
import { type Pending, settle } from '../base/waiters.ts'
import { CANCEL, REQUEST } from './frame.ts'
import type { FrameWriter } from './frame-writer.ts'
import { type Limit, onLimit } from '../base/abort.ts'
import { type ChannelMessage, type Received, closeReceived } from './message.ts'

/** A request without a response. */
interface PendingRequest extends Pending<ChannelMessage> {
  /** Keeps the socket from being collected. */
  readonly owner: object
  abortion: Limit | undefined
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
    for (const { abortion: limit } of this.#pending.values()) if (limit !== undefined) limit.referenced = on
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
      const request: PendingRequest = { owner, resolve, abortion: undefined }
      const giveUp = (error: () => Error) => {
        if (!this.#settle(id, rejection(error))) return
        const { length } = this.#writer
        withdrawal?.abort()
        // A request that was not withdrawn has been sent, so the peer is handling it.
        if (this.#writer.length === length) this.#cancel(request, id)
      }
      const limit = onLimit(signal, timeout, 'request', giveUp)
      if (limit !== undefined) limit.referenced = this.#writer.referenced
      request.abortion = limit
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

  /** Whether a request waits for an answer with this id. It does not if it was cancelled, or never sent. */
  has(id: number): boolean {
    return this.#pending.has(id)
  }

  /** Settles the request that a response or an error belongs to. */
  settle(id: number, received: Received): void {
    const isPending = this.#settle(id, typeof received === 'function' ? rejection(received) : received)
    if (!isPending) closeReceived(received) // `decode` has cancelled the request
  }

  #settle(id: number, response: ChannelMessage | Promise<never>): boolean {
    const request = this.#pending.get(id)
    if (response instanceof Promise) response.catch(() => {}) // no request may be left to reject
    if (request === undefined) return false
    this.#pending.delete(id)
    settle(request, response)
    return true
  }

  /** Rejects all pending requests. */
  fail(error: () => Error): void {
    for (const id of this.#pending.keys()) this.#settle(id, rejection(error))
  }
}

/** More messages or requests than `maxPending` are pending. */
export function tooManyPending(operations: 'messages' | 'requests', max: number): Error {
  return withCode(
    new Error(`${max} ${operations} are already pending, the maximum by options.maxPending: await some of them first`),
    'ERR_TOO_MANY_PENDING'
  )
}
