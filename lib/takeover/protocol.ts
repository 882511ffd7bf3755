// The messages of a takeover: PROTOCOL.md, "Takeover".
import type { FileId } from '../address/internal.ts'
import type { Bytes } from '../base/index.ts'
import { bytesOf, invalidType, protocolError } from '../base/internal.ts'
import { type ReceivedConnection, lengthPrefixed } from '../handover/internal.ts'

/** The protocol's version. */
export const VERSION = 1

/** The limits of a successor's channel. Replies carry all descriptors at once. */
export const SUCCESSOR_LIMITS = { maxBytes: 0x7fff_ffff, maxFds: 4048, maxPending: 16 } as const

/** The limits of a predecessor's channel: the successor sends requests only, whose names of listeners are the longest part. */
export const PREDECESSOR_LIMITS = {
  ...SUCCESSOR_LIMITS,
  maxReceivedBytes: 1024 * 1024,
  maxReceivedFds: 0,
  messages: false
} as const

/** The requests of a successor, in this order. */
export type SuccessorRequest =
  | {
      readonly ask: 'listeners'
      readonly version: number
      /** The name of its service; missing for an empty one. */
      readonly service?: string | undefined
      readonly listen: readonly { readonly name: string; readonly source: string }[]
      readonly connections: boolean
    }
  | { readonly ask: 'state' }
  | { readonly ask: 'ready' }

/** The reply to the first request. Its descriptors: the control socket, the listeners, the socket for connections. */
export interface ListenersReply {
  readonly pid: number
  /** The name of the predecessor's service; missing for an empty one. */
  readonly service?: string | undefined
  /** The file of the control socket. */
  readonly control: FileId
  /** The file of each requested listener; null if the predecessor does not have that listener. */
  readonly listeners: readonly ({ readonly file: FileId } | null)[]
}

/** Sent to a successor that timed out: an error, in the format of a channel's errors. */
export interface Cancellation {
  readonly cancelled: string
}

/** Returns whether a value is an object other than an array. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Returns whether a value is a request, of any version. */
export function isSuccessorRequest(value: unknown): value is SuccessorRequest {
  if (!isObject(value)) return false
  if (value.ask === 'state' || value.ask === 'ready') return true
  if (value.ask !== 'listeners' || !Array.isArray(value.listen) || !isOptionalText(value.service)) return false
  return value.listen.every(
    (item) => isObject(item) && typeof item.name === 'string' && typeof item.source === 'string'
  )
}

/** Returns whether a value is the reply to a first request for `count` listeners. */
export function isListenersReply(value: unknown, count: number): value is ListenersReply {
  if (!isObject(value) || typeof value.pid !== 'number' || !isFileId(value.control)) return false
  if (!isOptionalText(value.service)) return false
  const { listeners } = value
  if (!Array.isArray(listeners) || listeners.length !== count) return false
  return listeners.every((item) => item === null || (isObject(item) && isFileId(item.file)))
}

function isFileId(value: unknown): value is FileId {
  return value === null || (typeof value === 'string' && /^[\da-f]{32}$/.test(value))
}

function isOptionalText(value: unknown): value is string | undefined {
  return value === undefined || typeof value === 'string'
}

/** The length of the header in bytes: the lengths of the name and of the state. */
const HEADER = 8

/** The name and state of a connection that is handed over. */
export interface ConnectionInfo {
  /** The name that the predecessor gave it, such as `'/chat'`. */
  readonly name: string
  /** The state that the predecessor gave it. */
  readonly state: Uint8Array
}

/** Returns the function that makes a connection's message: PROTOCOL.md. */
export function connectionMessage(name: unknown, state: Bytes): (head: Uint8Array) => Uint8Array {
  if (typeof name !== 'string') throw invalidType('options.name', 'of type string', name)
  const [nameBytes, stateBytes] = [Buffer.from(name), bytesOf(state, 'options.state')]
  const header = Buffer.allocUnsafe(HEADER)
  header.writeUInt32BE(nameBytes.length)
  header.writeUInt32BE(stateBytes.length, HEADER / 2)
  return (head) => lengthPrefixed(Buffer.concat([header, nameBytes, stateBytes, head]))
}

/** Splits the name and state of a connection from the bytes that its peer has sent. Closes the connection if it throws. */
export function parseConnection({ connection, head }: ReceivedConnection): [ReceivedConnection, ConnectionInfo] {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.length)
  const nameEnd = HEADER + (bytes.length < HEADER ? Infinity : bytes.readUInt32BE())
  const stateEnd = nameEnd + (nameEnd > bytes.length ? 0 : bytes.readUInt32BE(HEADER / 2))
  if (stateEnd > bytes.length) {
    connection.closeSync()
    throw protocolError('a connection arrived without its name and state')
  }
  const info = {
    name: bytes.toString('utf8', HEADER, nameEnd),
    state: Uint8Array.prototype.slice.call(bytes, nameEnd, stateEnd)
  }
  return [{ connection, head: bytes.subarray(stateEnd) }, info]
}
