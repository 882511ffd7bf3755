import { setTimeout } from 'node:timers'
import { closeFds, closeFdsLater } from '../native/owned-fds.ts'
import { systemError } from '../native/system-error.ts'
import { READABLE, WRITABLE } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { type Watched, hold, setWatcher } from './reactor.ts'

/** How long `watchLater` waits, in milliseconds. */
const REARM_DELAY_MS = 64

/**
 * A descriptor in the reactor: its number, the events it is armed for, and whether it keeps the process alive.
 *
 * It does not refer to its public object, so that the garbage collector finds an unused one; a pending operation does.
 */
export abstract class PollHandle implements Watched {
  readonly fd: number
  closed = false
  /** Whether the program has read the number: it may have closed it, and the number may be another file's. */
  isLent = false
  #armed = 0
  #held = false
  #referenced = true

  constructor(fd: number) {
    this.fd = fd
    setWatcher(fd, this)
  }

  /** Whether an operation is pending that needs the descriptor to be readable. */
  protected abstract get waitsForInput(): boolean
  /** Serves pending operations when the descriptor is readable. */
  protected abstract flushInput(): void
  /** Rejects all pending operations. */
  protected abstract fail(error: () => Error): void
  /** Settles all pending operations because this side has closed; returns the descriptors held ahead, for the caller to close. */
  protected abstract end(): number[]

  /** Whether an operation is pending that needs the descriptor to be writable. */
  protected get waitsForRoom(): boolean {
    return false
  }

  /** Serves pending operations when the descriptor is writable. */
  protected flushOutput(): void {}

  /** Whether any operation is pending. */
  protected get busy(): boolean {
    return this.waitsForInput || this.waitsForRoom
  }

  /** Whether the reactor watches for readability. */
  get armedForReading(): boolean {
    return (this.#armed & READABLE) !== 0
  }

  /** Whether pending operations keep the process alive. */
  get referenced(): boolean {
    return this.#referenced
  }

  set referenced(on: boolean) {
    this.#referenced = on
    this.update()
  }

  ready(events: number, armed: number): void {
    this.#armed = armed
    // Arming costs a system call, so a handle stays armed for reading until it reports to no pending operation.
    const unneeded = (events & READABLE) !== 0 && !this.waitsForInput ? READABLE : 0
    if ((events & READABLE) !== 0) this.flushInput()
    if ((events & WRITABLE) !== 0) this.flushOutput()
    this.update(unneeded)
  }

  /** Arms the descriptor for what pending operations need, except the `unneeded` events. */
  update(unneeded = 0): void {
    if (this.closed) return
    const reading = this.waitsForInput ? READABLE : this.#armed & READABLE & ~unneeded
    const events = reading | (this.waitsForRoom ? WRITABLE : 0)
    if (events !== this.#armed) {
      const code = native.watch(this.fd, events)
      if (code < 0) {
        // No event would resume the pending operations.
        this.fail(() => systemError(code, 'uv_poll_start'))
        this.#hold(false)
        return
      }
      this.#armed = events
    }
    this.#hold(this.#referenced && this.busy)
  }

  /** Called after an abort has rejected a pending operation. */
  waiterAborted(): void {
    this.update()
  }

  /** Re-arms after a delay. Used by handles that have no pending operation to report the failure to. */
  protected watchLater(): void {
    setTimeout(() => this.update(), REARM_DELAY_MS).unref()
  }

  /** Starts or stops keeping the process alive. */
  #hold(on: boolean): void {
    if (on === this.#held) return
    this.#held = on
    hold(on)
  }

  /** Leaves the number to another watcher, such as the runtime. `update` takes it back. */
  suspend(): void {
    native.unwatch(this.fd)
    this.#armed = 0
  }

  /** Leaves the reactor, and returns the descriptor and those held ahead, for the caller to close. */
  #detach(): number[] {
    this.closed = true
    setWatcher(this.fd, undefined)
    this.#hold(false)
    return [this.fd, ...this.end()]
  }

  /** Closes the descriptor and those held ahead. */
  close(): void {
    if (!this.closed) closeFds(this.#detach())
  }

  /** Closes on the thread pool. */
  async closeLater(): Promise<void> {
    if (!this.closed) await closeFdsLater(this.#detach())
  }

  /** Leaves the reactor and returns the open descriptor, which the native side owns no longer. Nothing may be held ahead. */
  release(): number {
    this.#detach()
    native.release(this.fd)
    return this.fd
  }

  /** Leaves the reactor and returns the open descriptor, which the native side still owns. Nothing may be held ahead. */
  detach(): number {
    this.#detach()
    native.detach(this.fd)
    return this.fd
  }
}
