import type { Socket as DatagramSocket } from 'node:dgram'
import { type ReadStream, type WriteStream, createReadStream, createWriteStream } from 'node:fs'
import type { Server, ServerOpts, Socket, SocketConstructorOpts } from 'node:net'
import { optionsOf } from '../base/validate.ts'
import { signalOf } from '../base/abort.ts'
import { wrongKind } from './errors.ts'
import { type Kind, accessOf, isReadable, isWritable, kindOf } from './kind.ts'
import { internetAddressOf } from '../address/internet-address.ts'
import { duplicateFd } from '../native/owned-fds.ts'
import { native } from '../native/binding.ts'
import { listenOn, numberOf, setConnected } from './node-internals.ts'

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
  tty: ['toSocket', 'toReadStream', 'toWriteStream'],
  fifo: ['toSocket'],
  tcp: ['toSocket'],
  'tcp-listener': ['toServer'],
  udp: ['toDatagramSocket'],
  'unix-stream': ['toSocket', 'toUnixSocket'],
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

/** Casts a connection, an end of a pipe, or a terminal. */
export function toSocket(fd: number, options: SocketConstructorOpts | undefined): Socket {
  const kind = checkCast(fd, 'toSocket')
  signalOf(optionsOf(options)) // Node's constructor opens the descriptor in a socket that an aborted signal has destroyed
  const access = accessOf(fd)
  const halves = { readable: isReadable(access), writable: isWritable(access) }
  if (kind === 'tty') {
    // Checks the options before libuv replaces the descriptor.
    void new (process.getBuiltinModule('node:net').Socket)({ ...halves, ...options, signal: undefined })
    const tty = process.getBuiltinModule('node:tty')
    const socket = halves.readable ? new tty.ReadStream(fd, { ...halves, ...options }) : new tty.WriteStream(fd)
    // libuv opens a terminal anew, so that O_NONBLOCK is not set for all processes with the open file description (uv_tty_init).
    if (numberOf('fd', socket) === fd) native.release(fd)
    else native.close(fd)
    return socket
  }
  const socket = new (process.getBuiltinModule('node:net').Socket)({ ...halves, ...options, fd })
  native.release(fd)
  return socket
}

/** Casts to a server that is starting; the caller takes the number once the server listens. */
export function toServer(fd: number, options: ServerOpts | undefined): Server {
  checkCast(fd, 'toServer')
  if (native.socketType(fd) === 'seqpacket') throw wrongKind("Node's net has no seqpacket: use toUnixServer()")
  return listenOn(process.getBuiltinModule('node:net').createServer(optionsOf(options)), fd)
}

export function toDatagramSocket(fd: number): DatagramSocket {
  checkCast(fd, 'toDatagramSocket')
  const local = internetAddressOf(fd)
  const hasPeer = internetAddressOf(fd, 'peer') !== null
  const { createSocket } = process.getBuiltinModule('node:dgram')
  const socket = createSocket(local?.family === 'IPv6' ? 'udp6' : 'udp4')
  if (fd > 0) {
    socket.bind({ fd, exclusive: true })
    native.release(fd)
  } else {
    // bind() takes 0, the number that inetd passes, for a missing one.
    const duplicate = duplicateFd(fd)
    try {
      socket.bind({ fd: duplicate, exclusive: true })
    } catch (error) {
      native.close(duplicate)
      throw error
    }
    native.release(duplicate)
    native.close(fd)
  }
  if (hasPeer) setConnected(socket)
  return socket
}

export function toReadStream(fd: number, options: FileStreamOptions | undefined): ReadStream {
  checkCast(fd, 'toReadStream')
  if (!isReadable(accessOf(fd))) throw wrongKind('a descriptor opened for writing only has no toReadStream()')
  const stream = createReadStream('', { ...optionsOf(options), fd })
  native.release(fd)
  return stream
}

export function toWriteStream(fd: number, options: FileStreamOptions | undefined): WriteStream {
  checkCast(fd, 'toWriteStream')
  if (!isWritable(accessOf(fd))) throw wrongKind('a descriptor opened for reading only has no toWriteStream()')
  const stream = createWriteStream('', { ...optionsOf(options), fd })
  native.release(fd)
  return stream
}
