import { types } from 'node:util'
import { invalidReturn, rejection } from '../base/errors.ts'
import { Queue } from '../base/collections.ts'
import { Waiter, Waiters, settle } from '../base/waiters.ts'
import { PollHandle } from '../event-loop/poll-handle.ts'
import { chargeTick } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { AGAIN } from '../native/codes.ts'
import { closeFds } from '../native/owned-fds.ts'
import { systemError } from '../native/system-error.ts'
import type { ConnectionCounter } from './connection-limits.ts'
import { type Credentials, peerOf } from './credentials.ts'
import { socketClosed } from './errors.ts'

/** The maximum number of connections that one wake accepts, and that are held ahead. */
const CONNECTIONS_PER_WAKE = 64

/**
 * What each accepted connection adds to the budget of accept(2) calls that find none: one such call for eight connections. A
 * listener's event reports that there is a connection; only a call that fails with EAGAIN reports that there is no other.
 */
const SPARE_PER_CONNECTION = 1 / 8
const MAX_SPARE = 8

/** Decides whether a connection is accepted. */
export type Allow = (credentials: Credentials) => boolean | Promise<boolean>

/** Converts the number of an accepted connection to the result of a call. */
export interface AcceptShape<T> {
  (fd: number): T
  /** Whether to accept further connections along with the requested one. */
  readonly ahead?: boolean
  /** The result when this side closes the server; without it the call rejects. */
  readonly closed?: () => T
}

/** A pending accept. */
class PendingAccept extends Waiter<unknown> {
  /** Keeps the server from being collected. */
  readonly server: object
  readonly shape: AcceptShape<unknown>

  constructor(server: object, shape: AcceptShape<unknown>) {
    super()
    this.server = server
    this.shape = shape
  }
}

/** The number of a connection, or a function that creates the error where it is thrown. */
type Accepted = number | (() => unknown)

/** A listening socket that accepts connections. */
export class Acceptor extends PollHandle {
  readonly #allow: Allow | undefined
  readonly #waiters = new Waiters<PendingAccept>(this)
  /** The connections and errors that no accept has taken yet. */
  readonly #accepted = new Queue<Accepted>()
  /** The connections for which the promise of `allow` is pending. */
  readonly #undecided = new Set<number>()
  /** The budget of calls that may find no connection. */
  #spare = 1

  /** Counts connections, if they are limited. */
  readonly counter: ConnectionCounter | undefined

  constructor(fd: number, allow: Allow | undefined, counter?: ConnectionCounter) {
    super(fd)
    this.#allow = allow
    this.counter = counter
  }

  /** The number of connections accepted ahead. */
  get held(): number {
    return this.#accepted.length + this.#undecided.size
  }

  /** Accepts one connection in the caller's shape, at once or when it arrives. */
  accept<T>(server: object, shape: AcceptShape<T>, signal: AbortSignal | undefined): Promise<T> {
    if (this.#waiters.length === 0) {
      if (this.held === 0 && this.#spare >= 1 && chargeTick()) this.#take(shape)
      if (this.closed) return Promise.resolve(shape.closed?.() ?? rejection(socketClosed)) // by `allow`
      const accepted = this.#accepted.shift()
      if (accepted !== undefined) return answer(accepted, shape)
    }
    const promise = this.#waiters.add<unknown>(new PendingAccept(server, shape), signal)
    this.update()
    return promise as Promise<T>
  }

  /** Accepts connections: one for each pending accept, or, for an iteration, those in the backlog. */
  #take(shape: AcceptShape<unknown>): void {
    const waiting = Math.max(this.#waiters.length, 1)
    const most = shape.ahead === true ? Math.max(waiting, CONNECTIONS_PER_WAKE) : waiting
    const undecided = this.#undecided.size
    /** The number of connections for pending accepts, if `allow` accepts all that it has not decided yet. */
    const taken = () => this.#accepted.length + this.#undecided.size - undecided
    let available: number | undefined
    for (let calls = 0; calls < CONNECTIONS_PER_WAKE && taken() < most && !this.#isFull && !this.closed; calls++) {
      if (calls > 0) {
        if (this.#spare < 1) return
        // Connections accepted ahead take at most a quarter of the free descriptor table.
        if (taken() >= waiting && this.held >= (available ??= native.availableDescriptors()) / 4) return
        chargeTick()
      }
      const code = native.accept(this.fd, 0)
      if (code === AGAIN) {
        this.#spare = Math.max(this.#spare - 1, 0)
        return
      }
      if (code < 0) {
        this.#accepted.push(() => systemError(code, 'accept'))
        return
      }
      this.#spare = Math.min(this.#spare + SPARE_PER_CONNECTION, MAX_SPARE)
      this.#filter(code)
    }
  }

  /** Calls `allow` for a connection. */
  #filter(fd: number): void {
    if (this.#allow === undefined && this.counter === undefined) {
      this.#accepted.push(fd)
      return
    }
    try {
      const peer = peerOf(fd)
      if (this.counter?.admit(fd, peer.uid) === false) {
        closeFds([fd])
        return
      }
      const verdict: unknown = this.#allow === undefined ? true : this.#allow(peer)
      if (this.closed)
        this.#discard(fd) // by `allow`
      else if (types.isPromise(verdict)) this.#undecided.add(fd)
      else this.#applyVerdict(fd, verdict)
      if (!types.isPromise(verdict)) return
      verdict.then(
        (decided) => this.#settleUndecided(fd, decided),
        (error: unknown) => this.#settleUndecided(fd, undefined, () => error)
      )
    } catch (error) {
      this.#discard(fd)
      if (!this.closed) this.#accepted.push(() => error)
    }
  }

  /** Handles the settled promise of `allow`. */
  #settleUndecided(fd: number, verdict: unknown, failure?: () => unknown): void {
    if (!this.#undecided.delete(fd)) return // closed meanwhile
    if (failure === undefined) {
      this.#applyVerdict(fd, verdict)
    } else {
      this.#discard(fd)
      this.#accepted.push(failure)
    }
    this.#settleWaiters()
    this.update()
  }

  #applyVerdict(fd: number, verdict: unknown): void {
    if (verdict === true) {
      this.#accepted.push(fd)
      return
    }
    this.#discard(fd)
    if (verdict !== false) this.#accepted.push(() => invalidReturn('options.allow', 'a boolean', verdict))
  }

  #discard(fd: number): void {
    this.counter?.leave(fd)
    closeFds([fd])
  }

  #settleWaiters(): void {
    while (this.#waiters.length > 0 && this.#accepted.length > 0) {
      const pending = this.#waiters.shift()!
      const accepted = this.#accepted.shift()!
      settle(pending, typeof accepted === 'number' ? pending.shape(accepted) : rejection(accepted))
    }
  }

  /** Whether so many decisions of `allow` are pending that no further connection is accepted. */
  get #isFull(): boolean {
    return this.#undecided.size >= CONNECTIONS_PER_WAKE
  }

  protected get waitsForInput(): boolean {
    return this.#waiters.length > 0 && !this.#isFull
  }

  protected override get busy(): boolean {
    return this.#waiters.length > 0
  }

  protected flushInput(): void {
    const pending = this.#waiters.first
    if (pending === undefined || this.#isFull) return
    this.#take(pending.shape)
    this.#settleWaiters()
  }

  protected fail(error: () => Error): void {
    this.#waiters.fail(error)
  }

  protected end(): number[] {
    this.#waiters.settleAll(({ shape }) => shape.closed?.() ?? rejection(socketClosed))
    const numbers = [...this.#undecided]
    this.#undecided.clear()
    for (let accepted = this.#accepted.shift(); accepted !== undefined; accepted = this.#accepted.shift()) {
      if (typeof accepted === 'number') numbers.push(accepted)
    }
    return numbers
  }
}

function answer<T>(accepted: Accepted, shape: AcceptShape<T>): Promise<T> {
  return typeof accepted === 'number' ? Promise.resolve(shape(accepted)) : Promise.reject(accepted())
}
