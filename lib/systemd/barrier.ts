import { readSync } from 'node:fs'
import { clearTimeout, setTimeout } from 'node:timers'
import type { Abortable } from '../base/index.ts'
import { onAbort, signalOf, MAX_INT, integer, optionsOf, aborted, rejection, timedOut } from '../base/internal.ts'
import { takeFd } from '../descriptor/internal.ts'
import { Handle } from '../event-loop/internal.ts'
import { pipe } from '../descriptor/index.ts'
import { tell } from './message.ts'

/** Options of {@link barrier}. */
export interface BarrierOptions extends Abortable {
  /** For how long to wait at most, in milliseconds (default: without limit). */
  timeout?: number | undefined
}

/** The reading end of a pipe to which nobody writes: what comes out of it is its end. It resolves then, or when it is closed. */
class PipeEnd extends Handle {
  readonly #resolve: (value: void | Promise<never>) => void

  constructor(fd: number, resolve: (value: void | Promise<never>) => void) {
    super(fd)
    this.#resolve = resolve
    this.update()
  }

  protected get waitsForInput(): boolean {
    return !this.closed
  }

  protected flushInput(): void {
    // An event may be of a descriptor that had this number before.
    if (isAtEnd(this.fd)) this.close()
  }

  protected fail(error: () => Error): void {
    this.#resolve(rejection(error))
    this.close()
  }

  protected end(): number[] {
    this.#resolve()
    return []
  }
}

function isAtEnd(fd: number): boolean {
  try {
    return readSync(fd, Buffer.alloc(1)) === 0
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false
    throw error
  }
}

/**
 * Wait until the service manager has worked off all that it was told before: sd_notify_barrier(3).
 *
 * It is sent one end of a pipe (`BARRIER=1`), and closes it when the turn of that message comes.
 *
 * @param options `timeout`, `signal`
 * @returns resolves to true when it has; to false where `NOTIFY_SOCKET` is not set
 *
 *   Rejects with `ETIMEDOUT` where it has not in time; otherwise as {@link notify}.
 */
export async function barrier(options?: BarrierOptions): Promise<boolean> {
  const { timeout } = optionsOf(options) ?? {}
  if (timeout !== undefined) integer('options.timeout', timeout, 0, MAX_INT)
  const signal = signalOf(options)
  const ending = new AbortController()
  let reason: (() => Error) | undefined
  const giveUp = (error: () => Error) => {
    reason = error
    ending.abort()
  }
  const [read, write] = pipe()
  using _abortion = onAbort(signal, () => giveUp(() => aborted(signal!)))
  const timer = timeout === undefined ? undefined : setTimeout(giveUp, timeout, () => timedOut(timeout, 'poll'))
  try {
    if (!(await tell(['BARRIER=1'], [write], ending.signal))) return false
    write.closeSync()
    read.setBlocking(false)
    await reached(takeFd(read), ending.signal)
    if (reason !== undefined) throw reason()
    return true
  } catch (error) {
    throw reason?.() ?? error
  } finally {
    clearTimeout(timer)
    read.closeSync()
    write.closeSync()
  }
}

/** Waits for the end of a pipe, and closes it. */
async function reached(fd: number, signal: AbortSignal): Promise<void> {
  let end: PipeEnd | undefined
  using _abortion = onAbort(signal, () => end?.close())
  await new Promise<void>((resolve) => (end = new PipeEnd(fd, resolve)))
}
