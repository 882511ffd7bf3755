/** A note of a worker to its superserver: JSON, in a message of its own. */
export interface WorkerNote {
  /** It asks for a replacement: when that one is ready, this worker is drained. */
  readonly retire?: boolean
  /** Why it is not ready yet. */
  readonly waits?: string
  /** It takes single connections, also with `handoff: 'listener'`. */
  readonly connections?: boolean
}

/** The maximum length of `waits`. The native side refuses a note of more than 4,096 bytes. */
const MAX_TEXT = 1000

/** Returns the JSON of a note. */
export function encodeNote({ waits, ...note }: WorkerNote): string {
  return JSON.stringify({ ...note, ...(waits !== undefined && { waits: waits.slice(0, MAX_TEXT) }) })
}

/** Reads a note. A worker may send anything. */
export function decodeNote(json: string): WorkerNote {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch {
    return {}
  }
  return noteOf(value)
}

/** Returns the valid fields of a received value. */
export function noteOf(value: unknown): WorkerNote {
  if (typeof value !== 'object' || value === null) return {}
  const { retire, waits, connections } = value as Record<string, unknown>
  return {
    ...(retire === true && { retire }),
    ...(connections === true && { connections }),
    ...(typeof waits === 'string' && { waits: waits.slice(0, MAX_TEXT).replaceAll(/[\p{Cc}\p{Cf}]/gu, ' ') })
  }
}
