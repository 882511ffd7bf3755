import { setTimeout } from 'node:timers'
import { closeFds, closeFdsLater } from '../native/owned-fds.ts'
import { systemError } from '../native/system-error.ts'
import { READABLE, WRITABLE } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { type Watched, hold, setWatcher } from './reactor.ts'

/** How long `watchLater` waits, in milliseconds. */
const REARM_DELAY_MS = 64

/**
 * A descriptor as the reactor knows it: its number, what it is armed for, and whether it keeps the process alive.
 *
 * It does not refer to the public object over it, so that one which nobody uses any more can be collected; an operation
 * that waits does.
 */
export abstract class PollHandle implements Watched {
  readonly fd: number
  closed = false
  #armed = 0
  #held = false
  #referenced = true

  constructor(fd: number) {
    this.fd = fd
    setWatcher(fd, this)
  }

  /** Whether something that comes in is wanted. */
  protected abstract get waitsForInput(): boolean
  /** Takes what has come in, for those who wait. */
  protected abstract flushInput(): void
  /** Fails everything that waits. */
  protected abstract fail(error: () => Error): void
  /** Ends everything that waits, because this side has closed, and gives the numbers of what was taken ahead. */
  protected abstract end(): number[]

  /** Whether somebody waits for room to send. */
  protected get waitsForRoom(): boolean {
    return false
  }

  /** Serves those who wait for room. */
  protected flushOutput(): void {}

  /** Whether somebody waits at all. */
  protected get busy(): boolean {
    return this.waitsForInput || this.waitsForRoom
  }

  /** Whether the reactor watches for something to come in. */
  get armedForReading(): boolean {
    return (this.#armed & READABLE) !== 0
  }

  /** Whether operations that wait keep the process alive. */
  get referenced(): boolean {
    return this.#referenced
  }

  set referenced(on: boolean) {
    this.#referenced = on
    this.update()
  }

  ready(events: number, armed: number): void {
    this.#armed = armed
    // Arming costs a system call, so a handle stays armed for reading until it reports in vain.
    const inVain = (events & READABLE) !== 0 && !this.waitsForInput ? READABLE : 0
    if ((events & READABLE) !== 0) this.flushInput()
    if ((events & WRITABLE) !== 0) this.flushOutput()
    this.update(inVain)
  }

  /** Brings the reactor in line with what waits. */
  update(inVain = 0): void {
    if (this.closed) return
    const reading = this.waitsForInput ? READABLE : this.#armed & READABLE & ~inVain
    const events = reading | (this.waitsForRoom ? WRITABLE : 0)
    if (events !== this.#armed) {
      const code = native.watch(this.fd, events)
      if (code < 0) {
        // What waits cannot be told when to go on.
        this.fail(() => systemError(code, 'uv_poll_start'))
        this.#hold(false)
        return
      }
      this.#armed = events
    }
    this.#hold(this.#referenced && this.busy)
  }

  /** Re-arms after a delay. Used by handles that have no pending operation to report the failure to. */
  protected watchLater(): void {
    setTimeout(() => this.update(), REARM_DELAY_MS).unref()
  }

  /** Keeps the process alive, or no longer. */
  #hold(on: boolean): void {
    if (on === this.#held) return
    this.#held = on
    hold(on)
  }

  /** Ends what waits and gives the numbers to the caller: its own, and those of what was taken ahead. */
  #detach(): number[] {
    this.closed = true
    setWatcher(this.fd, undefined)
    this.#hold(false)
    return [this.fd, ...this.end()]
  }

  /** Closes the descriptor and all that belongs to it. */
  close(): void {
    if (!this.closed) closeFds(this.#detach())
  }

  /** As `close`, on the thread pool. */
  async closeLater(): Promise<void> {
    if (!this.closed) await closeFdsLater(this.#detach())
  }

  /** Gives the number up; nothing may be held that was taken ahead. */
  release(): number {
    this.#detach()
    native.release(this.fd)
    return this.fd
  }
}
