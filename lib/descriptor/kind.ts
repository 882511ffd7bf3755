import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { invalidType, invalidValue } from '../base/errors.ts'

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

/**
 * An operation that a seal forbids on a memfd: fcntl(2), File Sealing.
 *
 * - `'write'`, `'grow'`, `'shrink'`: changing the content or the size
 * - `'future-write'`: writing, except through existing mappings
 * - `'exec'`: changing whether the file is executable
 * - `'seal'`: adding further seals
 */
export type Seal = 'seal' | 'shrink' | 'grow' | 'write' | 'future-write' | 'exec'

/** The seals in the order of their bits: `F_SEAL_*` in linux/fcntl.h. */
const seals: readonly Seal[] = ['seal', 'shrink', 'grow', 'write', 'future-write', 'exec']

/** Adds seals to a memfd. */
export function addSeals(fd: number, wanted: unknown): void {
  if (!Array.isArray(wanted)) throw invalidType('seals', 'an instance of Array', wanted)
  let bits = 0
  for (const seal of wanted as Seal[]) {
    const bit = seals.indexOf(seal)
    if (bit < 0) throw invalidValue('seals', `must hold ${seals.map((known) => `'${known}'`).join(', ')} only`)
    bits |= 1 << bit
  }
  const code = native.seal(fd, bits)
  if (code < 0) throw systemError(code, 'fcntl')
}

/** Returns the seals of a memfd; none for any other descriptor. */
export function sealsOf(fd: number): Seal[] {
  const bits = native.seals(fd)
  return bits < 0 ? [] : seals.filter((_, bit) => (bits & (1 << bit)) !== 0)
}
