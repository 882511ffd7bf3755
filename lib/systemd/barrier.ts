import { readSync } from 'node:fs'
import { clearTimeout, setTimeout } from 'node:timers'
import type { Abortable } from '../base/index.ts'
import { onAbort, signalOf, MAX_INT, integer, optionsOf, aborted, rejection, timedOut } from '../base/internal.ts'
import { takeFd } from '../descriptor/internal.ts'
import { PollHandle } from '../event-loop/internal.ts'
import { pipe } from '../descriptor/index.ts'
import { sendAssignments } from './message.ts'

/** Options of {@link barrier}. */
export interface BarrierOptions extends Abortable {
  /** The longest time to wait, in milliseconds (default: no limit). */
  timeout?: number | undefined
}

/** The read end of a pipe that carries no data. Resolves at end-of-file, or when it is closed. */
class PipeEnd extends PollHandle {
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
    // The event may belong to a descriptor that had this number before.
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
 * Waits until the service manager has processed all earlier messages: sd_notify_barrier(3).
 *
 * Sends the write end of a pipe with `BARRIER=1`. The manager closes it when it processes that message.
 *
 * @param options `timeout`, `signal`
 * @returns resolves to true when the manager has processed the messages; to false if `NOTIFY_SOCKET` is not set
 *
 *   Rejects with `ETIMEDOUT` if it has not done so in time, and otherwise as {@link notify}.
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
    if (!(await sendAssignments(['BARRIER=1'], [write], ending.signal))) return false
    write.closeSync()
    read.setBlocking(false)
    await untilEndOfFile(takeFd(read), ending.signal)
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

/** Waits for end-of-file on a pipe, and closes it. */
async function untilEndOfFile(fd: number, signal: AbortSignal): Promise<void> {
  let end: PipeEnd | undefined
  using _abortion = onAbort(signal, () => end?.close())
  await new Promise<void>((resolve) => (end = new PipeEnd(fd, resolve)))
}
