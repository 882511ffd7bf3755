import { bind, type UnixSocket } from '../socket/index.ts'
import { invalidValue } from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import { invalidVariable, noVsock } from './errors.ts'

/** The most bytes that systemd takes of a message; it drops a longer one (`NOTIFY_BUFFER_MAX`). */
const MOST_BYTES = 4096

/** An assignment of a message, which a line break would end. */
export function assignment(name: string, option: string, value: string): string {
  if (/[\n\0]/.test(value)) throw invalidValue(option, 'must not contain a line break, which would end it, or a NUL')
  return `${name}=${value}`
}

/** Sends assignments, and descriptors, to the service manager, if there is one. */
export async function tell(
  assignments: readonly string[],
  fds: readonly FdSource[],
  signal: AbortSignal | undefined
): Promise<boolean> {
  const data = Buffer.from(assignments.join('\n'))
  if (data.length > MOST_BYTES) {
    throw invalidValue('state', `has ${data.length} bytes, and systemd drops a message with more than ${MOST_BYTES}`)
  }
  const to = address()
  if (to === undefined) return false
  socket ??= bind(null)
  sending++
  try {
    await socket.send(data, { to, fds: [...fds], signal })
    return true
  } finally {
    if (--sending === 0) {
      socket.close()
      socket = undefined
    }
  }
}

/** The socket of all messages that are on their way: those of one socket stay in order where the manager's queue is full. */
let socket: UnixSocket | undefined
let sending = 0

function address(): string | undefined {
  const { NOTIFY_SOCKET: value = '' } = process.env
  if (value === '') return undefined
  if (/^vsock[a-z-]*:/.test(value)) throw noVsock(value)
  if (/^\/|^@./.test(value)) return value.replace(/^@/, '\0')
  throw invalidVariable('NOTIFY_SOCKET', "a path from '/' on, or '@' and an abstract name", value)
}
