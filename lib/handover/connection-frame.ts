import { outOfRange } from '../base/errors/argument.ts'

/** The length of the header in bytes. */
export const HEADER = 4
/** The most bytes that one message carries of what Node had read. */
export const MAX_HEAD = 16 * 1024 * 1024

/** Returns the bytes that Node had read from a connection, behind their length in four bytes, big-endian. */
export function lengthPrefixed(head: Uint8Array): Uint8Array {
  if (head.length > MAX_HEAD) throw outOfRange('head.length', `<= ${MAX_HEAD}`, head.length)
  const framed = Buffer.allocUnsafe(HEADER + head.length)
  framed.writeUInt32BE(head.length)
  framed.set(head, HEADER)
  return framed
}
