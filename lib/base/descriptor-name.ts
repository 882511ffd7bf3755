import { invalidType, invalidValue } from './errors/argument.ts'

/** The maximum length of a name (systemd's `FDNAME_MAX`). */
const MAX_LENGTH = 255

/**
 * Returns whether a text is a valid name of descriptors, by systemd's rule. LISTEN_FDNAMES separates names by colons without escaping, and
 * libsystemd drops backslashes.
 */
export function isDescriptorName(name: unknown): name is string {
  return typeof name === 'string' && name.length <= MAX_LENGTH && /^[ -9;-[\]-~]+$/.test(name)
}

/** Returns a `name` argument. */
export function descriptorNameOf(name: unknown): string {
  if (typeof name !== 'string') throw invalidType('name', 'of type string', name)
  if (isDescriptorName(name)) return name
  const form = `1 to ${MAX_LENGTH} printable ASCII characters without ':' and '\\'`
  throw invalidValue('name', `must have ${form}. Received ${JSON.stringify(name)}`)
}
