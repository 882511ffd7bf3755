import type { Address } from '../address/unix-address.ts'
import type { Credentials } from './credentials.ts'
import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'

/** A received message: bytes, and the descriptors that arrived with them. The caller owns the descriptors: close each, or the message. */
export class Message implements Disposable {
  /** The bytes. No other message shares their memory. */
  readonly data: Uint8Array
  /** The size of the message in bytes; more than `data.length` if a datagram or packet was longer than `maxBytes`. */
  readonly size: number
  /** The descriptors, in the order of the sender. */
  readonly fds: readonly Descriptor[]

  /**
   * The credentials of the process that called sendmsg(2) (`SCM_CREDENTIALS`), if the socket has the option `credentials: true`. The kernel
   * fills them in, or checks those that the sender claims; root may claim any. For bytes that were sent before the option was set,
   * Linux reports pid null, uid and gid 65534.
   */
  readonly credentials?: Credentials | undefined
  /**
   * A pidfd of the sender (`SCM_PIDFD`), if the socket has the option `pidfd: true` and the kernel still knows the process. If root
   * claims to be another process, it is that one. The caller owns it, as it owns `fds`.
   */
  readonly pidfd?: Descriptor | undefined
  /** The sender's address on a datagram socket; null if it has none. */
  readonly address?: Address | null | undefined

  /** @internal */
  constructor(
    data: Uint8Array,
    size: number,
    fds: readonly Descriptor[],
    credentials?: Credentials,
    pidfd?: Descriptor,
    address?: Address | null
  ) {
    this.data = data
    this.size = size
    this.fds = fds
    this.credentials = credentials
    this.pidfd = pidfd
    this.address = address
  }

  /** @internal The number of descriptors that arrived, including the pidfd. */
  get fdCount(): number {
    return this.fds.length + (this.pidfd === undefined ? 0 : 1)
  }

  /** @internal Takes the numbers of all descriptors that are still open. */
  takeFds(): number[] {
    return takeFds(this.pidfd === undefined ? this.fds : [...this.fds, this.pidfd])
  }

  /** Closes every descriptor of the message that was not closed, released or cast. */
  close(): void {
    closeFds(this.takeFds())
  }

  /** Closes the descriptors, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/** The result of `recvFd`: at most one descriptor, and the bytes that arrived with it. */
export class ReceivedFd implements Disposable {
  /** The descriptor, which the caller owns; null if the bytes arrived without one. */
  readonly fd: Descriptor | null
  /** The bytes. No other message shares their memory. */
  readonly data: Uint8Array

  /** @internal */
  constructor(fd: Descriptor | null, data: Uint8Array) {
    this.fd = fd
    this.data = data
  }

  /** Closes the descriptor if there is one and it is open, for `using`. */
  [Symbol.dispose](): void {
    this.fd?.closeSync()
  }
}
