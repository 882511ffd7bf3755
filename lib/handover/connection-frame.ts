import { outOfRange } from '../base/errors/argument.ts'

/** How many bytes say how long the head is. */
export const HEADER = 4
/** The longest head. */
export const MAX_HEAD = 16 * 1024 * 1024

/** What Node had read of a connection, with its length before it: four bytes, the most significant first. */
export function frame(head: Uint8Array): Uint8Array {
  if (head.length > MAX_HEAD) throw outOfRange('head.length', `<= ${MAX_HEAD}`, head.length)
  const framed = Buffer.allocUnsafe(HEADER + head.length)
  framed.writeUInt32BE(head.length)
  framed.set(head, HEADER)
  return framed
}
