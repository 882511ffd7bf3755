import { clearInterval, setInterval } from 'node:timers'
import type { Abortable } from '../base/index.ts'
import { onAbort, signalOf, MAX_INT, integer, optionsOf } from '../base/internal.ts'
import { countOf, isThisProcess } from './environment.ts'
import { notify } from './notify.ts'

/**
 * Tell how often the service manager wants to hear of this process: sd_watchdog_enabled(3), from `WATCHDOG_USEC` and
 * `WATCHDOG_PID`.
 *
 * @returns the unit's `WatchdogSec=` in milliseconds, after which a silent service is killed: tell twice as often. Undefined
 *   where there is no watchdog, or it is another process's
 * @throws `EINVAL` where a variable holds what no manager writes
 */
export function watchdogInterval(): number | undefined {
  const interval = countOf('WATCHDOG_USEC')
  if (interval === undefined || isThisProcess('WATCHDOG_PID') === false) return undefined
  return Number(interval) / 1000
}

/** Options of {@link keepWatchdog}. */
export interface KeepWatchdogOptions extends Abortable {
  /** Milliseconds from one message to the next (default: half of {@link watchdogInterval}). */
  interval?: number | undefined
}

/**
 * Feed the service manager's watchdog, at once and from then on: `WATCHDOG=1` at half of its interval.
 *
 * It proves that the event loop goes round, and no more: a service that can tell better whether it works calls {@link notify}
 * itself. It does not keep the process alive. Nothing happens where there is no watchdog.
 *
 * @param options `interval`; `signal`, whose abort ends it
 * @returns what ends it: `dispose`, or `using`. Where a message cannot be sent there is a process warning, and
 *   the next is tried in time
 * @throws as {@link watchdogInterval}; ERR_OUT_OF_RANGE; AbortError for a signal that has been aborted already
 */
export function keepWatchdog(options?: KeepWatchdogOptions): Disposable {
  const { interval = (watchdogInterval() ?? 0) / 2 } = optionsOf(options) ?? {}
  if (options?.interval !== undefined) integer('options.interval', interval, 1, MAX_INT)
  const signal = signalOf(options)
  let sending = false
  let failing = false
  let timer: NodeJS.Timeout | undefined
  const feed = async () => {
    if (sending) return // the manager's queue is full: one message is enough
    sending = true
    try {
      await notify({ watchdog: true })
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
    timer = setInterval(() => void feed(), Math.min(interval, MAX_INT)).unref()
    void feed()
  }
  const end = () => {
    abortion?.[Symbol.dispose]()
    clearInterval(timer)
  }
  const abortion = onAbort(signal, end)
  return { [Symbol.dispose]: end }
}
