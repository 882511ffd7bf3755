// An error that one end of a channel tells the other: JSON with its message and what Node's errors have beside it.

/** The properties that are told, and their types. */
const properties = { code: 'string', errno: 'number', syscall: 'string', path: 'string', address: 'string' } as const

/** The most bytes that an error has, whatever the limits of a channel: PROTOCOL.md. */
const MAX_TOLD = 65_536

/** The most bytes of JSON for one unit of a string. */
const JSON_UNIT = 6

/** An error as the data of a frame. Its stack stays here. What was thrown can be anything, and reading it can fail. */
export function tell(error: unknown): string {
  const told: Record<string, unknown> = { message: messageOf(error) }
  try {
    for (const [name, type] of Object.entries(properties)) {
      const value: unknown = (error as Record<string, unknown> | null | undefined)?.[name]
      if (typeof value === type) told[name] = value
    }
  } catch {
    // It goes without.
  }
  const whole = JSON.stringify(told)
  if (Buffer.byteLength(whole) <= MAX_TOLD) return whole
  return JSON.stringify({ message: String(told.message).slice(0, MAX_TOLD / JSON_UNIT - JSON_UNIT) })
}

function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error)
  } catch {
    return 'What was thrown has no message'
  }
}

/** The error that the data of a frame tell of. */
export function toldError(text: string): Error {
  let told: Record<string, unknown> = {}
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) told = value as Record<string, unknown>
  } catch {
    // It goes without.
  }
  const error = new Error(typeof told.message === 'string' ? told.message : 'The other end gave no reason')
  for (const [name, type] of Object.entries(properties)) {
    if (typeof told[name] === type) Object.assign(error, { [name]: told[name] })
  }
  return error
}
