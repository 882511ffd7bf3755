import { boolean, MAX_INT, integer, invalidType, invalidValue, withLimit } from '../base/internal.ts'
import { pipe } from '../descriptor/index.ts'
import { type NotifyOptions, assignment, limitsOf, sendAssignments } from './message.ts'

/** The state of a service: sd_notify(3). Only the given properties are sent. */
export interface ServiceState {
  /** The service has finished starting, or reloading its configuration: `READY=1`. */
  ready?: boolean | undefined
  /** The service is reloading its configuration, until `ready`: `RELOADING=1`, with the time as `MONOTONIC_USEC`. */
  reloading?: boolean | undefined
  /** The service is stopping: `STOPPING=1`. */
  stopping?: boolean | undefined
  /** The status as a line of text for people: `STATUS=`. */
  status?: string | undefined
  /** The error number of a failure; a negative one, as of Node's errors, is accepted: `ERRNO=`. */
  errno?: number | undefined
  /** The D-Bus error name of a failure: `BUSERROR=`. */
  busError?: string | undefined
  /** The exit status with which the service is going to exit, 0 to 255: `EXIT_STATUS=`. */
  exitStatus?: number | undefined
  /** `true` resets the watchdog's timer, `'trigger'` triggers the watchdog: `WATCHDOG=`. See {@link keepWatchdog}. */
  watchdog?: boolean | 'trigger' | undefined
  /** A new watchdog interval, in milliseconds: `WATCHDOG_USEC=`. */
  watchdogTimeout?: number | undefined
  /** The time that the start, reload or stop may still take, in milliseconds from now: `EXTEND_TIMEOUT_USEC=`. */
  extendTimeout?: number | undefined
  /** The pid of the service's main process, if it is another process: `MAINPID=`. */
  mainPid?: number | undefined
  /** The processes whose messages the manager accepts: `NOTIFYACCESS=`, since systemd 254. */
  notifyAccess?: 'all' | 'exec' | 'main' | 'none' | undefined
  /** Further assignments by name, such as `{ X_MY_STATE: 'warm' }`. */
  variables?: Readonly<Record<string, string>> | undefined
}

/** Returns the current time as a reload needs it: microseconds of CLOCK_MONOTONIC. */
function monotonic(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`
}

type Given<K extends keyof ServiceState> = NonNullable<ServiceState[K]>

const flag = (name: string, option: string, value: unknown): string[] => {
  boolean(option, value)
  return value ? [`${name}=1`] : []
}
const text = (name: string, option: string, value: unknown): string[] => {
  if (typeof value !== 'string') throw invalidType(option, 'of type string', value)
  return [assignment(name, option, value)]
}
const number = (name: string, option: string, value: unknown, least: number, most: number, factor = 1): string[] => [
  `${name}=${integer(option, value, least, most) * factor}`
]
const accesses: readonly unknown[] = ['all', 'exec', 'main', 'none'] satisfies Given<'notifyAccess'>[]

/** The assignments of each property of a state, in this order. */
const parts: { [K in keyof ServiceState]-?: (value: Given<K>, option: string) => string[] } = {
  ready: (value, option) => flag('READY', option, value),
  reloading: (value, option) => flag('RELOADING', option, value).flatMap((line) => [line, monotonic()]),
  stopping: (value, option) => flag('STOPPING', option, value),
  status: (value, option) => text('STATUS', option, value),
  errno: (value, option) => [`ERRNO=${Math.abs(integer(option, value, -MAX_ERRNO, MAX_ERRNO))}`],
  busError: (value, option) => text('BUSERROR', option, value),
  exitStatus: (value, option) => number('EXIT_STATUS', option, value, 0, 255),
  watchdog: (value, option) => (value === 'trigger' ? ['WATCHDOG=trigger'] : flag('WATCHDOG', option, value)),
  watchdogTimeout: (value, option) => number('WATCHDOG_USEC', option, value, 1, MAX_MILLISECONDS, 1000),
  extendTimeout: (value, option) => number('EXTEND_TIMEOUT_USEC', option, value, 1, MAX_MILLISECONDS, 1000),
  mainPid: (value, option) => number('MAINPID', option, value, 1, MAX_INT),
  notifyAccess(value, option) {
    if (!accesses.includes(value)) throw invalidValue(option, "must be 'all', 'exec', 'main' or 'none'")
    return [`NOTIFYACCESS=${value}`]
  },
  variables(value, option) {
    if (typeof value !== 'object' || value === null) throw invalidType(option, 'of type object', value)
    return Object.entries(value).flatMap(([name, content]) => {
      if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
        throw invalidValue(option, `must have names of letters, digits and '_': '${name}' is none`)
      }
      return text(name, `${option}.${name}`, content)
    })
  }
}

/** The kernel's largest error number (`MAX_ERRNO`). */
const MAX_ERRNO = 4095
/** The most milliseconds whose microseconds are exact numbers. */
const MAX_MILLISECONDS = Math.floor(Number.MAX_SAFE_INTEGER / 1000)

/**
 * Reports the state of this service to the service manager: sd_notify(3).
 *
 * Sends one message to the address in `NOTIFY_SOCKET`, which stays set. The kernel adds the sender's credentials. systemd accepts the
 * message if the unit has `Type=notify`, or if its `NotifyAccess=` allows this process.
 *
 * @param state the state, with at least one property
 * @param options `timeout`, `signal`
 * @returns resolves to true when the message is in the manager's queue; use {@link barrier} to wait until it is processed. Resolves to
 *   false if there is no manager: `NOTIFY_SOCKET` is not set
 *
 *   Rejects with
 *   - `ETIMEDOUT` if the manager's queue has had no room for `timeout` milliseconds
 *   - `ECONNREFUSED` or `ENOENT` if the manager does not listen any more
 *   - `EAFNOSUPPORT` for an address of AF_VSOCK; `EINVAL` for an invalid address
 *   - ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for a text with a line break, or a message of more than 4,096 bytes; ERR_OUT_OF_RANGE
 *   - AbortError; ERR_UNSUPPORTED_PLATFORM
 */
export async function notify(state: ServiceState, options?: NotifyOptions): Promise<boolean> {
  const limits = limitsOf(options)
  return sendAssignments(assignmentsOf(state), [], limits)
}

/** Returns the assignments of a state. */
export function assignmentsOf(state: ServiceState): string[] {
  if (typeof state !== 'object' || state === null) throw invalidType('state', 'of type object', state)
  const assignments = Object.entries(parts).flatMap(([key, part]) => {
    const value = state[key as keyof ServiceState]
    return value === undefined ? [] : (part as (value: unknown, option: string) => string[])(value, `state.${key}`)
  })
  if (assignments.length === 0) throw invalidValue('state', 'contains no state')
  return assignments
}

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
