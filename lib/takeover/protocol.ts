// What two processes say to each other over a channel: PROTOCOL.md, "Takeover".
import type { FileId } from '../address/internal.ts'

/** The version of the protocol. */
export const VERSION = 1

/** The limits of its channel: a successor gets everything at once. */
export const LIMITS = { maxBytes: 0x7fff_ffff, maxFds: 4048, maxPending: 16 } as const

/** What a successor asks for, in this order. */
export type SuccessorRequest =
  | {
      readonly ask: 'listeners'
      readonly version: number
      readonly listen: readonly { readonly name: string; readonly source: string }[]
      readonly connections: boolean
    }
  | { readonly ask: 'state' }
  | { readonly ask: 'ready' }

/** The answer to the first request; its descriptors are the control socket, the listeners, and the socket for connections. */
export interface ListenersReply {
  readonly pid: number
  /** The file of the control socket. */
  readonly control: FileId
  /** For each that was asked for its file, or null where it is not there. */
  readonly listeners: readonly ({ readonly file: FileId } | null)[]
}

/** Said to a successor that has taken too long: an error, as a channel tells one. */
export interface Cancellation {
  readonly cancelled: string
}

/** Whether a value is an object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Whether a value is a request, of whatever version. */
export function isSuccessorRequest(value: unknown): value is SuccessorRequest {
  if (!isObject(value)) return false
  if (value.ask === 'state' || value.ask === 'ready') return true
  if (value.ask !== 'listeners' || !Array.isArray(value.listen)) return false
  return value.listen.every(
    (item) => isObject(item) && typeof item.name === 'string' && typeof item.source === 'string'
  )
}

/** Whether a value answers the first request, which asked for so many listeners. */
export function isListenersReply(value: unknown, count: number): value is ListenersReply {
  if (!isObject(value) || typeof value.pid !== 'number' || !isFileId(value.control)) return false
  const { listeners } = value
  if (!Array.isArray(listeners) || listeners.length !== count) return false
  return listeners.every((item) => item === null || (isObject(item) && isFileId(item.file)))
}

function isFileId(value: unknown): value is FileId {
  return value === null || (typeof value === 'string' && /^[\da-f]{32}$/.test(value))
}
