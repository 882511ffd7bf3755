import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'

/**
 * A message received over a {@link Channel}: a value, and exactly the descriptors that were sent with it. The descriptors belong
 * to the receiver: close each of them, or the message.
 */
export class ChannelMessage<T = unknown> implements Disposable {
  /** The value that was sent. Bytes are in memory of their own. With a `decode` option, the value that it returned. */
  readonly value: T
  /** The descriptors, in the order in which they were sent. */
  readonly fds: readonly Descriptor[]

  /** @internal */
  constructor(value: T, fds: readonly Descriptor[]) {
    this.value = value
    this.fds = fds
  }

  /** Closes every descriptor of the message that is not closed, released or taken over by another object. */
  close(): void {
    closeFds(takeFds(this.fds))
  }

  /** Closes the message, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/** A received message, or a function that creates the error to reject its receiver with. */
export type Received = ChannelMessage | (() => unknown)

/** Closes a received message's descriptors. */
export function closeReceived(received: Received): void {
  if (typeof received !== 'function') received.close()
}

/** A message that expects a response. */
export class ChannelRequest<T = unknown> extends ChannelMessage<T> {
  // Created on first use: most handlers never read it, and creating it costs more than the rest of a request.
  #controller: AbortController | undefined
  #aborted: Error | undefined

  /** Aborted when the response is no longer needed: the peer cancelled the request, or the channel ended. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    if (this.#aborted !== undefined) this.#controller.abort(this.#aborted)
    return this.#controller.signal
  }

  /** @internal */
  get isAborted(): boolean {
    return this.#aborted !== undefined
  }

  /** @internal Aborts the signal, because the response is no longer needed. */
  abort(reason: Error): void {
    this.#aborted ??= reason
    this.#controller?.abort(this.#aborted)
  }
}
