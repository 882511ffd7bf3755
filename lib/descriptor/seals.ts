import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

/**
 * What nobody can do any more to a memfd: `'write'` to it, `'grow'` or `'shrink'` it, add a further `'seal'`; `'future-write'`: write
 * to it, except through mappings that are there already; `'exec'`: change whether it can be executed. See fcntl(2),
 * File Sealing.
 */
export type Seal = 'seal' | 'shrink' | 'grow' | 'write' | 'future-write' | 'exec'

/** The seals by their bit: `F_SEAL_*` in linux/fcntl.h. */
const seals: readonly Seal[] = ['seal', 'shrink', 'grow', 'write', 'future-write', 'exec']

/** Adds seals to memory. */
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

/** The seals of memory; none of what is no memory. */
export function sealsOf(fd: number): Seal[] {
  const bits = native.seals(fd)
  return bits < 0 ? [] : seals.filter((_, bit) => (bits & (1 << bit)) !== 0)
}
