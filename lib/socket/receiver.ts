import { takeName } from '../address/socket-address.ts'
import { Queue } from '../base/collections.ts'
import { rejection } from '../base/errors.ts'
import { Waiter, Waiters, settle } from '../base/waiters.ts'
import { type Descriptor, wrapFd } from '../descriptor/descriptor.ts'
import { chargeTick } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { ControlStatus, AGAIN, BUSY, END, MAX_RECEIVED_FDS } from '../native/codes.ts'
import {
  batchByteCount,
  batchCount,
  batchFdCount,
  copyBuffer,
  fdAt,
  hasReceivedExtras,
  receivedCredentials,
  receivedFdCount,
  receivedNameLength,
  receivedPidfd,
  receivedSize,
  receivedStatus
} from '../native/results.ts'
import { MOST_BYTES } from '../native/shared-memory.ts'
import { systemError } from '../native/system-error.ts'
import { socketClosed } from './errors.ts'
import { Failure, Message, type MessageParts } from './message.ts'

/** The default of `maxBytes`. */
const DEFAULT_MAX_BYTES = 65_536

/** The maximum number of messages that one wake receives, and that are held ahead. */
const MESSAGES_PER_WAKE = 64

/**
 * The maximum number of descriptors that one wake receives, and that are held ahead. A multi-threaded process stalls for 8 to
 * 25 ms when its descriptor table doubles (expand_fdtable in fs/file.c waits for RCU), so one wake should not cause that.
 */
const FDS_PER_WAKE = 250

/** The limits of one receive. */
export interface Limits {
  readonly maxBytes: number
  readonly maxFds: number
}

/** The limits of a receive without options. */
export const defaultLimits: Limits = { maxBytes: DEFAULT_MAX_BYTES, maxFds: MAX_RECEIVED_FDS }

/** Converts a message, or null for the end of the stream, to the result of a call. */
export interface Shape<T> {
  (message: Message | null): T
  /** The same for bytes with at most one descriptor, without creating a Message. */
  readonly plain?: (data: Buffer, fd: Descriptor | null) => T
  /** Whether to receive further messages along with the requested one. */
  readonly ahead?: boolean
  /** Whether to receive only when the event loop reports readiness, so that all sockets of the process take turns. */
  readonly inTurn?: boolean
  /** Collects messages; the receive stays pending until it returns a result. */
  readonly parts?: MessageParts
  /** The result when this side closes the socket; without it the call rejects. */
  readonly closed?: () => T
}

/** A pending receive. */
class PendingReceive extends Waiter<unknown> {
  /** Keeps the socket from being collected. */
  readonly socket: object
  readonly limits: Limits
  readonly shape: Shape<unknown>

  constructor(socket: object, limits: Limits, shape: Shape<unknown>) {
    super()
    this.socket = socket
    this.limits = limits
    this.shape = shape
  }
}

const noDescriptors: readonly Descriptor[] = []

const toMessage = (message: Message | null): Message => message!

const toPart: Shape<Message | null> = (message) => message

/** What a receiver needs of the socket that it receives from. */
export interface ReceivingSocket {
  readonly fd: number
  readonly isStream: boolean
  readonly isDatagram: boolean
  /** Whether descriptors are accepted; otherwise a message that carries any is refused. */
  readonly takesFds: boolean
  readonly armedForReading: boolean
  /** Whether a try to receive is worth its system call, although no event reports anything. */
  isHopeful(): boolean
  /** Notes whether a try that no event had caused has found something. */
  noteTry(found: boolean): void
  /** Watches for what the pending operations need. */
  update(): void
}

/** The receiving half of a socket. */
export class Receiver {
  readonly #socket: ReceivingSocket
  readonly #waiters = new Waiters<PendingReceive>(this)
  /** Messages received ahead by an iteration, in order, and an error that came after them. */
  #ahead: Queue<Message | Failure> | undefined
  /** The rest of a stream's held message, after a receive with a smaller `maxBytes` took its first part. */
  #rest: Message | undefined
  /** Whether descriptors were lost before, possibly to a full table: receiving ahead could lose more. */
  #careful = false
  /** The largest number of descriptors in any message so far. */
  #mostFds = 0
  /** The number of descriptors in the last message; negative if the last receive returned none. */
  #lastFds = -1

  constructor(socket: ReceivingSocket) {
    this.#socket = socket
  }

  /** Whether a receive is pending. */
  get waitsForInput(): boolean {
    return this.#waiters.length > 0
  }

  /** The number of messages received ahead, with that of which a pending receive has received a part. */
  get held(): number {
    const isPartial = this.#waiters.first?.shape.parts?.isEmpty === false
    return (this.#ahead?.length ?? 0) + (this.#rest === undefined ? 0 : 1) + (isPartial ? 1 : 0)
  }

  /** Whether there are messages that a receive takes before those of the socket. */
  get #hasHeld(): boolean {
    return (this.#ahead !== undefined && this.#ahead.length > 0) || this.#rest !== undefined
  }

  /** Receives one message in the caller's shape, at once or when it arrives. */
  receive<T>(socket: object, limits: Limits, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    if (this.#waiters.length > 0) return this.#wait(socket, limits, shape, signal)
    if (this.#hasHeld) return answer(this.#takeHeld(limits, shape))
    if (shape.inTurn !== true && this.#shouldTryFirst() && chargeTick()) {
      const received = this.#tryReceive(limits, shape)
      if (received !== undefined) {
        this.#socket.noteTry(true)
        if (shape.ahead === true && this.#lastFds >= 0) this.#receiveAhead(limits)
        return answer(received)
      }
      this.#socket.noteTry(false)
    }
    return this.#wait(socket, limits, shape, signal)
  }

  #wait<T>(socket: object, limits: Limits, shape: Shape<T>, signal: AbortSignal | undefined): Promise<T> {
    const promise = this.#waiters.add<unknown>(new PendingReceive(socket, limits, shape), signal)
    this.#socket.update()
    return promise as Promise<T>
  }

  /** Receives what `parts` collect. If the receive ends otherwise, what it has received is held for the next one. */
  receiveParts(socket: object, parts: MessageParts, signal: AbortSignal | undefined): Promise<Message | null> {
    while (this.#waiters.length === 0 && (this.#hasHeld || chargeTick())) {
      const received = this.#hasHeld ? this.#takeHeld(parts, toPart) : this.#tryReceive(parts, toPart)
      if (received === undefined) break
      const result = parts.add(received)
      if (result === undefined) continue
      this.#putBack(parts)
      return answer(result)
    }
    return this.#wait(
      socket,
      parts,
      Object.assign((message: Message | null) => message, { parts }),
      signal
    )
  }

  /** Holds what was received in part for the next receive. */
  #putBack(parts: MessageParts): void {
    this.#ahead ??= new Queue()
    for (const message of parts.takeAll()) this.#ahead.push(message)
  }

  /** Keeps what an aborted receive has received. */
  waiterAborted({ shape: { parts } }: PendingReceive): void {
    if (parts !== undefined && !parts.isEmpty) {
      this.#putBack(parts)
      // After the signal has ended its other operations.
      queueMicrotask(() => {
        this.flushInput()
        this.#socket.update()
      })
    }
    this.#socket.update()
  }

  /** Whether to try before waiting. A socket that is not armed is always tried: arming costs more than a try. */
  #shouldTryFirst(): boolean {
    return !this.#socket.armedForReading || this.#socket.isHopeful()
  }

  /** One recvmsg; undefined if no message is available. */
  #tryReceive<T>({ maxBytes, maxFds }: Limits, shape: Shape<T>): T | Failure | undefined {
    const { fd } = this.#socket
    this.#lastFds = -1
    if (maxBytes <= MOST_BYTES) {
      const count = native.receive(fd, maxBytes, this.#acceptedFds(maxFds))
      return count < 0 ? withoutMessage(count, shape) : this.#take(copyBuffer(0, count), 0, shape)
    }
    let buffer: Buffer
    try {
      buffer = Buffer.allocUnsafeSlow(maxBytes)
    } catch (error) {
      return new Failure(() => error as Error) // out of memory
    }
    const count = native.receiveInto(buffer, fd, this.#acceptedFds(maxFds))
    if (count < 0) return withoutMessage(count, shape)
    // A short message must not retain the whole buffer.
    return this.#take(count < maxBytes / 2 ? copyOf(buffer, 0, count) : buffer.subarray(0, count), 0, shape)
  }

  #acceptedFds(maxFds: number): number {
    return this.#socket.takesFds ? maxFds : 0
  }

  /** Builds a message from the last receive, whose descriptors start at a position of the shared numbers. */
  #take<T>(data: Buffer, position: number, shape: Shape<T>): T | Failure {
    const status = receivedStatus()
    if (status !== ControlStatus.Complete) {
      this.#careful ||= status === ControlStatus.Truncated
      return Failure.ofControl(status, data)
    }
    const count = receivedFdCount()
    const hasExtras = hasReceivedExtras()
    const { isDatagram } = this.#socket
    if (shape.plain !== undefined && count <= 1 && !hasExtras && !isDatagram) {
      this.#noteFds(count)
      return shape.plain(data, count === 0 ? null : wrapFd(fdAt(position)))
    }
    const size = receivedSize()
    const received = wrapFds(position, count)
    const credentials = hasExtras ? receivedCredentials() : undefined
    const pidfd = hasExtras ? receivedPidfd() : undefined
    const address = isDatagram ? takeName(receivedNameLength()) : undefined
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

  /** Settles pending receives with the messages that are available. */
  flushInput(): void {
    let fdsLeft = FDS_PER_WAKE
    for (let left = MESSAGES_PER_WAKE; left > 0 && fdsLeft > 0; left--) {
      const pending = this.#waiters.first
      if (pending === undefined) return
      let received = this.#hasHeld
        ? this.#takeHeld(pending.limits, pending.shape)
        : this.#tryReceive(pending.limits, pending.shape)
      if (received === undefined) return
      const taken = this.#lastFds
      const { parts } = pending.shape
      if (parts !== undefined) {
        received = parts.add(received as Message | Failure | null)
        if (received === undefined) {
          if (taken > 0) fdsLeft -= taken
          continue
        }
        this.#putBack(parts)
      }
      this.#waiters.shift()
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

  /** Receives further messages for an iteration, within the caps. */
  #receiveAhead(limits: Limits): void {
    if (!this.#socket.isHopeful()) return
    const { maxBytes, maxFds } = limits
    if (this.#careful || maxBytes > MOST_BYTES) return
    const { fd } = this.#socket
    const code = native.receiveMany(fd, maxBytes, this.#acceptedFds(maxFds), this.#mostFds, FDS_PER_WAKE)
    const taken = batchCount()
    const ahead = (this.#ahead ??= new Queue())
    let at = 0
    let position = 0
    for (let i = 0; i < taken; i++) {
      const length = batchByteCount(i)
      const count = batchFdCount(i)
      this.#noteFds(count)
      ahead.push(new Message(copyBuffer(at, length), length, wrapFds(position, count)))
      at += length
      position += count
    }
    if (code >= 0) ahead.push(this.#take(copyBuffer(at, code), position, toMessage))
    else if (code !== AGAIN && code !== BUSY && code !== END)
      ahead.push(new Failure(() => systemError(code, 'recvmsg')))
    chargeTick(taken)
    if (ahead.length === 0) this.#socket.noteTry(false)
  }

  /** Takes a held message, within the limits of the receive that takes it. */
  #takeHeld<T>({ maxBytes, maxFds }: Limits, shape: Shape<T>): T | Failure {
    let message = this.#rest ?? this.#ahead!.shift()!
    this.#rest = undefined
    this.#lastFds = -1
    if (message instanceof Failure) return message
    const { data } = message
    if (data.length > maxBytes) {
      const { isStream } = this.#socket
      const { credentials, pidfd, address } = message
      if (isStream) this.#rest = new Message(copyOf(data, maxBytes), data.length - maxBytes, noDescriptors, credentials)
      const size = isStream ? maxBytes : message.size
      message = new Message(copyOf(data, 0, maxBytes), size, message.fds, credentials, pidfd, address)
    }
    if (message.fds.length <= maxFds) return shape(message)
    message.close()
    const rest = message.data
    return Failure.ofControl(ControlStatus.TooMany, rest)
  }

  /** Takes the descriptors out of all held messages, which are dropped. The caller closes them. */
  takeHeldFds(): number[] {
    const numbers: number[] = []
    this.#rest = undefined // its descriptors went with its first part
    for (let held = this.#ahead?.shift(); held !== undefined; held = this.#ahead?.shift()) {
      if (held instanceof Message) numbers.push(...held.takeFds())
    }
    return numbers
  }

  /** Rejects all pending receives. */
  fail(error: () => Error): void {
    this.#holdPartial()
    this.#waiters.fail(error)
  }

  /** Holds what the first pending receive has received. */
  #holdPartial(): void {
    const parts = this.#waiters.first?.shape.parts
    if (parts !== undefined) this.#putBack(parts)
  }

  /** Settles all pending receives, because this side has closed. */
  close(): void {
    this.#holdPartial()
    this.#waiters.settleAll(({ shape }) => shape.closed?.() ?? rejection(socketClosed))
  }
}

/** Wraps received descriptor numbers. */
function wrapFds(position: number, count: number): readonly Descriptor[] {
  if (count === 0) return noDescriptors
  if (count === 1) return [wrapFd(fdAt(position))]
  const descriptors = new Array<Descriptor>(count)
  for (let i = 0; i < count; i++) descriptors[i] = wrapFd(fdAt(position + i))
  return descriptors
}

/** Returns a copy of a part with memory of its own. */
function copyOf(data: Buffer, from: number, to = data.length): Buffer {
  const copy = Buffer.allocUnsafeSlow(to - from)
  data.copy(copy, 0, from, to)
  return copy
}

function answer<T>(received: T | Failure): Promise<T> {
  return received instanceof Failure ? Promise.reject(received.error()) : Promise.resolve(received)
}

/** The meaning of a receive's negative result. */
function withoutMessage<T>(code: number, shape: Shape<T>): T | Failure | undefined {
  if (code === AGAIN || code === BUSY) return undefined
  if (code === END) return shape(null)
  return new Failure(() => systemError(code, 'recvmsg'))
}
