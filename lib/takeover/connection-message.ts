import type { Bytes } from '../base/index.ts'
import { bytesOf, invalidType, protocolError } from '../base/internal.ts'
import { type ReceivedConnection, lengthPrefixed } from '../handover/internal.ts'

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
    throw protocolError('a connection came without its name and state')
  }
  const info = {
    name: bytes.toString('utf8', HEADER, nameEnd),
    state: Uint8Array.prototype.slice.call(bytes, nameEnd, stateEnd)
  }
  return [{ connection, head: bytes.subarray(stateEnd) }, info]
}
