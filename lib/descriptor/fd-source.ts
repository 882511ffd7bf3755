import type { Socket as DatagramSocket } from 'node:dgram'
import { ReadStream, WriteStream, type promises } from 'node:fs'
import type { Server, Socket } from 'node:net'
import { MAX_INT, integer } from '../base/validate.ts'
import { invalidType, invalidValue, outOfRange } from '../base/errors/argument.ts'
import { type FdHolder, borrow } from './borrow.ts'
import { MAX_SENT_FDS } from '../native/codes.ts'
import { fds } from '../native/shared-memory.ts'
import { isNodeObject, numberOf as nodeNumberOf } from './node-internals.ts'

/**
 * What names a descriptor to be sent: its number, or an object that holds one. It stays the caller's.
 *
 * Of a `net.Socket` only the connection is sent, not what Node has read of it: see {@link handOver}. Refused are a
 * TLSSocket, whose keys would stay behind; what has no descriptor yet, or any more; and a server or datagram socket that the
 * primary of a cluster made for all its workers.
 */
export type FdSource =
  number | FdHolder | promises.FileHandle | ReadStream | WriteStream | Socket | Server | DatagramSocket

const classes =
  'Descriptor, UnixSocket, UnixServer, FileHandle, fs.ReadStream, fs.WriteStream, net.Socket, net.Server or dgram.Socket'

/** As `numberOf`, for the sources that are met most; negative for others. It needs no name for errors. */
function quickly(source: unknown): number {
  if (typeof source === 'number') return source <= MAX_INT && Number.isInteger(source) ? source : -1
  return typeof source === 'object' && source !== null && borrow in source ? (source[borrow] as () => number)() : -1
}

/** The number that a source means now. */
function numberOf(name: string, source: unknown): number {
  if (typeof source === 'number') return integer(name, source, 0, MAX_INT)
  if (typeof source === 'object' && source !== null) {
    if (source instanceof ReadStream || source instanceof WriteStream || source.constructor?.name === 'FileHandle') {
      const fd: unknown = 'fd' in source ? source.fd : undefined
      // A stream has null before it is open, a closed FileHandle -1.
      if (fd === null || fd === -1) throw invalidValue(name, 'is not open')
      return integer(name, fd, 0, MAX_INT)
    }
    if (isNodeObject(source)) return nodeNumberOf(name, source)
  }
  throw invalidType(name, `of type number or an instance of ${classes}`, source)
}

/** Puts the number of one source where the native calls expect it. */
export function putFd(source: unknown): 1 {
  const number = quickly(source)
  fds[0] = number >= 0 ? number : numberOf('fd', source)
  return 1
}

/** Puts the numbers of sources where the native calls expect them, and counts them. */
export function putFds(sources: unknown, name = 'options.fds', most = MAX_SENT_FDS): number {
  if (sources === undefined || sources === null) return 0
  if (!Array.isArray(sources)) throw invalidType(name, 'an instance of Array', sources)
  if (sources.length > most) {
    throw outOfRange(`${name}.length`, `<= ${most}, the most that one message carries`, sources.length)
  }
  // Not one by one into the shared array: reading a source can run anything, another send included.
  const numbers: number[] = []
  for (let i = 0; i < sources.length; i++) {
    const source: unknown = sources[i]
    const number = quickly(source)
    numbers.push(number >= 0 ? number : numberOf(`${name}[${i}]`, source))
  }
  for (let i = 0; i < numbers.length; i++) fds[i] = numbers[i]!
  return numbers.length
}
