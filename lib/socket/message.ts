import type { Address } from '../address/unix-address.ts'
import type { Credentials } from './credentials.ts'
import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'

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

  /**
   * Who sent it, where the socket was made with `credentials: true` (`SCM_CREDENTIALS`): the process that called sendmsg,
   * whoever connected. The kernel fills them in, or checks what the sender claims; root may claim to be anybody. Of
   * bytes that were sent before the option was on, Linux knows nothing: pid null, uid and gid 65534.
   */
  readonly credentials?: Credentials | undefined
  /**
   * The process that sent it, where the socket was made with `pidfd: true` (`SCM_PIDFD`), and if the kernel still knows
   * it. Where root claims to be another process, it is that one. It is the receiver's to close, as `fds` are.
   */
  readonly pidfd?: Descriptor | undefined
  /** The sender's address, or null if it has none: on datagram sockets. */
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

  /** @internal How many descriptors came with it. */
  get fdCount(): number {
    return this.fds.length + (this.pidfd === undefined ? 0 : 1)
  }

  /** @internal Take the numbers of all descriptors that are still open out of it. */
  takeFds(): number[] {
    return takeFds(this.pidfd === undefined ? this.fds : [...this.fds, this.pidfd])
  }

  /** Close at once every descriptor of the message that is not yet closed, released or given to something else. */
  close(): void {
    closeFds(this.takeFds())
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
