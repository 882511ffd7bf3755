import type { Socket as DatagramSocket } from 'node:dgram'
import type { ReadStream, WriteStream, promises } from 'node:fs'
import type { Server, Socket } from 'node:net'
import { Readable, Writable } from 'node:stream'
import { MAX_INT, integer } from '../base/validate.ts'
import { invalidType, invalidValue, outOfRange } from '../base/errors.ts'
import { MAX_SENT_FDS } from '../native/codes.ts'
import { putAllFds, putFdAt } from '../native/results.ts'
import { isNetSocket, isNodeObject, numberOf as nodeNumberOf, unreadLength } from './node-internals.ts'

/**
 * The key of the method by which objects of this package lend their descriptor number for one call. All copies of the package in a process have
 * the same key, so that each can send the descriptors of the others.
 */
export const borrow: unique symbol = Symbol.for('fdpass.borrow') as never

/** An object of this package that holds a descriptor: a `Descriptor`, `UnixSocket` or `UnixServer`. */
export interface FdHolder {
  /**
   * Returns the number for one call; throws once the object is closed.
   *
   * @hidden
   */
  [borrow](): number
}

/**
 * A descriptor to send: its number, or an object that holds one: a {@link Descriptor}, {@link UnixSocket} or {@link UnixServer}, also of another
 * copy of the package in this process, or a file, stream, socket or server of Node's. It stays the caller's.
 *
 * Rejected with ERR_INVALID_ARG_VALUE, before anything is sent:
 * - a `net.Socket` or file stream with bytes that Node has read and nothing has consumed: they would stay behind. {@link handOver} sends them
 * - a TLSSocket, and the socket below it: its keys would stay behind
 * - a socket that an HTTP parser or an HTTP/2 session reads: what they have read would stay behind. After the `'upgrade'` and `'connect'`
 *   events of `node:http` the parser is gone
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
    if (isNodeObject(source)) {
      const fd = nodeNumberOf(name, source)
      if (isNetSocket(source)) checkUnread(name, source)
      return fd
    }
    if (holdsNumber(source)) {
      const { fd } = source
      // A stream that is not open yet has null, a closed FileHandle -1.
      if (fd === null || fd === -1) throw invalidValue(name, 'is not open')
      if (source instanceof Readable) checkUnread(name, source)
      return integer(name, fd, 0, MAX_INT)
    }
  }
  throw invalidType(name, `of type number or an instance of ${classes}`, source)
}

/** Returns whether an object is a FileHandle or a stream over a file. `process.stdout` is one if it is redirected to a file. */
function holdsNumber(source: object): source is { readonly fd: unknown } {
  if (!('fd' in source)) return false
  return source instanceof Readable || source instanceof Writable || source.constructor?.name === 'FileHandle'
}

function checkUnread(name: string, stream: Readable): void {
  const unread = unreadLength(stream)
  if (unread === 0) return
  const advice = isNetSocket(stream) ? 'use handOver()' : 'read them first'
  throw invalidValue(name, `has read ${unread} bytes, which would stay behind: ${advice}`)
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
