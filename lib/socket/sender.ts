import { clearTimeout, setTimeout } from 'node:timers'
import { putName } from '../address/unix-address.ts'
import { onAbort } from '../base/abort.ts'
import type { Claim } from './credentials.ts'
import { closeFds, duplicateShared } from '../native/owned-fds.ts'
import { aborted } from '../base/errors/abort.ts'
import { rejection } from '../base/rejection.ts'
import { systemError } from '../native/system-error.ts'
import { AGAIN, BUSY } from '../native/codes.ts'
import { SMALL, bytes, fds } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'
import { Backoff } from '../base/backoff.ts'
import { Queue } from '../base/queue.ts'
import { yieldToLoop, chargeTick } from '../event-loop/tick-budget.ts'

/** How many messages one wake sends before it lets the event loop go on. */
const PER_WAKE = 64

/** The native side's code for ending the sending half. */
const SHUT_WRITE = 1

/** What a send gives that has gone at once. */
export const sentAtOnce: Promise<void> = Promise.resolve()
const none: readonly number[] = []

// An executor that is made once: one for each promise would be a closure, with a context of its own.
let resolvePending: Pending['resolve']
const keepResolve = (resolve: Pending['resolve']): void => {
  resolvePending = resolve
}
const empty = new Uint8Array()

/** A message that is made anew for each attempt to send it, because what it tells of its descriptor changes meanwhile. */
export interface LateMessage {
  /** Gives the bytes, and puts the descriptor's number where the native calls expect it. */
  make(): Uint8Array
  /** Nothing of it has gone. */
  undo(): void
  /** The descriptor has gone, with all of the bytes or with some. */
  sent(whole: boolean): void
}

/** A late message on its way. */
export interface Sending {
  /** Resolves when the kernel has taken it whole. */
  readonly taken: Promise<void>
  /** Gives up, if it still waits. */
  cancel(error: () => Error): void
}

/** A send that has to wait for room. */
interface Pending {
  /** Keeps the socket from being collected. */
  readonly socket: object
  data: Uint8Array
  /** How much of `data` has gone. */
  offset: number
  /** Duplicates, made when `send` was called; none once they have gone with the first byte. */
  fds: readonly number[]
  /** The credentials that go with every part of it, as a receiver may see the parts apart. */
  readonly claim: Claim | undefined
  /** What makes `data` and the descriptor, until the first byte has gone. */
  late: LateMessage | undefined
  readonly resolve: (value: void | PromiseLike<void>) => void
  abortion: Disposable | undefined
}

/** What a sender needs of the socket that it sends through. */
export interface SendingSocket {
  readonly fd: number
  readonly closed: boolean
  readonly isStream: boolean
  /** Whether pending operations keep the process alive. */
  readonly referenced: boolean
  /** Watches for what the pending operations need. */
  update(): void
  /** Notes whether the sender to an address has pending messages. */
  setWaiting(address: string, sender: Sender, waits: boolean): void
}

/** The sending half of a socket, or its datagrams to one address: what does not go out at once goes in order. */
export class Sender {
  readonly #endpoint: SendingSocket
  /** Where to, if not to the socket's peer, as a string and as bytes. */
  readonly #address: string | undefined
  readonly #name: Uint8Array | undefined
  readonly #queue = new Queue<Pending>()
  #timer: NodeJS.Timeout | undefined
  readonly #backoff = new Backoff()

  constructor(endpoint: SendingSocket, address?: string, name?: Uint8Array) {
    this.#endpoint = endpoint
    this.#address = address
    this.#name = name
  }

  /** Whether nothing waits. */
  get idle(): boolean {
    return this.#queue.length === 0
  }

  /** Whether the reactor should tell when there is room: not while a pause runs, whose end nothing announces. */
  get waitsForRoom(): boolean {
    return this.#queue.length > 0 && this.#timer === undefined
  }

  /** Whether a pause keeps the process alive. */
  set referenced(on: boolean) {
    if (on) this.#timer?.ref()
    else this.#timer?.unref()
  }

  /**
   * Sends a message with the first `count` descriptors of the shared numbers, or captures it: a duplicate means what
   * the number meant at the call, whatever becomes of the number.
   */
  send(socket: object, data: Uint8Array, count: number, signal: AbortSignal | undefined, claim?: Claim): Promise<void> {
    let offset = 0
    let busy = false
    if (this.#queue.length === 0) {
      const sent = this.#try(data, 0, count, claim)
      if (sent >= 0) {
        if (this.#isWhole(sent, data, 0)) return chargeTick() ? sentAtOnce : yieldToLoop()
        offset = sent
        count = 0 // they went with the first byte
      } else if (sent !== AGAIN && sent !== BUSY) {
        return Promise.reject(this.#error(sent))
      }
      busy = sent === BUSY
    }
    const captured = count > 0 ? duplicateShared(count) : none
    const promise = new Promise<void>(keepResolve)
    const resolve = resolvePending
    const pending: Pending = {
      socket,
      data,
      offset,
      fds: captured,
      claim,
      late: undefined,
      resolve,
      abortion: undefined
    }
    if (signal !== undefined) pending.abortion = onAbort(signal, () => this.#abort(pending, () => aborted(signal)))
    this.#queue.push(pending)
    if (busy) this.#wait()
    this.#update()
    return promise
  }

  /** Sends a message that is made when there is room for it. */
  sendLate(socket: object, late: LateMessage, signal: AbortSignal | undefined): Sending {
    let pending!: Pending
    const taken = new Promise<void>((resolve) => {
      pending = { socket, data: empty, offset: 0, fds: none, claim: undefined, late, resolve, abortion: undefined }
    })
    pending.abortion = onAbort(signal, () => this.#abort(pending, () => aborted(signal!)))
    this.#queue.push(pending)
    if (this.#queue.length === 1) this.flushOutput()
    this.#update()
    return { taken, cancel: (error) => this.#abort(pending, error) }
  }

  /** A stream takes as much as it has room for, a packet goes whole or not at all. */
  #isWhole(sent: number, data: Uint8Array, offset: number): boolean {
    return offset + sent >= data.length || !this.#endpoint.isStream
  }

  /** One sendmsg, with the first `count` of the shared numbers. */
  #try(data: Uint8Array, offset: number, count: number, claim: Claim | undefined): number {
    const { fd } = this.#endpoint
    const length = data.length
    if (this.#name !== undefined || claim !== undefined) return this.#tryMessage(data, offset, count, claim)
    if (length > SMALL || offset > 0) return native.sendFrom(data, fd, offset, count)
    for (let i = 0; i < length; i++) bytes[i] = data[i]!
    return native.send(fd, length, count)
  }

  #tryMessage(data: Uint8Array, offset: number, count: number, claim: Claim | undefined): number {
    const { fd } = this.#endpoint
    const length = this.#name === undefined ? 0 : putName(this.#name)
    const { pid, uid, gid } = claim ?? { pid: 0, uid: 0, gid: 0 }
    const sent = native.sendMessage(data, fd, offset, count, length, claim === undefined ? 0 : 1, pid, uid, gid)
    // poll(2) asks whether this socket has room, not whether the receiver has (unix_dgram_poll in af_unix.c).
    return sent === AGAIN && length > 0 ? BUSY! : sent
  }

  #error(code: number): Error {
    return systemError(code, 'sendmsg', this.#address)
  }

  /** Tells the socket what waits. */
  #update(): void {
    if (this.#address === undefined) {
      this.#endpoint.update()
      return
    }
    const waits = this.#queue.length > 0
    this.#endpoint.setWaiting(this.#address, this, waits)
    if (waits) this.#wait()
  }

  /** Sends what waits, as far as there is room. */
  flushOutput(): void {
    const gone: number[] = []
    try {
      this.#flush(gone)
    } finally {
      closeFds(gone)
    }
  }

  /** Sends what waits, and gathers the duplicates that have gone: neighbours are closed by one call. */
  #flush(gone: number[]): void {
    for (let left = PER_WAKE; left > 0; left--) {
      const pending = this.#queue.peek()
      if (pending === undefined) break
      const { late } = pending
      if (late === undefined) fds.set(pending.fds)
      else if (!this.#make(pending, late)) continue
      const count = late === undefined ? pending.fds.length : 1
      const sent = this.#try(pending.data, pending.offset, count, pending.claim)
      if (sent < 0) late?.undo()
      if (sent === AGAIN) break
      if (sent === BUSY) {
        this.#wait()
        break
      }
      this.#backoff.reset()
      if (sent >= 0 && late !== undefined) {
        late.sent(this.#isWhole(sent, pending.data, 0))
        pending.late = undefined
      }
      if (sent < 0) {
        this.#queue.shift()
        settle(
          pending,
          rejection(() => this.#error(sent))
        )
        if (pending.offset > 0) this.#endHalf()
      } else if (this.#isWhole(sent, pending.data, pending.offset)) {
        this.#queue.shift()
        gone.push(...giveFds(pending))
        settle(pending, undefined)
      } else {
        pending.offset += sent
        gone.push(...giveFds(pending))
      }
    }
  }

  /** Makes a message for an attempt; false where there is none to be made. */
  #make(pending: Pending, late: LateMessage): boolean {
    try {
      pending.data = late.make()
      if (this.#queue.peek() === pending) return true
      late.undo() // what the caller's function did has ended it
    } catch (error) {
      if (this.#queue.remove(pending)) {
        settle(
          pending,
          rejection(() => error)
        )
      }
    }
    return false
  }

  /**
   * Fails what waits after the sending side was shut down: poll(2) reports no room on a stream that is full, although a
   * send would fail at once.
   */
  flushEnded(): void {
    let before: number
    do {
      before = this.#queue.length
      this.flushOutput()
    } while (this.#queue.length < before)
    this.#update()
  }

  /** Tries again after a pause, each longer than the last. */
  #wait(): void {
    if (this.#timer !== undefined) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.flushOutput()
      this.#update()
    }, this.#backoff.next())
    this.referenced = this.#endpoint.referenced
  }

  #abort(pending: Pending, error: () => Error): void {
    if (!this.#queue.remove(pending)) return
    settle(pending, rejection(error))
    if (pending.offset > 0) this.#endHalf()
    this.#stopWaitingForNothing()
    this.#update()
  }

  /** Half a message has gone: whatever followed would be taken for its other half. */
  #endHalf(): void {
    native.shutdown(this.#endpoint.fd, SHUT_WRITE)
    queueMicrotask(() => this.flushEnded()) // not before a signal has ended what else it ends
  }

  /** Ends everything that waits. */
  fail(error: () => Error): void {
    const isHalf = (this.#queue.peek()?.offset ?? 0) > 0
    for (let pending = this.#queue.shift(); pending !== undefined; pending = this.#queue.shift()) {
      settle(pending, rejection(error))
    }
    if (isHalf && !this.#endpoint.closed) this.#endHalf()
    this.#stopWaitingForNothing()
  }

  #stopWaitingForNothing(): void {
    if (this.#queue.length > 0 || this.#timer === undefined) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#backoff.reset()
  }
}

function settle(pending: Pending, result: Promise<never> | undefined): void {
  closeFds(giveFds(pending))
  pending.abortion?.[Symbol.dispose]()
  pending.resolve(result)
}

/** Takes the duplicates out of a send, which does without them from now on. */
function giveFds(pending: Pending): readonly number[] {
  const { fds: duplicates } = pending
  pending.fds = none
  return duplicates
}
