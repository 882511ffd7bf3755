import { takeName } from '../address/unix-address.ts'
import { onAbort } from '../base/abort.ts'
import { takeCredentials, takePidfd } from './credentials.ts'
import { type Descriptor, wrapFd } from '../descriptor/descriptor.ts'
import { TOO_MANY, TRUNCATED, controlError, socketClosed } from './errors.ts'
import { aborted } from '../base/errors/abort.ts'
import { rejection } from '../base/rejection.ts'
import { systemError } from '../native/system-error.ts'
import { Message } from './message.ts'
import { AGAIN, BUSY, END, MAX_RECEIVED_FDS } from '../native/codes.ts'
import { MOST_BYTES, SMALL, batch, bytes, fds, outcome } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'
import { Queue } from '../base/queue.ts'
import { chargeTick } from '../event-loop/tick-budget.ts'

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
  /** As the call, of a message that is bytes and at most one descriptor: the Message need not be made. */
  readonly plain?: (data: Uint8Array, fd: Descriptor | null) => T
  /** Receive further messages along with the one asked for. */
  readonly ahead?: boolean
  /** Receive only what the event loop tells of, and so in turn with the other sockets of the process. */
  readonly inTurn?: boolean
  /** What this side's close gives, where that is no error. */
  readonly closed?: () => T
}

/** What went wrong, to be made where it is thrown. */
class Failure {
  readonly error: () => Error

  constructor(error: () => Error) {
    this.error = error
  }
}

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

const toAhead = (message: Message | null): Message => message!

// An executor that is made once: one for each promise would be a closure, with a context of its own.
let resolvePending: Pending['resolve']
const keepResolve = (resolve: Pending['resolve']): void => {
  resolvePending = resolve
}

/** What a receiver needs of the socket that it receives from. */
export interface ReceivingSocket {
  readonly fd: number
  readonly isStream: boolean
  readonly isDatagram: boolean
  /** Whether descriptors are accepted; otherwise a message that carries any is refused. */
  readonly takesFds: boolean
  readonly armedForReading: boolean
  /** Watches for what the pending operations need. */
  update(): void
}

/** The receiving half of a socket. */
export class Receiver {
  readonly #endpoint: ReceivingSocket
  readonly #queue = new Queue<Pending>()
  /** What an iteration received beyond what it was asked for, in order, and an error that came after it. */
  readonly #ahead = new Queue<Message | Failure>()
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
  /** How many the last receive took; negative where it took no message. */
  #lastFds = -1

  constructor(endpoint: ReceivingSocket) {
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
    if (this.held > 0) return answer(this.#takeHeld(limits, shape))
    if (this.#queue.length === 0 && shape.inTurn !== true && this.#paysToTry() && chargeTick()) {
      const received = this.#tryReceive(limits, shape)
      if (received !== undefined) {
        this.#luck = Math.min(Math.max(this.#luck, 0) + 1, MOST_LUCK)
        if (shape.ahead === true && this.#lastFds >= 0) this.#receiveAhead(limits)
        return answer(received)
      }
      this.#miss()
    }
    const promise = new Promise<unknown>(keepResolve)
    const pending: Pending = { socket, limits, shape, resolve: resolvePending, abortion: undefined }
    if (signal !== undefined) pending.abortion = onAbort(signal, () => this.#abort(pending, signal))
    this.#queue.push(pending)
    this.#endpoint.update()
    return promise as Promise<T>
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

  /** One recvmsg; undefined where nothing is there. */
  #tryReceive<T>({ maxBytes, maxFds }: Limits, shape: Shape<T>): T | Failure | undefined {
    const { fd } = this.#endpoint
    this.#lastFds = -1
    if (maxBytes <= MOST_BYTES) {
      const count = native.receive(fd, maxBytes, this.#mostTaken(maxFds))
      return count < 0 ? nothing(count, shape) : this.#take(takeBytes(0, count), 0, shape)
    }
    let buffer: ArrayBufferLike
    try {
      ;({ buffer } = Buffer.allocUnsafeSlow(maxBytes))
    } catch (error) {
      return new Failure(() => error as Error) // out of memory
    }
    const count = native.receiveInto(new Uint8Array(buffer), fd, this.#mostTaken(maxFds))
    if (count < 0) return nothing(count, shape)
    const data = new Uint8Array(buffer, 0, count)
    return this.#take(count < maxBytes / 2 ? data.slice() : data, 0, shape) // a short message should not keep so much memory
  }

  #mostTaken(maxFds: number): number {
    return this.#endpoint.takesFds ? maxFds : 0
  }

  /** Makes a message of what the last receive has told, its descriptors from a place on. */
  #take<T>(data: Uint8Array, place: number, shape: Shape<T>): T | Failure {
    const control = outcome[1]!
    if (control !== 0) {
      this.#careful ||= control === TRUNCATED
      return new Failure(() => controlError(control, data))
    }
    const count = outcome[0]!
    const more = outcome[3] !== 0 // than descriptors
    const { isDatagram } = this.#endpoint
    if (shape.plain !== undefined && count <= 1 && !more && !isDatagram) {
      this.#noteFds(count)
      return shape.plain(data, count === 0 ? null : wrapFd(fds[place]!))
    }
    const size = outcome[2]!
    const received = wrapFds(place, count)
    const credentials = more ? takeCredentials() : undefined
    const pidfd = more ? takePidfd() : undefined
    const address = isDatagram ? takeName(outcome[8]!) : undefined
    const message = new Message(
      data,
      size,
      received,
      credentials,
      pidfd === undefined ? undefined : wrapFd(pidfd),
      address
    )
    this.#noteFds(message.fdCount)
    return shape(message)
  }

  #noteFds(count: number): void {
    this.#lastFds = count
    if (count > this.#mostFds) this.#mostFds = count
  }

  /** Serves those who wait, as far as messages are there. */
  flushInput(): void {
    let fdsLeft = FDS_PER_WAKE
    for (let left = PER_WAKE; left > 0 && fdsLeft > 0; left--) {
      const pending = this.#queue.peek()
      if (pending === undefined) return
      const received = this.#tryReceive(pending.limits, pending.shape)
      if (received === undefined) return
      const taken = this.#lastFds
      this.#queue.shift()
      if (received instanceof Failure) {
        settle(pending, rejection(received.error))
        continue
      }
      settle(pending, received)
      if (taken > 0) fdsLeft -= taken
      if (pending.shape.ahead === true && taken >= 0 && !this.waitsForInput) {
        this.#receiveAhead(pending.limits)
        return
      }
    }
  }

  /** Receives what else is there for an iteration, within the caps. */
  #receiveAhead(limits: Limits): void {
    if (this.#luck <= 0 && ++this.#luck <= 0) return
    const { maxBytes, maxFds } = limits
    if (this.#careful || maxBytes > MOST_BYTES) return
    const { fd } = this.#endpoint
    const code = native.receiveMany(fd, maxBytes, this.#mostTaken(maxFds), this.#mostFds, FDS_PER_WAKE)
    const taken = batch[0]!
    let at = 0
    let place = 0
    for (let i = 0; i < taken; i++) {
      const length = batch[1 + 2 * i]!
      const count = batch[2 + 2 * i]!
      this.#noteFds(count)
      this.#ahead.push(new Message(takeBytes(at, length), length, wrapFds(place, count)))
      at += length
      place += count
    }
    if (code >= 0) this.#ahead.push(this.#take(takeBytes(at, code), place, toAhead))
    else if (code !== AGAIN && code !== BUSY && code !== END)
      this.#ahead.push(new Failure(() => systemError(code, 'recvmsg')))
    chargeTick(taken)
    if (this.#ahead.length === 0) this.#miss()
  }

  /** What was received ahead, within the limits of whoever takes it. */
  #takeHeld<T>({ maxBytes, maxFds }: Limits, shape: Shape<T>): T | Failure {
    let message = this.#rest ?? this.#ahead.shift()!
    this.#rest = undefined
    if (message instanceof Failure) return message
    const { data } = message
    if (data.length > maxBytes) {
      const { isStream } = this.#endpoint
      const { credentials, pidfd, address } = message
      if (isStream) this.#rest = new Message(data.slice(maxBytes), data.length - maxBytes, noDescriptors, credentials)
      const size = isStream ? maxBytes : message.size
      message = new Message(data.slice(0, maxBytes), size, message.fds, credentials, pidfd, address)
    }
    if (message.fds.length <= maxFds) return shape(message)
    message.close()
    const rest = message.data
    return new Failure(() => controlError(TOO_MANY, rest))
  }

  /** Gives the descriptors that are held to the caller, who closes them; the messages are gone. */
  takeHeldFds(): number[] {
    const numbers: number[] = []
    this.#rest = undefined // its descriptors went with its first part
    for (let held = this.#ahead.shift(); held !== undefined; held = this.#ahead.shift()) {
      if (held instanceof Message) numbers.push(...held.takeFds())
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

/** A copy of bytes that were received. */
function takeBytes(at: number, count: number): Uint8Array {
  const data = new Uint8Array(count)
  if (count <= SMALL) for (let i = 0; i < count; i++) data[i] = bytes[at + i]!
  else data.set(bytes.subarray(at, at + count))
  return data
}

/** Makes objects of numbers that were received. */
function wrapFds(place: number, count: number): readonly Descriptor[] {
  if (count === 0) return noDescriptors
  if (count === 1) return [wrapFd(fds[place]!)]
  const descriptors = new Array<Descriptor>(count)
  for (let i = 0; i < count; i++) descriptors[i] = wrapFd(fds[place + i]!)
  return descriptors
}

function settle(pending: Pending, value: unknown): void {
  pending.abortion?.[Symbol.dispose]()
  pending.resolve(value)
}

function answer<T>(received: T | Failure): Promise<T> {
  return received instanceof Failure ? Promise.reject(received.error()) : Promise.resolve(received)
}

/** What a receive without a message means. */
function nothing<T>(code: number, shape: Shape<T>): T | Failure | undefined {
  if (code === AGAIN || code === BUSY) return undefined
  if (code === END) return shape(null)
  return new Failure(() => systemError(code, 'recvmsg'))
}
