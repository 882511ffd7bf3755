import type { Abortable } from '../base/index.ts'
import { boolean, signalOf, MAX_INT, integer, optionsOf, invalidType, invalidValue } from '../base/internal.ts'
import { assignment, tell } from './message.ts'

/** What a service tells of itself: sd_notify(3). What is not given is not told. */
export interface ServiceState {
  /** The service has started, or has reloaded its configuration: `READY=1`. */
  ready?: boolean | undefined
  /** It is reloading its configuration; `ready` ends that. `RELOADING=1`, with the time as `MONOTONIC_USEC`. */
  reloading?: boolean | undefined
  /** It is about to end: `STOPPING=1`. */
  stopping?: boolean | undefined
  /** What it is doing, for people, in one line: `STATUS=`. */
  status?: string | undefined
  /** What has gone wrong, as an error number; that of a Node error, which is negative, will do: `ERRNO=`. */
  errno?: number | undefined
  /** What has gone wrong, as the name of a D-Bus error: `BUSERROR=`. */
  busError?: string | undefined
  /** With what it is going to end, 0 to 255: `EXIT_STATUS=`. */
  exitStatus?: number | undefined
  /** `true` feeds the watchdog, `'trigger'` has it act at once: `WATCHDOG=`. See {@link keepWatchdog}. */
  watchdog?: boolean | 'trigger' | undefined
  /** Another watchdog interval from now on, in milliseconds: `WATCHDOG_USEC=`. */
  watchdogTimeout?: number | undefined
  /** How much longer the start, the reload or the end may take, in milliseconds from now: `EXTEND_TIMEOUT_USEC=`. */
  extendTimeout?: number | undefined
  /** The service's main process, where it is another one: `MAINPID=`. */
  mainPid?: number | undefined
  /** Who may tell the manager something from now on: `NOTIFYACCESS=`, since systemd 254. */
  notifyAccess?: 'all' | 'exec' | 'main' | 'none' | undefined
  /** Further assignments by their names, such as `{ X_MY_STATE: 'warm' }`. */
  variables?: Readonly<Record<string, string>> | undefined
}

/** Now, as a manager wants it of a reload: microseconds of CLOCK_MONOTONIC. */
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

/** What each part of a state is in a message, in this order. */
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

/** The largest error number of the kernel's (`MAX_ERRNO`). */
const MAX_ERRNO = 4095
/** So many that their microseconds are still whole numbers. */
const MAX_MILLISECONDS = Math.floor(Number.MAX_SAFE_INTEGER / 1000)

/**
 * Tell the service manager how this service is doing: sd_notify(3).
 *
 * One message is sent to the address in `NOTIFY_SOCKET`, which stays set; the kernel tells the manager from whom it comes.
 * systemd heeds it if the unit has `Type=notify`, or lets its processes tell by `NotifyAccess=`.
 *
 * @param state what to tell, at least one thing
 * @param options `signal`
 * @returns resolves to true when the message is in the manager's queue, which {@link barrier} waits for to be worked off; to
 *   false where no manager wants to be told: `NOTIFY_SOCKET` is not set
 *
 *   Rejects with `ECONNREFUSED` or `ENOENT` where the manager has gone; `EAFNOSUPPORT` for an address of AF_VSOCK; `EINVAL` for
 *   what is no address; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE (a line break in a text, more than 4,096 bytes in all),
 *   ERR_OUT_OF_RANGE; AbortError; ERR_UNSUPPORTED_PLATFORM.
 */
export async function notify(state: ServiceState, options?: Abortable): Promise<boolean> {
  if (typeof state !== 'object' || state === null) throw invalidType('state', 'of type object', state)
  const signal = signalOf(optionsOf(options))
  const assignments = Object.entries(parts).flatMap(([key, part]) => {
    const value = state[key as keyof ServiceState]
    return value === undefined ? [] : (part as (value: unknown, option: string) => string[])(value, `state.${key}`)
  })
  if (assignments.length === 0) throw invalidValue('state', 'tells nothing')
  return tell(assignments, [], signal)
}
