import type { Socket as DatagramSocket } from 'node:dgram'
import { ReadStream, WriteStream, type promises } from 'node:fs'
import type { Server, Socket } from 'node:net'
import { MAX_INT, integer } from '../base/validate.ts'
import { invalidType, invalidValue, outOfRange } from '../base/errors/argument.ts'
import { type FdHolder, borrow } from './borrow.ts'
import { MAX_SENT_FDS } from '../native/codes.ts'
import { putAllFds, putFdAt } from '../native/results.ts'
import { isNodeObject, numberOf as nodeNumberOf } from './node-internals.ts'

/**
 * A descriptor to send: its number, or an object that holds one: a {@link Descriptor}, {@link UnixSocket} or {@link UnixServer}, or a
 * file, stream, socket or server of Node's. It stays the caller's.
 *
 * Of a `net.Socket` only the connection is sent, not the bytes that Node has read: see {@link handOver}.
 *
 * Rejected with ERR_INVALID_ARG_VALUE:
 * - a TLSSocket: its keys would stay behind
 * - an object that is not open
 * - a server or datagram socket that the primary of a cluster opened for all its workers
 */
export type FdSource =
  number | FdHolder | promises.FileHandle | ReadStream | WriteStream | Socket | Server | DatagramSocket

const classes =
  'Descriptor, UnixSocket, UnixServer, FileHandle, fs.ReadStream, fs.WriteStream, net.Socket, net.Server or dgram.Socket'

/** Returns the number of the most frequent sources; negative for others. */
function fastNumberOf(source: unknown): number {
  if (typeof source === 'number') return source <= MAX_INT && Number.isInteger(source) ? source : -1
  return typeof source === 'object' && source !== null && borrow in source ? (source[borrow] as () => number)() : -1
}

/** Returns the current number of a source. */
function numberOf(name: string, source: unknown): number {
  if (typeof source === 'number') return integer(name, source, 0, MAX_INT)
  if (typeof source === 'object' && source !== null) {
    if (source instanceof ReadStream || source instanceof WriteStream || source.constructor?.name === 'FileHandle') {
      const fd: unknown = 'fd' in source ? source.fd : undefined
      // A stream that is not open yet has null, a closed FileHandle -1.
      if (fd === null || fd === -1) throw invalidValue(name, 'is not open')
      return integer(name, fd, 0, MAX_INT)
    }
    if (isNodeObject(source)) return nodeNumberOf(name, source)
  }
  throw invalidType(name, `of type number or an instance of ${classes}`, source)
}

/** Puts the number of a source where the native calls expect it; returns the count, 1. */
export function putFd(source: unknown): 1 {
  const number = fastNumberOf(source)
  putFdAt(0, number >= 0 ? number : numberOf('fd', source))
  return 1
}

/** Puts the numbers of sources where the native calls expect them; returns the count. */
export function putFds(sources: unknown, name = 'options.fds', max = MAX_SENT_FDS): number {
  if (sources === undefined || sources === null) return 0
  if (!Array.isArray(sources)) throw invalidType(name, 'an instance of Array', sources)
  if (sources.length > max) {
    throw outOfRange(`${name}.length`, `<= ${max}, the maximum of one message`, sources.length)
  }
  // Collected first: reading a source can run code of the caller, which may send something else.
  const numbers: number[] = []
  for (let i = 0; i < sources.length; i++) {
    const source: unknown = sources[i]
    const number = fastNumberOf(source)
    numbers.push(number >= 0 ? number : numberOf(`${name}[${i}]`, source))
  }
  putAllFds(numbers)
  return numbers.length
}
