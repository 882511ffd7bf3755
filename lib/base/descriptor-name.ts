import { invalidType, invalidValue } from './errors/argument.ts'

/** The most characters of a name (systemd's `FDNAME_MAX`). */
const MOST = 255

/**
 * Whether a text can name descriptors, as systemd checks names: LISTEN_FDNAMES puts a colon between two and escapes nothing, and
 * libsystemd drops a backslash as it reads that.
 */
export function isDescriptorName(name: unknown): name is string {
  return typeof name === 'string' && name.length <= MOST && /^[ -9;-[\]-~]+$/.test(name)
}

/** The name that an argument gives. */
export function descriptorNameOf(name: unknown): string {
  if (typeof name !== 'string') throw invalidType('name', 'of type string', name)
  if (isDescriptorName(name)) return name
  const form = `1 to ${MOST} printable ASCII characters without ':' and '\\'`
  throw invalidValue('name', `must have ${form}. Received ${JSON.stringify(name)}`)
}
