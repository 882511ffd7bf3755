import { takeName } from './address.ts'
import { onAbort } from './arguments.ts'
import { takeCredentials, takePidfd } from './credentials.ts'
import { type Descriptor, own } from './descriptor.ts'
import type { Endpoint } from './endpoint.ts'
import { TOO_MANY, TRUNCATED, aborted, controlError, rejection, socketClosed, systemError } from './errors.ts'
import { Message } from './message.ts'
import { AGAIN, BUSY, END, MAX_RECEIVED_FDS, SMALL, bytes, fds, native, outcome } from './native.ts'
import { Queue } from './queue.ts'
import { spend } from './turn.ts'

/** How many bytes a receive takes at most where nobody says. */
const DEFAULT_MAX_BYTES = 65_536

/** How many messages one wake receives, and how many are held that were received ahead. */
const PER_WAKE = 64

/**
 * How many descriptors one wake receives, and how many are held that were received ahead. A process with threads stalls
 * for 8 to 25 ms each time its descriptor table doubles: a wake should not take it there by itself.
 */
const FDS_PER_WAKE = 250

/** The learnt chance of a try: so high after hits, and so low after misses that the next sixteen are not made. */
const MOST_LUCK = 3
const LEAST_LUCK = -15

/** How much one receive takes. */
export interface Limits {
  readonly maxBytes: number
  readonly maxFds: number
}

/** The limits of a receive for which nobody gave any. */
export const defaultLimits: Limits = { maxBytes: DEFAULT_MAX_BYTES, maxFds: MAX_RECEIVED_FDS }

/** What a caller makes of a message, or of null at the end. */
export interface Shape<T> {
  (message: Message | null): T
  /** Receive further messages along with the one asked for. */
  readonly ahead?: boolean
  /** Receive only what the event loop tells of, and so in turn with the other sockets of the process. */
  readonly inTurn?: boolean
  /** What this side's close gives, where that is no error. */
  readonly closed?: () => T
}

/** A message; null at the end; undefined where nothing is there; or what went wrong, to be made where it is thrown. */
type Received = Message | null | undefined | (() => Error)

/** A receive that has to wait for a message. */
interface Pending {
  /** Keeps the socket from being collected. */
  readonly socket: object
  readonly limits: Limits
  readonly shape: Shape<unknown>
  readonly resolve: (value: unknown) => void
  abortion: Disposable | undefined
}

const noDescriptors: readonly Descriptor[] = []

/** The receiving half of a socket. */
export class Receiver {
  readonly #endpoint: Endpoint
  readonly #queue = new Queue<Pending>()
  /** What an iteration received beyond what it was asked for, in order, and an error that came after it. */
  readonly #ahead = new Queue<Message | (() => Error)>()
  /** What a smaller receive left of a stream's message that was held. */
  #rest: Message | undefined
  /**
   * Whether it pays to try before waiting is learnt: in a ping-pong the first try is always in vain, in a stream it
   * always succeeds.
   */
  #luck = MOST_LUCK
  /** Descriptors were lost once, maybe to a full table: receiving ahead would lose more. */
  #careful = false
  /** The most descriptors that a message had. */
  #mostFds = 0

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint
  }

  /** Whether somebody waits for a message. */
  get waitsForInput(): boolean {
    return this.#queue.length > 0
  }

  /** How many messages are held that were received ahead. */
  get held(): number {
    return this.#ahead.length + (this.#rest === undefined ? 0 : 1)
  }

  /** One message in the caller's shape, at once or when it comes. */
  receive<T>(socket: object, limits: Limits, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    if (this.held > 0) return answer(this.#takeHeld(limits), shape)
    if (this.#queue.length === 0 && shape.inTurn !== true && this.#paysToTry() && spend()) {
      const received = this.#tryReceive(limits)
      if (received !== undefined) {
        this.#luck = Math.min(Math.max(this.#luck, 0) + 1, MOST_LUCK)
        if (shape.ahead === true && received instanceof Message) this.#receiveAhead(limits)
        return answer(received, shape)
      }
      this.#miss()
    }
    return new Promise((resolve) => {
      const pending: Pending = { socket, limits, shape, resolve: resolve as Pending['resolve'], abortion: undefined }
      pending.abortion = onAbort(signal, () => this.#abort(pending, signal!))
      this.#queue.push(pending)
      this.#endpoint.update()
    })
  }

  /** A socket that is not armed is tried in any case: arming it costs more than a try. */
  #paysToTry(): boolean {
    if (this.#luck > 0 || !this.#endpoint.armedForReading) return true
    this.#luck++
    return false
  }

  #miss(): void {
    this.#luck = this.#luck > 1 ? this.#luck - 1 : LEAST_LUCK
  }

  /** One recvmsg. */
  #tryReceive({ maxBytes, maxFds: limit }: Limits): Received {
    const { fd, takesFds, isDatagram } = this.#endpoint
    const maxFds = takesFds ? limit : 0
    let data: Uint8Array
    if (maxBytes <= bytes.length) {
      const count = native.receive(fd, maxBytes, maxFds)
      if (count < 0) return nothing(count)
      data = new Uint8Array(count)
      if (count <= SMALL) for (let i = 0; i < count; i++) data[i] = bytes[i]!
      else data.set(bytes.subarray(0, count))
    } else {
      let buffer: ArrayBufferLike
      try {
        ;({ buffer } = Buffer.allocUnsafeSlow(maxBytes))
      } catch (error) {
        return () => error as Error // out of memory
      }
      const count = native.receiveInto(new Uint8Array(buffer), fd, maxFds)
      if (count < 0) return nothing(count)
      data = new Uint8Array(buffer, 0, count)
      if (count < maxBytes / 2) data = data.slice() // a short message should not keep so much memory
    }
    const control = outcome[1]!
    if (control !== 0) {
      this.#careful ||= control === TRUNCATED
      return () => controlError(control, data)
    }
    const count = outcome[0]!
    const size = outcome[2]!
    const more = outcome[3] !== 0 // than descriptors
    let descriptors = noDescriptors
    if (count > 0) {
      const received = [own(fds[0]!)]
      for (let i = 1; i < count; i++) received.push(own(fds[i]!))
      descriptors = received
    } else if (!more && !isDatagram) {
      return new Message(data, size, noDescriptors)
    }
    const pidfd = more ? takePidfd() : undefined
    const message = new Message(
      data,
      size,
      descriptors,
      more ? takeCredentials() : undefined,
      pidfd === undefined ? undefined : own(pidfd),
      isDatagram ? takeName(outcome[8]!) : undefined
    )
    this.#mostFds = Math.max(this.#mostFds, message.fdCount)
    return message
  }

  /** Serves those who wait, as far as messages are there. */
  flushInput(): void {
    let fdsLeft = FDS_PER_WAKE
    for (let left = PER_WAKE; left > 0 && fdsLeft > 0; left--) {
      const pending = this.#queue.peek()
      if (pending === undefined) return
      const received = this.#tryReceive(pending.limits)
      if (received === undefined) return
      this.#queue.shift()
      if (typeof received === 'function') {
        settle(pending, rejection(received))
        continue
      }
      settle(pending, pending.shape(received))
      fdsLeft -= received?.fdCount ?? 0
      if (pending.shape.ahead === true && received !== null && !this.waitsForInput) {
        this.#receiveAhead(pending.limits)
        return
      }
    }
  }

  /** Receives what else is there for an iteration, within the caps. */
  #receiveAhead(limits: Limits): void {
    if (this.#luck <= 0 && ++this.#luck <= 0) return
    let taken = 0
    let fdsTaken = 0
    let room: number | undefined
    while (taken < PER_WAKE && !this.#careful) {
      if (this.#mostFds > 0) {
        room ??= native.room()
        // What is held must not take the room of a message that would have been received without it.
        if (fdsTaken + this.#mostFds > Math.min(FDS_PER_WAKE, room / 4) || fdsTaken + limits.maxFds > room) break
      }
      const received = this.#tryReceive(limits)
      if (received === undefined || received === null) break // the end is there to be received again
      this.#ahead.push(received)
      taken++
      if (typeof received === 'function') break
      fdsTaken += received.fdCount
    }
    spend(taken)
    if (taken === 0) this.#miss()
  }

  /** What was received ahead, within the limits of whoever takes it. */
  #takeHeld({ maxBytes, maxFds }: Limits): Message | (() => Error) {
    let message = this.#rest ?? this.#ahead.shift()!
    this.#rest = undefined
    if (typeof message === 'function') return message
    const { data } = message
    if (data.length > maxBytes) {
      const { isStream } = this.#endpoint
      const { credentials, pidfd, address } = message
      if (isStream) this.#rest = new Message(data.slice(maxBytes), data.length - maxBytes, noDescriptors, credentials)
      const size = isStream ? maxBytes : message.size
      message = new Message(data.slice(0, maxBytes), size, message.fds, credentials, pidfd, address)
    }
    if (message.fds.length <= maxFds) return message
    message.close()
    const rest = message.data
    return () => controlError(TOO_MANY, rest)
  }

  /** Gives the descriptors that are held to the caller, who closes them; the messages are gone. */
  takeHeldFds(): number[] {
    const numbers: number[] = []
    this.#rest = undefined // its descriptors went with its first part
    for (let held = this.#ahead.shift(); held !== undefined; held = this.#ahead.shift()) {
      if (held instanceof Message) numbers.push(...held.disown())
    }
    return numbers
  }

  #abort(pending: Pending, signal: AbortSignal): void {
    if (!this.#queue.remove(pending)) return
    settle(
      pending,
      rejection(() => aborted(signal))
    )
    this.#endpoint.update()
  }

  /** Ends everything that waits with an error. */
  fail(error: () => Error): void {
    for (let pending = this.#queue.shift(); pending !== undefined; pending = this.#queue.shift()) {
      settle(pending, rejection(error))
    }
  }

  /** Ends everything that waits, because this side has closed. */
  close(): void {
    for (let pending = this.#queue.shift(); pending !== undefined; pending = this.#queue.shift()) {
      settle(pending, pending.shape.closed?.() ?? rejection(socketClosed))
    }
  }
}

function settle(pending: Pending, value: unknown): void {
  pending.abortion?.[Symbol.dispose]()
  pending.resolve(value)
}

function answer<T>(received: Message | null | (() => Error), shape: Shape<T>): Promise<T> {
  return typeof received === 'function' ? Promise.reject(received()) : Promise.resolve(shape(received))
}

/** What a receive without a message means. */
function nothing(code: number): Received {
  if (code === AGAIN || code === BUSY) return undefined
  if (code === END) return null
  return () => systemError(code, 'recvmsg')
}
