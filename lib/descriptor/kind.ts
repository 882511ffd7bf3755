import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

/**
 * What a descriptor is.
 *
 * `'tty'` is a terminal, or either end of a pseudoterminal; `'memfd'`, `'pidfd'`, `'eventfd'` and `'epoll'` are told where there
 * is a /proc, and are `'file'` or `'other'` elsewhere; `'socket'` is one of another family or protocol.
 */
export type Kind =
  | 'file'
  | 'directory'
  | 'fifo'
  | 'character-device'
  | 'block-device'
  | 'tty'
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

/** The kinds by the native side's code for them. */
const kinds: readonly Kind[] = [
  'file',
  'directory',
  'fifo',
  'character-device',
  'block-device',
  'tty',
  'symlink',
  'tcp',
  'tcp-listener',
  'udp',
  'unix-stream',
  'unix-seqpacket',
  'unix-dgram',
  'unix-listener',
  'memfd',
  'pidfd',
  'eventfd',
  'epoll',
  'socket',
  'other'
]

/** Finds out what a descriptor is. */
export function kindOf(fd: number): Kind {
  const code = native.kind(fd)
  if (code < 0) throw systemError(code, 'fstat')
  return kinds[code]!
}

/** The bits of what a descriptor may be used for; neither is an `O_PATH` descriptor's. */
export const READ = 1
export const WRITE = 2

/** What a descriptor may be used for. */
export function accessOf(fd: number): number {
  const code = native.access(fd)
  if (code < 0) throw systemError(code, 'fcntl')
  return code
}
