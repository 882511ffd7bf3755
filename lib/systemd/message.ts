import { bind, type UnixSocket } from '../socket/index.ts'
import { invalidValue } from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import { invalidVariable, noVsock } from './errors.ts'

/** The most bytes of a message; systemd drops a longer one (`NOTIFY_BUFFER_MAX`). */
const MAX_BYTES = 4096

/** Returns an assignment of a message. A line break would end it, and is refused. */
export function assignment(name: string, option: string, value: string): string {
  if (/[\n\0]/.test(value)) throw invalidValue(option, 'must not contain a line break, which would end it, or a NUL')
  return `${name}=${value}`
}

/** Sends assignments and descriptors to the service manager; resolves to false if there is none. */
export async function sendAssignments(
  assignments: readonly string[],
  fds: readonly FdSource[],
  signal: AbortSignal | undefined
): Promise<boolean> {
  const data = Buffer.from(assignments.join('\n'))
  if (data.length > MAX_BYTES) {
    throw invalidValue('state', `has ${data.length} bytes, and systemd drops a message with more than ${MAX_BYTES}`)
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

/** The socket of all messages that are being sent. A single socket keeps them in order while the manager's queue is full. */
let socket: UnixSocket | undefined
let sending = 0

function address(): string | undefined {
  const { NOTIFY_SOCKET: value = '' } = process.env
  if (value === '') return undefined
  if (/^vsock[a-z-]*:/.test(value)) throw noVsock(value)
  if (/^\/|^@./.test(value)) return value.replace(/^@/, '\0')
  throw invalidVariable('NOTIFY_SOCKET', "a path from '/' on, or '@' and an abstract name", value)
}
