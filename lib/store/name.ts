import { invalidType, invalidValue } from '../errors.ts'

/** The most characters of a name: as systemd has it for FDNAME. */
const MAX_NAME = 255

/** Whether a text can name descriptors, in LISTEN_FDNAMES too, which puts a colon between two. */
export function isName(name: unknown): name is string {
  return typeof name === 'string' && name.length <= MAX_NAME && /^[ -9;-~]+$/.test(name)
}

/** The name that an argument gives. */
export function nameOf(name: unknown): string {
  if (typeof name !== 'string') throw invalidType('name', 'of type string', name)
  if (isName(name)) return name
  const form = `1 to ${MAX_NAME} printable ASCII characters without a colon`
  throw invalidValue('name', `must have ${form}. Received ${JSON.stringify(name)}`)
}
