import { types } from 'node:util'
import { onAbort } from '../base/abort.ts'
import type { Credentials } from './credentials.ts'
import { closeFds } from '../native/owned-fds.ts'
import { aborted } from '../base/errors/abort.ts'
import { invalidReturn } from '../base/errors/argument.ts'
import { rejection } from '../base/rejection.ts'
import { socketClosed } from './errors.ts'
import { systemError } from '../native/system-error.ts'
import { Handle } from '../event-loop/poll-handle.ts'
import { AGAIN } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { peerOf } from './peer.ts'
import { Queue } from '../base/queue.ts'
import { chargeTick } from '../event-loop/tick-budget.ts'

/** How many connections one wake accepts, and how many are held that were accepted ahead. */
const PER_WAKE = 64

/**
 * How much each connection adds to what may be spent on calls of accept(2) that find none: one such call for eight
 * connections. The event of a listener says that there is a connection, and only a call in vain that there is no other.
 */
const EARNED = 1 / 8
const MOST_SPARE = 8

/** Decides whether a connection is taken. */
export type Allow = (credentials: Credentials) => boolean | Promise<boolean>

/** What a caller makes of an accepted connection's number. */
export interface AcceptShape<T> {
  (fd: number): T
  /** Accept further connections along with the one asked for. */
  readonly ahead?: boolean
  /** What this side's close gives, where that is no error. */
  readonly closed?: () => T
}

/** An accept that has to wait for a connection. */
interface Pending {
  /** Keeps the server from being collected. */
  readonly server: object
  readonly shape: AcceptShape<unknown>
  readonly resolve: (value: unknown) => void
  abortion: Disposable | undefined
}

/** A connection's number, or what went wrong, to be made where it is thrown. */
type Accepted = number | (() => unknown)

/** A socket that accepts. */
export class Listener extends Handle {
  readonly #allow: Allow | undefined
  readonly #queue = new Queue<Pending>()
  /** What is ready to be handed out. */
  readonly #accepted = new Queue<Accepted>()
  /** The connections about which `allow` has not decided yet. */
  readonly #undecided = new Set<number>()
  /** How many calls may find nothing. */
  #spare = 1

  constructor(fd: number, allow: Allow | undefined) {
    super(fd)
    this.#allow = allow
  }

  /** How many connections are held that were accepted ahead. */
  get held(): number {
    return this.#accepted.length + this.#undecided.size
  }

  /** One connection in the caller's shape, at once or when it comes. */
  accept<T>(server: object, shape: AcceptShape<T>, signal: AbortSignal | undefined): Promise<T> {
    if (this.#queue.length === 0) {
      if (this.held === 0 && this.#spare >= 1 && chargeTick()) this.#take(shape)
      if (this.closed) return Promise.resolve(shape.closed?.() ?? rejection(socketClosed)) // by `allow`
      const accepted = this.#accepted.shift()
      if (accepted !== undefined) return answer(accepted, shape)
    }
    return new Promise((resolve) => {
      const pending: Pending = { server, shape, resolve: resolve as Pending['resolve'], abortion: undefined }
      pending.abortion = onAbort(signal, () => this.#abort(pending, signal!))
      this.#queue.push(pending)
      this.update()
    })
  }

  /** Accepts connections: as many as are waited for, or, for an iteration, those that are there. */
  #take(shape: AcceptShape<unknown>): void {
    const waiting = Math.max(this.#queue.length, 1)
    const most = shape.ahead === true ? Math.max(waiting, PER_WAKE) : waiting
    const undecided = this.#undecided.size
    /** How many are there for those who wait, if `allow` lets in all that it is being asked about. */
    const taken = () => this.#accepted.length + this.#undecided.size - undecided
    let room: number | undefined
    for (let calls = 0; calls < PER_WAKE && taken() < most && !this.#isFull && !this.closed; calls++) {
      if (calls > 0) {
        if (this.#spare < 1) return
        // What is held must not take all the room there is.
        if (taken() >= waiting && this.held >= (room ??= native.room()) / 4) return
        chargeTick()
      }
      const code = native.accept(this.fd)
      if (code === AGAIN) {
        this.#spare = Math.max(this.#spare - 1, 0)
        return
      }
      if (code < 0) {
        this.#accepted.push(() => systemError(code, 'accept'))
        return
      }
      this.#spare = Math.min(this.#spare + EARNED, MOST_SPARE)
      this.#admit(code)
    }
  }

  /** Asks whether a connection is taken. */
  #admit(fd: number): void {
    if (this.#allow === undefined) {
      this.#accepted.push(fd)
      return
    }
    try {
      const verdict: unknown = this.#allow(peerOf(fd))
      if (this.closed)
        closeFds([fd]) // by `allow`
      else if (types.isPromise(verdict)) this.#undecided.add(fd)
      else this.#judge(fd, verdict)
      if (!types.isPromise(verdict)) return
      verdict.then(
        (decided) => this.#decided(fd, decided),
        (error: unknown) => this.#decided(fd, undefined, () => error)
      )
    } catch (error) {
      closeFds([fd])
      if (!this.closed) this.#accepted.push(() => error)
    }
  }

  /** What `allow` has promised has come. */
  #decided(fd: number, verdict: unknown, failure?: () => unknown): void {
    if (!this.#undecided.delete(fd)) return // closed meanwhile
    if (failure === undefined) {
      this.#judge(fd, verdict)
    } else {
      closeFds([fd])
      this.#accepted.push(failure)
    }
    this.#handOut()
    this.update()
  }

  #judge(fd: number, verdict: unknown): void {
    if (verdict === true) {
      this.#accepted.push(fd)
      return
    }
    closeFds([fd])
    if (verdict !== false) this.#accepted.push(() => invalidReturn('options.allow', 'a boolean', verdict))
  }

  #handOut(): void {
    while (this.#queue.length > 0 && this.#accepted.length > 0) {
      const pending = this.#queue.shift()!
      const accepted = this.#accepted.shift()!
      settle(pending, typeof accepted === 'number' ? pending.shape(accepted) : rejection(accepted))
    }
  }

  /** Whether `allow` is asked about so many connections that it should decide first. */
  get #isFull(): boolean {
    return this.#undecided.size >= PER_WAKE
  }

  protected get waitsForInput(): boolean {
    return this.#queue.length > 0 && !this.#isFull
  }

  protected override get busy(): boolean {
    return this.#queue.length > 0
  }

  protected flushInput(): void {
    const pending = this.#queue.peek()
    if (pending === undefined || this.#isFull) return
    this.#take(pending.shape)
    this.#handOut()
  }

  #abort(pending: Pending, signal: AbortSignal): void {
    if (!this.#queue.remove(pending)) return
    settle(
      pending,
      rejection(() => aborted(signal))
    )
    this.update()
  }

  protected fail(error: () => Error): void {
    for (let pending = this.#queue.shift(); pending !== undefined; pending = this.#queue.shift()) {
      settle(pending, rejection(error))
    }
  }

  protected end(): number[] {
    for (let pending = this.#queue.shift(); pending !== undefined; pending = this.#queue.shift()) {
      settle(pending, pending.shape.closed?.() ?? rejection(socketClosed))
    }
    const numbers = [...this.#undecided]
    this.#undecided.clear()
    for (let accepted = this.#accepted.shift(); accepted !== undefined; accepted = this.#accepted.shift()) {
      if (typeof accepted === 'number') numbers.push(accepted)
    }
    return numbers
  }
}

function settle(pending: Pending, value: unknown): void {
  pending.abortion?.[Symbol.dispose]()
  pending.resolve(value)
}

function answer<T>(accepted: Accepted, shape: AcceptShape<T>): Promise<T> {
  return typeof accepted === 'number' ? Promise.resolve(shape(accepted)) : Promise.reject(accepted())
}
