import { clearInterval, setInterval } from 'node:timers'
import type { Abortable } from '../base/index.ts'
import { onAbort, signalOf, MAX_INT, integer, optionsOf } from '../base/internal.ts'
import { countOf, isThisProcess } from './environment.ts'
import { sendAssignments } from './message.ts'
import { assignmentsOf } from './notify.ts'

/**
 * Returns the interval of the service manager's watchdog: sd_watchdog_enabled(3), from `WATCHDOG_USEC` and `WATCHDOG_PID`.
 *
 * @returns the unit's `WatchdogSec=` in milliseconds. The manager kills a service that sends no message for that long: send one after
 *   half of it. Undefined if there is no watchdog for this process
 * @throws `EINVAL` if a variable has an invalid value
 */
export function watchdogInterval(): number | undefined {
  const interval = countOf('WATCHDOG_USEC')
  if (interval === undefined || isThisProcess('WATCHDOG_PID') === false) return undefined
  return Number(interval) / 1000
}

/** Options of {@link keepWatchdog}. */
export interface KeepWatchdogOptions extends Abortable {
  /** The interval between messages, in milliseconds (default: half of {@link watchdogInterval}). */
  interval?: number | undefined
}

/**
 * Resets the service manager's watchdog periodically: sends `WATCHDOG=1` immediately, and then after each half of its interval.
 *
 * This proves only that the event loop runs. A service with a better health check calls {@link notify} itself. Neither the timer nor
 * a message that waits for room keeps the process alive. Without a watchdog, nothing is sent. If a message cannot be sent, a process warning is emitted, and the next
 * message is sent on schedule.
 *
 * @param options `interval`; `signal`, whose abort stops it
 * @returns a disposable that stops it, for `using`
 * @throws as {@link watchdogInterval}; ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE; AbortError if the signal is already aborted
 */
export function keepWatchdog(options?: KeepWatchdogOptions): Disposable {
  const { interval = (watchdogInterval() ?? 0) / 2 } = optionsOf(options) ?? {}
  if (options?.interval !== undefined) integer('options.interval', interval, 1, MAX_INT)
  const signal = signalOf(options)
  let sending = false
  let failing = false
  let timer: NodeJS.Timeout | undefined
  const reset = async () => {
    if (sending) return // the manager's queue is full, and one queued message is enough
    sending = true
    try {
      await sendAssignments(assignmentsOf({ watchdog: true }), [], { referenced: false })
      failing = false
    } catch (error) {
      if (!failing)
        process.emitWarning(`The watchdog cannot be fed: ${(error as Error).message}`, { code: 'FDPASS_WATCHDOG' })
      failing = true
    } finally {
      sending = false
    }
  }
  if (interval > 0) {
    timer = setInterval(() => void reset(), Math.min(interval, MAX_INT)).unref()
    void reset()
  }
  const stop = () => {
    abortion?.[Symbol.dispose]()
    clearInterval(timer)
  }
  const abortion = onAbort(signal, stop)
  return { [Symbol.dispose]: stop }
}
