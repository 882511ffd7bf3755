import { type Descriptor, closeFds, disownAll } from './descriptor.ts'

/**
 * What one receive gave: bytes, and the descriptors that came with them. The descriptors are the receiver's: close
 * each, or the message.
 */
export class Message implements Disposable {
  /** The bytes, in memory of their own. */
  readonly data: Uint8Array
  /** The bytes that were sent: more than `data` holds where a datagram or packet was longer than `maxBytes`. */
  readonly size: number
  /** The descriptors, in the order in which they were sent. */
  readonly fds: readonly Descriptor[]

  /** @internal */
  constructor(data: Uint8Array, size: number, fds: readonly Descriptor[]) {
    this.data = data
    this.size = size
    this.fds = fds
  }

  /** Close at once every descriptor of the message that is not yet closed, released or given to something else. */
  close(): void {
    closeFds(disownAll(this.fds))
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/** What `recvFd` gave: at most one descriptor, and the bytes that came with it. */
export class ReceivedFd implements Disposable {
  /** The descriptor, which is the receiver's to close; null where bytes came without one. */
  readonly fd: Descriptor | null
  /** The bytes, in memory of their own. */
  readonly data: Uint8Array

  /** @internal */
  constructor(fd: Descriptor | null, data: Uint8Array) {
    this.fd = fd
    this.data = data
  }

  /** Close the descriptor, if one came and is still open; for `using`. */
  [Symbol.dispose](): void {
    this.fd?.closeSync()
  }
}
