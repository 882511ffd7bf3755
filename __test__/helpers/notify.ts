import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type UnixSocket, bind } from 'fdpass'
import { temporaryFolder } from './descriptors.ts'

// Tests set the environment of this process, so they run one at a time.
export const folder = temporaryFolder()

export const me = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }

let addresses = 0

/** Sets variables until the end of the test. */
export function set(t: ExecutionContext, variables: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
    t.teardown(() => delete process.env[name])
  }
}

/** Opens the socket of a service manager, and sets NOTIFY_SOCKET to its address. */
export function manage(t: ExecutionContext, kind: 'path' | 'abstract' = 'path'): UnixSocket {
  const name = `fdpass-notify-${process.pid}-${addresses++}`
  const path = join(folder, name)
  const socket = bind(kind === 'path' ? path : `\0${name}`, { credentials: true })
  t.teardown(() => socket.close())
  set(t, { NOTIFY_SOCKET: kind === 'path' ? path : `@${name}` })
  return socket
}
