import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

/**
 * The kind of a descriptor.
 *
 * - `'pty'`: the master of a pseudoterminal
 * - `'tty'`: the other end of a pseudoterminal, or a real terminal
 * - `'memfd'`, `'pidfd'`, `'eventfd'`, `'epoll'`: detected through /proc; without /proc they are `'file'` or `'other'`
 * - `'socket'`: a socket of another family or protocol
 */
export type Kind =
  | 'file'
  | 'directory'
  | 'fifo'
  | 'character-device'
  | 'block-device'
  | 'tty'
  | 'pty'
  | 'symlink'
  | 'tcp'
  | 'tcp-listener'
  | 'udp'
  | 'unix-stream'
  | 'unix-seqpacket'
  | 'unix-dgram'
  | 'unix-listener'
  | 'memfd'
  | 'pidfd'
  | 'eventfd'
  | 'epoll'
  | 'socket'
  | 'other'

/** Returns the kind of a descriptor. */
export function kindOf(fd: number): Kind {
  const kind = native.kind(fd)
  if (typeof kind === 'number') throw systemError(kind, 'fstat')
  return kind
}

/** The operations that a descriptor allows; `'path'` for one that was opened with `O_PATH`, which allows none. */
export type Access = 'path' | 'read' | 'write' | 'both'

/** Returns the operations that a descriptor allows. */
export function accessOf(fd: number): Access {
  const access = native.access(fd)
  if (typeof access === 'number') throw systemError(access, 'fcntl')
  return access
}

/** Returns whether reading is allowed. */
export function isReadable(access: Access): boolean {
  return access === 'read' || access === 'both'
}

/** Returns whether writing is allowed. */
export function isWritable(access: Access): boolean {
  return access === 'write' || access === 'both'
}
