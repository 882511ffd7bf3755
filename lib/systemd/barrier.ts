import { withLimit } from '../base/internal.ts'
import { pipe } from '../descriptor/index.ts'
import { type NotifyOptions, limitsOf, sendAssignments } from './message.ts'

/** Options of {@link barrier}. */
export interface BarrierOptions extends NotifyOptions {
  /** The longest time to wait, in milliseconds (default 5,000). */
  timeout?: number | undefined
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
  const { timeout, signal } = limitsOf(options)
  const [read, write] = pipe()
  try {
    return await withLimit(signal, timeout, 'poll', async (limit) => {
      if (!(await sendAssignments(['BARRIER=1'], [write], { signal: limit }))) return false
      write.closeSync()
      await read.bytes({ signal: limit })
      return true
    })
  } finally {
    read.closeSync()
    write.closeSync()
  }
}
