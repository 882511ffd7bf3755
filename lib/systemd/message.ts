import { constants } from 'node:os'
import { inspect } from 'node:util'
import { bind, type UnixSocket } from '../socket/index.ts'
import type { Abortable } from '../base/index.ts'
import { MAX_INT, integer, invalidValue, optionsOf, signalOf, withLimit } from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import type { SystemError } from '../native/index.ts'
import { invalidVariable } from './environment.ts'

/** The most bytes of a message; systemd drops a longer one (`NOTIFY_BUFFER_MAX`). */
const MAX_BYTES = 4096

/** Options of a message to the service manager. */
export interface NotifyOptions extends Abortable {
  /** The longest time to wait for room in the manager's queue, in milliseconds (default 5,000). */
  timeout?: number | undefined
}

/** The default timeout, which is that of systemd-notify(1): a manager that receives nothing must not keep a finished service alive. */
export const DEFAULT_TIMEOUT = 5000

/** The limits of a message. */
interface MessageLimits {
  readonly signal?: AbortSignal | undefined
  readonly timeout?: number | undefined
  /** Whether the message keeps the process alive while it waits for room (default true). */
  readonly referenced?: boolean
}

/** Returns the limits that the options of a message set. */
export function limitsOf(options: NotifyOptions | undefined): MessageLimits {
  const { timeout = DEFAULT_TIMEOUT } = optionsOf(options) ?? {}
  return { timeout: integer('options.timeout', timeout, 0, MAX_INT), signal: signalOf(options) }
}

/** Returns an assignment of a message. A line break would end it, and is refused. */
export function assignment(name: string, option: string, value: string): string {
  if (/[\n\0]/.test(value)) throw invalidValue(option, 'must not contain a line break, which would end it, or a NUL')
  return `${name}=${value}`
}

/** Sends assignments and descriptors to the service manager; resolves to false if there is none. */
export async function sendAssignments(
  assignments: readonly string[],
  fds: readonly FdSource[],
  { signal, timeout, referenced = true }: MessageLimits
): Promise<boolean> {
  const data = Buffer.from(assignments.join('\n'))
  if (data.length > MAX_BYTES) {
    throw invalidValue('state', `has ${data.length} bytes, and systemd drops a message with more than ${MAX_BYTES}`)
  }
  const to = address()
  if (to === undefined) return false
  const sender = (socket ??= bind(null).unref())
  sending++
  if (referenced && ++referencing === 1) sender.ref()
  try {
    await withLimit(signal, timeout, 'sendmsg', (limit) => sender.send(data, { to, fds: [...fds], signal: limit }))
    return true
  } finally {
    if (referenced && --referencing === 0) sender.unref()
    if (--sending === 0) {
      sender.close()
      socket = undefined
    }
  }
}

/** The socket of all messages that are being sent. A single socket keeps them in order while the manager's queue is full. */
let socket: UnixSocket | undefined
let sending = 0
/** The number of these messages that keep the process alive. */
let referencing = 0

function address(): string | undefined {
  const { NOTIFY_SOCKET: value = '' } = process.env
  if (value === '') return undefined
  if (/^vsock[a-z-]*:/.test(value)) throw noVsock(value)
  if (/^\/|^@./.test(value)) return value.replace(/^@/, '\0')
  throw invalidVariable('NOTIFY_SOCKET', "a path from '/' on, or '@' and an abstract name", value)
}

/** Returns the error of a service manager whose address is of AF_VSOCK: outside of this virtual machine. */
function noVsock(value: string): SystemError {
  const text = `NOTIFY_SOCKET is ${inspect(value)}, and AF_VSOCK is not supported: only paths and abstract addresses are`
  const error = new Error(`EAFNOSUPPORT: ${text}, socket`)
  return Object.assign(error, { code: 'EAFNOSUPPORT', errno: -constants.errno.EAFNOSUPPORT, syscall: 'socket' })
}
