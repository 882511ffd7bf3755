import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'

/**
 * A message of a {@link Channel}: a value, and exactly the descriptors that were sent with it. The descriptors are the
 * receiver's: close each, or the message.
 */
export class ChannelMessage<T = unknown> implements Disposable {
  /** What was sent: bytes in memory of their own, or what `decode` made of them. */
  readonly value: T
  /** The descriptors, in the order in which they were sent. */
  readonly fds: readonly Descriptor[]

  /** @internal */
  constructor(value: T, fds: readonly Descriptor[]) {
    this.value = value
    this.fds = fds
  }

  /** Close at once every descriptor of the message that is not yet closed, released or given to something else. */
  close(): void {
    closeFds(takeFds(this.fds))
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/** A message that asks for a reply. */
export class ChannelRequest<T = unknown> extends ChannelMessage<T> {
  // Made when it is asked for: most handlers do not, and it costs more than all else about a request.
  #controller: AbortController | undefined
  #aborted: Error | undefined

  /** Aborted when nobody waits for the reply any more: the other end gave up, or the channel has ended. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    if (this.#aborted !== undefined) this.#controller.abort(this.#aborted)
    return this.#controller.signal
  }

  /** @internal */
  get isAborted(): boolean {
    return this.#aborted !== undefined
  }

  /** @internal Nobody waits for the reply any more. */
  abort(reason: Error): void {
    this.#aborted ??= reason
    this.#controller?.abort(this.#aborted)
  }
}
