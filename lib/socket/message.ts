import type { Address } from '../address/socket-address.ts'
import type { Credentials } from './credentials.ts'
import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { MAX_RECEIVED_FDS } from '../native/codes.ts'
import { closeFds } from '../native/owned-fds.ts'
import { MOST_BYTES } from '../native/shared-memory.ts'
import { controlError, unexpectedEnd } from './errors.ts'

/** A received message: bytes, and the descriptors that arrived with them. The caller owns the descriptors: close each, or the message. */
export class Message implements Disposable {
  /** The bytes. No other message shares their memory. */
  readonly data: Buffer
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
    data: Buffer,
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
  readonly data: Buffer

  /** @internal */
  constructor(fd: Descriptor | null, data: Buffer) {
    this.fd = fd
    this.data = data
  }

  /** Closes the descriptor if there is one and it is open, for `using`. */
  [Symbol.dispose](): void {
    this.fd?.closeSync()
  }
}

/** A failed receive. Its error is created where it is thrown, so that the stack names the caller. */
export class Failure {
  readonly error: () => Error
  /** The `ControlStatus` and the bytes of a message whose descriptors could not be delivered. */
  readonly control: ControlFailure | undefined

  constructor(error: () => Error, control?: ControlFailure) {
    this.error = error
    this.control = control
  }

  /** Returns the failure of a message whose descriptors could not be delivered. */
  static ofControl(status: number, data: Buffer): Failure {
    return new Failure(() => controlError(status, data), { status, data })
  }
}

interface ControlFailure {
  readonly status: number
  readonly data: Buffer
}

/** What one receive has returned, or several that returned nothing but bytes of the same sender. */
interface Part {
  /** The position behind its bytes. */
  end: number
  /** The message; its bytes are copied. Of a failed receive, the `ControlStatus`. */
  readonly received: Message | number
}

/** Collects a number of bytes of a stream, and the descriptors beside them. */
export class MessageParts {
  readonly #bytes: number
  readonly #maxFds: number
  #data = Buffer.alloc(0)
  #received = 0
  #fdCount = 0
  #parts: Part[] = []
  /** What could not be added for lack of memory. */
  #unplaced: Message | Failure | undefined

  constructor(bytes: number, maxFds: number) {
    this.#bytes = bytes
    this.#maxFds = maxFds
  }

  /** The maximum number of bytes of the next receive: a further one would belong to the next message, and so would its descriptor. */
  get maxBytes(): number {
    return Math.min(this.#bytes - this.#received, MOST_BYTES)
  }

  /** The maximum number of descriptors of the next receive. */
  get maxFds(): number {
    return Math.min(this.#maxFds - this.#fdCount, MAX_RECEIVED_FDS)
  }

  /** Whether nothing was added, or everything was taken. */
  get isEmpty(): boolean {
    return this.#parts.length === 0 && this.#unplaced === undefined
  }

  /** Adds what a receive has returned. Returns the result of the whole; undefined while bytes are missing. */
  add(received: Message | Failure | null): Message | Failure | null | undefined {
    if (received === null) return this.isEmpty ? null : this.#endEarly()
    if (received instanceof Failure && received.control === undefined) {
      if (this.isEmpty) return received
      const error = received.error() as NodeJS.ErrnoException
      return error.code === 'ECONNRESET' ? this.#endEarly(error) : received
    }
    const { data } = received instanceof Failure ? received.control! : received
    if (this.isEmpty && data.length === this.#bytes) return received
    try {
      this.#append(data)
    } catch (error) {
      this.#unplaced = received
      return new Failure(() => error as Error) // out of memory
    }
    this.#note(received)
    return this.#received < this.#bytes ? undefined : this.#finish()
  }

  #append(data: Uint8Array): void {
    const length = this.#received + data.length
    if (length > this.#data.length) {
      const larger = Buffer.allocUnsafeSlow(Math.min(Math.max(length, 2 * this.#data.length), this.#bytes))
      this.#data.copy(larger, 0, 0, this.#received)
      this.#data = larger
    }
    this.#data.set(data, this.#received)
    this.#received = length
  }

  #note(received: Message | Failure): void {
    const last = this.#parts.at(-1)
    const isFailure = received instanceof Failure
    // A peer may send each byte by itself. Bytes beside nothing add nothing to a failure, whose error has them.
    if (typeof last?.received === 'number' && (isFailure || received.fds.length === 0)) {
      last.end = this.#received
      if (!isFailure) received.close()
      return
    }
    if (isFailure) {
      this.#parts.push({ end: this.#received, received: received.control!.status })
      return
    }
    this.#fdCount += received.fds.length
    if (last !== undefined && isPlain(last.received) && isPlain(received) && haveSameSender(last.received, received)) {
      last.end = this.#received
      received.close() // its pidfd is another one of the same process
    } else {
      this.#parts.push({ end: this.#received, received })
    }
  }

  /** Takes everything that was added, as separate messages. */
  takeAll(): (Message | Failure)[] {
    let start = 0
    const taken = this.#parts.map(({ end, received }) => {
      const data = Buffer.allocUnsafeSlow(end - start)
      this.#data.copy(data, 0, start, end)
      start = end
      if (typeof received === 'number') return Failure.ofControl(received, data)
      const { fds, credentials, pidfd } = received
      return new Message(data, data.length, fds, credentials, pidfd)
    })
    if (this.#unplaced !== undefined) taken.push(this.#unplaced)
    this.#unplaced = undefined
    this.#parts = []
    return taken
  }

  /** Returns the collected message; if a part of it failed, the failure with all bytes. */
  #finish(): Message | Failure {
    const parts = this.#parts.map(({ received }) => received)
    this.#parts = []
    const messages = parts.filter((received) => typeof received !== 'number')
    const status = parts.find((received) => typeof received === 'number')
    if (status !== undefined) {
      for (const message of messages) message.close()
      return Failure.ofControl(status, this.#data)
    }
    const [first] = messages as [Message, ...Message[]]
    const fds = messages.flatMap((message) => message.fds)
    const isOfOne = messages.every((message) => haveSameSender(first, message))
    closeFds(takeFds(messages.flatMap((message) => (isOfOne && message === first ? [] : (message.pidfd ?? [])))))
    return new Message(
      this.#data,
      this.#received,
      fds,
      isOfOne ? first.credentials : undefined,
      isOfOne ? first.pidfd : undefined
    )
  }

  /** Returns the failure of a stream that has ended too early. */
  #endEarly(cause?: Error): Failure {
    const taken = this.takeAll()
    for (const message of taken) if (message instanceof Message) message.close()
    const failed = taken.find((message) => message instanceof Failure)
    const data = this.#data.subarray(0, this.#received)
    return new Failure(() => unexpectedEnd(data, this.#bytes, cause ?? failed?.error()))
  }
}

function isPlain(received: Message | number): received is Message {
  return typeof received !== 'number' && received.fds.length === 0
}

/** Returns whether the kernel reports the same process for both, or none for either. */
function haveSameSender({ credentials: a }: Message, { credentials: b }: Message): boolean {
  return a?.pid === b?.pid && a?.uid === b?.uid && a?.gid === b?.gid
}

/** What {@link UnixSocket.recvFd} resolves to with `required`. */
export interface RequiredFd extends ReceivedFd {
  /** The descriptor, which the receiver must close. */
  readonly fd: Descriptor
}
