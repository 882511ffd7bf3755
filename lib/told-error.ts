// An error that one end of a channel tells the other: JSON with its message and what Node's errors have beside it.

/** The properties that are told, and their types. */
const properties = { code: 'string', errno: 'number', syscall: 'string', path: 'string', address: 'string' } as const

/** An error as the data of a frame. Its stack stays here. */
export function tell(error: unknown): string {
  const told: Record<string, unknown> = { message: error instanceof Error ? error.message : String(error) }
  for (const [name, type] of Object.entries(properties)) {
    const value: unknown = (error as Record<string, unknown> | null | undefined)?.[name]
    if (typeof value === type) told[name] = value
  }
  return JSON.stringify(told)
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
