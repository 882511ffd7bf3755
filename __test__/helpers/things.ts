import type { Descriptor, Kind } from 'fdpass'
import { temporaryFolder } from './descriptors.ts'
import { text } from './messages.ts'
import { startPython } from './processes.ts'

/** A descriptor that another process has sent. */
export interface Thing {
  readonly kind: Kind
  readonly title: string
  readonly descriptor: Descriptor
}

/** One of each kind, and what this machine cannot make. */
export interface Things {
  readonly things: readonly Thing[]
  readonly missing: readonly (readonly [kind: Kind, title: string, reason: string])[]
  /** Closes the descriptors, and lets the other process end. */
  end(): Promise<void>
}

/**
 * A descriptor of each kind, sent by another process, which keeps the other ends; none where that process, which needs Linux and
 * Python 3.9, cannot run.
 */
export async function everyKind(runs: boolean): Promise<Things> {
  if (!runs) {
    return { things: [], missing: [['file', 'descriptor', 'needs Linux and Python 3.9']], end: () => Promise.resolve() }
  }
  const { socket, done } = startPython('every_kind', [temporaryFolder()])
  const message = (await socket.recv())!
  const [made, missing] = JSON.parse(text(message)!) as [[Kind, string][], Things['missing']]
  return {
    things: made.map(([kind, title], i) => ({ kind, title, descriptor: message.fds[i]! })),
    missing,
    async end() {
      message.close()
      socket.close()
      await done
    }
  }
}

/** Both ends of a new pseudoterminal in raw mode. */
export async function openPty(): Promise<[master: Descriptor, slave: Descriptor]> {
  const { socket, done } = startPython('pseudoterminal')
  const { fds } = (await socket.recv())!
  socket.close()
  await done
  return [fds[0]!, fds[1]!]
}
