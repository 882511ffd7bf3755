// Errors between the ends of a channel: JSON with the message and the properties of Node's system errors.

/** The properties beside the message, and their types. */
const properties = { code: 'string', errno: 'number', syscall: 'string', path: 'string', address: 'string' } as const

/** The maximum number of bytes of a serialized error, whatever the limits of a channel (PROTOCOL.md). */
const MAX_BYTES = 65_536

/** The maximum number of bytes of JSON for one code unit of a string. */
const MAX_JSON_PER_UNIT = 6

/** Serializes an error, without its stack. A thrown value can be of any type, and reading its properties can throw. */
export function serializeError(error: unknown): string {
  const fields: Record<string, unknown> = { message: messageOf(error) }
  try {
    for (const [name, type] of Object.entries(properties)) {
      const value: unknown = (error as Record<string, unknown> | null | undefined)?.[name]
      if (typeof value === type) fields[name] = value
    }
  } catch {
    // The message is sent without the property.
  }
  const whole = JSON.stringify(fields)
  if (Buffer.byteLength(whole) <= MAX_BYTES) return whole
  return JSON.stringify({ message: String(fields.message).slice(0, MAX_BYTES / MAX_JSON_PER_UNIT - MAX_JSON_PER_UNIT) })
}

function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error)
  } catch {
    return 'The thrown value has no message'
  }
}

/** Creates the error that the peer serialized. Malformed fields are ignored. */
export function deserializeError(text: string): Error {
  let fields: Record<string, unknown> = {}
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) fields = value as Record<string, unknown>
  } catch {
    // The error has the default message.
  }
  const error = new Error(typeof fields.message === 'string' ? fields.message : 'The peer gave no reason')
  for (const [name, type] of Object.entries(properties)) {
    if (typeof fields[name] === type) Object.assign(error, { [name]: fields[name] })
  }
  return error
}
