import type { Descriptor } from '../descriptor/index.ts'

/** The type of values that `process.send()` accepts. */
export type NodeValue = string | number | boolean | object | null

/** A message received over a {@link NodeChannel}: a value, and the descriptor that was sent with it. */
export class NodeMessage implements Disposable {
  /** The value, decoded from JSON. */
  readonly message: unknown
  /** The descriptor of the handle that was sent with the value, which the receiver must close; null without a handle. */
  readonly fd: Descriptor | null

  /** @internal */
  constructor(message: unknown, fd: Descriptor | null) {
    this.message = message
    this.fd = fd
  }

  /** Closes the descriptor if there is one and it is open; for `using`. */
  [Symbol.dispose](): void {
    this.fd?.closeSync()
  }
}
