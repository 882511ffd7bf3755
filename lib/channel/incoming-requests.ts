import { withCode, invalidReturn, protocolError } from '../base/errors.ts'
import { isOfAnotherCopy } from '../base/inspection.ts'
import { Descriptor, takeFds } from '../descriptor/descriptor.ts'
import type { FdSource } from '../descriptor/fd-source.ts'
import { closeFds } from '../native/owned-fds.ts'
import type { SystemError } from '../native/system-error.ts'
import { ERROR, RESPONSE } from './frame.ts'
import type { FrameWriter } from './frame-writer.ts'
import type { ChannelLimits } from './inbox.ts'
import { ChannelRequest, type Received, closeReceived } from './message.ts'
import { serializeError } from './remote-error.ts'

/** A handler's reply. */
interface Reply {
  value?: unknown
  fds?: readonly FdSource[] | null | undefined
}

/** Handles the peer's requests; returns a reply or a promise of it. */
export type RequestHandler = (request: ChannelRequest) => unknown

/** The channel that requests arrive on. */
export interface RequestSource {
  /** Called after a request was answered, when another one can be handled. */
  requestHandled(): void
  /** Called when the peer violated the protocol. */
  refuse(error: Error): void
  /** Called when neither a response nor an error could be sent: the peer would wait forever. */
  fail(error: () => Error): void
}

interface PostponedRequest {
  readonly owner: object
  readonly id: number
  readonly received: Received
  readonly bytes: number
}

/** The peer's requests that are being handled. */
export class IncomingRequests {
  handler: RequestHandler | undefined
  readonly #writer: FrameWriter
  readonly #limits: ChannelLimits
  readonly #source: RequestSource
  /** The requests whose handlers have not returned, by id. */
  readonly #handled = new Map<number, ChannelRequest>()
  /** The number of requests whose response or error was not sent completely. */
  #unanswered = 0
  /** Their bytes and descriptors. */
  #bytes = 0
  #fds = 0
  /** The first request above a maximum. Later frames stay in the socket until it can be handled. */
  #postponed: PostponedRequest | undefined

  constructor(writer: FrameWriter, limits: ChannelLimits, source: RequestSource) {
    this.#writer = writer
    this.#limits = limits
    this.#source = source
  }

  /** Whether a handler is running. */
  get isHandling(): boolean {
    return this.#handled.size > 0
  }

  /** Whether a maximum was exceeded, so that no further frame can be accepted. */
  get isFull(): boolean {
    return this.#postponed !== undefined
  }

  /** Whether all requests were answered. */
  get isIdle(): boolean {
    return this.#unanswered === 0
  }

  /**
   * Handles a request now, or once others were answered.
   *
   * @param owner keeps the socket from being collected until the request is answered
   * @param bytes the number of bytes of its data
   */
  add(owner: object, id: number, received: Received, bytes: number): void {
    if (this.#handled.has(id)) {
      closeReceived(received)
      this.#source.refuse(protocolError(`a request has the id ${id} of another one that is not answered`))
    } else if (this.#fits(received, bytes)) {
      void this.#handle(owner, id, received, bytes)
    } else {
      this.#postponed = { owner, id, received, bytes }
    }
  }

  #fits(received: Received, bytes: number): boolean {
    if (this.#unanswered === 0) return true
    const { maxPending, maxRequestBytes, maxRequestFds } = this.#limits
    const fds = fdCountOf(received)
    return this.#unanswered < maxPending && this.#bytes + bytes <= maxRequestBytes && this.#fds + fds <= maxRequestFds
  }

  async #handle(owner: object, id: number, received: Received, bytes: number): Promise<void> {
    const request = typeof received === 'function' ? undefined : new ChannelRequest(received.value, received.fds)
    if (request !== undefined) this.#handled.set(id, request)
    const fdCount = fdCountOf(received)
    this.#unanswered++
    this.#bytes += bytes
    this.#fds += fdCount
    try {
      if (typeof received === 'function') throw received()
      const { value, fds } = await this.#callHandler(request!)
      const given = descriptorsIn(fds)
      try {
        this.#returned(id, request) // the peer may use the id again once it has the answer
        if (request!.isAborted) return
        await this.#writer.sendValue(owner, RESPONSE, id, value, fds)
      } finally {
        closeFds(takeFds(given))
        for (const descriptor of descriptorsOfOtherCopies(fds)) descriptor.closeSync()
      }
    } catch (error) {
      this.#returned(id, request)
      if (request?.isAborted !== true) await this.#sendError(owner, id, error)
    } finally {
      this.#unanswered--
      this.#bytes -= bytes
      this.#fds -= fdCount
      this.#handlePostponed()
      this.#source.requestHandled()
    }
  }

  #handlePostponed(): void {
    const next = this.#postponed
    if (next === undefined || !this.#fits(next.received, next.bytes)) return
    this.#postponed = undefined
    void this.#handle(next.owner, next.id, next.received, next.bytes)
  }

  /** Forgets a request whose handler has returned. A later one can have its id, if the peer has cancelled it. */
  #returned(id: number, request: ChannelRequest | undefined): void {
    if (this.#handled.get(id) === request) this.#handled.delete(id)
  }

  async #callHandler(request: ChannelRequest): Promise<Reply> {
    if (this.handler !== undefined) return replyOf(await this.handler(request))
    request.close()
    throw withCode(new Error('The peer has no request handler'), 'ERR_NO_HANDLER')
  }

  async #sendError(owner: object, id: number, error: unknown): Promise<void> {
    if (this.#writer.closed) return
    try {
      await this.#writer.sendText(owner, ERROR, id, serializeError(error))
    } catch (failure) {
      const { code } = failure as SystemError
      // The peer closed the connection or its reading side, and needs no answer.
      if (code !== 'EPIPE' && code !== 'ECONNRESET') this.#source.fail(() => failure as SystemError)
    }
  }

  /** Aborts a request that the peer cancelled. */
  cancel(id: number): void {
    this.#handled.get(id)?.abort(withCode(new Error('The peer cancelled the request'), 'ABORT_ERR'))
    this.#handled.delete(id)
  }

  /** Aborts all requests that are being handled. */
  abort(reason: () => Error): void {
    for (const request of this.#handled.values()) request.abort(reason())
  }

  /** Closes the request that was not handled yet. */
  dropPostponed(): void {
    if (this.#postponed !== undefined) closeReceived(this.#postponed.received)
    this.#postponed = undefined
  }
}

/** Returns a handler's result as a reply. Each property is read once, because a getter may return different values. */
function replyOf(result: unknown): Reply {
  if (result === undefined || result === null) return {}
  if (typeof result !== 'object' || !('value' in result || 'fds' in result)) {
    throw invalidReturn('handler', 'an object with value, fds or both, or nothing,', result)
  }
  const { value, fds } = result as Reply
  return { value, fds }
}

/** Returns the sources that a reply transfers: its Descriptor objects. */
function descriptorsIn(sources: unknown): Descriptor[] {
  return Array.isArray(sources) ? sources.filter((source) => source instanceof Descriptor) : []
}

/** Returns the same of the other copies of the package in this process. */
function descriptorsOfOtherCopies(sources: unknown): Pick<Descriptor, 'closeSync'>[] {
  if (!Array.isArray(sources)) return []
  return sources.filter(
    (source) => typeof source === 'object' && source !== null && isOfAnotherCopy(source) && 'kind' in source
  )
}

function fdCountOf(received: Received): number {
  return typeof received === 'function' ? 0 : received.fds.length
}
