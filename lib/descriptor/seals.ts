import { invalidType, invalidValue } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

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
