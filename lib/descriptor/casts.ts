import type { Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { type ReadStream, type WriteStream, createReadStream, createWriteStream, readSync } from 'node:fs'
import type { Server, ServerOpts, Socket, SocketConstructorOpts } from 'node:net'
import { optionsOf } from '../base/validate.ts'
import { signalOf } from '../base/abort.ts'
import { type Kind, accessOf, isReadable, isWritable, kindOf } from './kind.ts'
import { internetAddressOf } from '../address/socket-address.ts'
import { duplicateFd, giveFd } from '../native/owned-fds.ts'
import { native } from '../native/binding.ts'
import { listenOn, setConnected } from './node-internals.ts'
import { withCode } from '../base/errors.ts'
import { checkRuntime } from '../base/runtime.ts'

/** Options of {@link Descriptor.toReadStream} and {@link Descriptor.toWriteStream}. */
export interface FileStreamOptions {
  /** The first byte, as an offset into the file (default: the offset shared with the sender). */
  start?: number | undefined
  /** The number of bytes read or buffered at a time (default 65,536 for reading, 16,384 for writing). */
  highWaterMark?: number | undefined
}

/** The casts of each kind. */
const castsOf: Partial<Record<Kind, readonly string[]>> = {
  file: ['toReadStream', 'toWriteStream'],
  memfd: ['toReadStream', 'toWriteStream'],
  'character-device': ['toReadStream', 'toWriteStream'],
  'block-device': ['toReadStream', 'toWriteStream'],
  tty: ['toTerminal'],
  pty: ['toTerminal'],
  fifo: ['toSocket', 'toDuplex'],
  tcp: ['toSocket', 'toDuplex'],
  'tcp-listener': ['toServer'],
  udp: ['toDatagramSocket'],
  'unix-stream': ['toSocket', 'toUnixSocket', 'toStream'],
  'unix-seqpacket': ['toUnixSocket'],
  'unix-dgram': ['toUnixSocket'],
  'unix-listener': ['toServer', 'toUnixServer']
}

/** Returns the kind of a descriptor; throws ERR_INVALID_FD_TYPE if the kind does not have the cast. */
export function checkCast(fd: number, method: string): Kind {
  const kind = kindOf(fd)
  if (accessOf(fd) === 'path')
    throw wrongKind(`a descriptor opened with O_PATH cannot be used, and so has no ${method}()`)
  const methods = castsOf[kind] ?? []
  if (methods.includes(method)) return kind
  const others = methods.length > 0 ? `: it has ${methods.join('() and ')}()` : ''
  throw wrongKind(`a descriptor of kind '${kind}' has no ${method}()${others}`)
}

// Each cast takes a number from the native side, for an object that closes it. A cast that throws has taken nothing.

/** Casts a connection or an end of a pipe. */
export function toSocket(fd: number, options: SocketConstructorOpts | undefined): Socket {
  const kind = checkCast(fd, 'toSocket')
  signalOf(optionsOf(options)) // Node's constructor opens the descriptor in a socket that an aborted signal has destroyed
  const access = accessOf(fd)
  if (isReadable(access)) {
    const other = kind === 'unix-stream' ? 'toStream' : 'toDuplex'
    checkRuntime(
      'Bun',
      `toSocket() does not work on Bun, whose net.Socket reads no received descriptor: use ${other}()`
    )
  }
  const halves = { readable: isReadable(access), writable: isWritable(access) }
  const { Socket: NetSocket } = process.getBuiltinModule('node:net')
  const socket = giveFd(fd, () => new NetSocket({ ...halves, ...options, fd }))
  if (options === undefined || !('onread' in options)) readToEnd(socket, fd)
  return socket
}

/** The most bytes, and the most reads, of what a socket has left. More than a pipe or a socket holds: another process can open a FIFO again. */
const MOST_LEFT = 16 * 1024 * 1024
const MOST_READS = 16_384
const CHUNK = 65_536
let scratch: Buffer | undefined

/**
 * Lets a socket deliver every byte before its end. libuv takes a hang-up behind a short read for the end (uv__stream_io in src/unix/stream.c),
 * but a read is also short in front of a message with descriptors, a packet of a pipe (O_DIRECT), and urgent data.
 */
function readToEnd(socket: Socket, fd: number): void {
  const { push } = socket
  let ended = false
  const pushAll: Socket['push'] = (chunk: unknown, encoding) => {
    if (chunk === null && !ended && !socket.destroyed) {
      ended = true
      for (const part of leftIn(fd)) push.call(socket, part)
    }
    return push.call(socket, chunk, encoding)
  }
  Object.defineProperty(socket, 'push', { value: pushAll, writable: true, configurable: true })
}

/** Reads what a descriptor, which Node has switched to non-blocking mode, has left at its end. */
function* leftIn(fd: number): Generator<Buffer, void> {
  scratch ??= Buffer.allocUnsafeSlow(CHUNK)
  let left = MOST_LEFT
  for (let i = 0; i < MOST_READS && left > 0; i++) {
    const count = readSome(fd, scratch)
    if (count === 0) return
    left -= count
    yield Buffer.from(scratch.subarray(0, count))
  }
}

/** Returns the count of read(2); 0 for an error too, because Node has reported the end already. */
function readSome(fd: number, buffer: Buffer): number {
  try {
    return readSync(fd, buffer)
  } catch {
    return 0
  }
}

/** Creates a server for a listener, which {@link giveToServer} has it take. */
export function serverFor(fd: number, options: ServerOpts | undefined): Server {
  checkCast(fd, 'toServer')
  if (native.socketType(fd) === 'seqpacket') throw wrongKind("Node's net has no seqpacket: use toUnixServer()")
  return process.getBuiltinModule('node:net').createServer(optionsOf(options))
}

/**
 * As `giveFd`, for a server that listens on the descriptor; the caller releases it. Returns undefined if the server listens; otherwise a promise,
 * because listening has failed, or continues in a later turn.
 */
export function giveToServer(fd: number, server: Server, backlog?: number): Promise<unknown> | undefined {
  native.setLeaving(fd, 1)
  const stays = () => native.setLeaving(fd, 0)
  try {
    listenOn(server, fd, backlog)
  } catch (error) {
    stays()
    throw error
  }
  if (server.listening) return undefined
  return once(server, 'listening').catch((error: unknown) => {
    stays()
    throw error
  })
}

export function toDatagramSocket(fd: number): DatagramSocket {
  checkCast(fd, 'toDatagramSocket')
  const local = internetAddressOf(fd)
  const hasPeer = internetAddressOf(fd, 'peer') !== null
  const instead = 'use read() and write()'
  checkRuntime(
    'Deno',
    `toDatagramSocket() does not work on Deno, whose dgram.Socket takes no received descriptor: ${instead} of a socket with a peer`
  )
  if (hasPeer)
    checkRuntime(
      'Bun',
      `toDatagramSocket() does not work on Bun, whose dgram.Socket ignores the peer of a received socket: ${instead}`
    )
  const { createSocket } = process.getBuiltinModule('node:dgram')
  const socket = createSocket(local?.family === 'IPv6' ? 'udp6' : 'udp4')
  const bind = (number: number) => socket.bind({ fd: number, exclusive: true })
  if (fd > 0) giveFd(fd, bind)
  else {
    // bind() takes 0, the number that inetd passes, for a missing one.
    const duplicate = duplicateFd(fd)
    try {
      giveFd(duplicate, bind)
    } catch (error) {
      native.close(duplicate)
      throw error
    }
    native.close(fd)
  }
  if (hasPeer) setConnected(socket)
  return socket
}

export function toReadStream(fd: number, options: FileStreamOptions | undefined): ReadStream {
  checkCast(fd, 'toReadStream')
  checkRuntime(
    'Deno',
    'toReadStream() does not work on Deno, whose node:fs refuses received descriptors: use read(), bytes() or text()'
  )
  if (!isReadable(accessOf(fd))) throw wrongKind('a descriptor opened for writing only has no toReadStream()')
  return giveFd(fd, () => createReadStream('', { ...optionsOf(options), fd }))
}

export function toWriteStream(fd: number, options: FileStreamOptions | undefined): WriteStream {
  checkCast(fd, 'toWriteStream')
  checkRuntime('Deno', 'toWriteStream() does not work on Deno, whose node:fs refuses received descriptors: use write()')
  if (!isWritable(accessOf(fd))) throw wrongKind('a descriptor opened for reading only has no toWriteStream()')
  return giveFd(fd, () => createWriteStream('', { ...optionsOf(options), fd }))
}

/** Returns the error of a call on a descriptor that was closed, released or cast. */
export function descriptorClosed(): Error {
  return withCode(new Error('The descriptor is closed, or was released or cast'), 'ERR_DESCRIPTOR_CLOSED')
}

/** Returns the error of a cast that the descriptor's kind does not have. */
export function wrongKind(text: string): TypeError {
  return withCode(new TypeError(`${text.charAt(0).toUpperCase()}${text.slice(1)}`), 'ERR_INVALID_FD_TYPE')
}
