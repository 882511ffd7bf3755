import { type Server, Socket } from 'node:net'
import { constants } from 'node:os'
import {
  type ControlError,
  type Credentials,
  Descriptor,
  type SocketType,
  UnixServer,
  UnixSocket,
  UnixStream,
  bind,
  connect,
  listen,
  socketpair,
  type Message,
  type ReceivedFd,
  type SystemError,
  recvFd,
  sendFd
} from 'fdpass'
import { exactly } from './exports.ts'

declare const netServer: Server
const { signal } = new AbortController()

// connect
exactly<Promise<UnixSocket>>()(connect('/run/x'))
connect('\0x', { type: 'dgram', localAddress: '/run/y', signal, credentials: true, pidfd: true })
connect('/run/x', { type: 'seqpacket' })
// @ts-expect-error
connect()
// @ts-expect-error
connect(null)
// @ts-expect-error
connect({ path: '/run/x' })
// @ts-expect-error
connect(Buffer.from('/run/x'))
// @ts-expect-error
connect('/run/x', { type: 'raw' })
// @ts-expect-error
connect('/run/x', { mode: 0o600 })
// @ts-expect-error
connect('/run/x', { localAddress: null })
// @ts-expect-error
connect('/run/x', { signal: new AbortController() })
// @ts-expect-error
connect('/run/x', () => {})

// bind
exactly<UnixSocket>()(bind('/run/x'))
exactly<UnixSocket>()(bind(null))
bind('/run/x', { mode: 0o600, credentials: true, pidfd: true })
// @ts-expect-error
bind()
// @ts-expect-error
bind(undefined)
// @ts-expect-error
bind('/run/x', { mode: '600' })
// @ts-expect-error
bind('/run/x', { type: 'dgram' })
// @ts-expect-error
bind('/run/x', { signal })

// socketpair
exactly<[UnixSocket, UnixSocket]>()(socketpair())
socketpair({ type: 'dgram', credentials: true, pidfd: true })
// @ts-expect-error
socketpair('dgram')
// @ts-expect-error
socketpair({ type: 'tcp' })
// @ts-expect-error
socketpair({ credentials: 'yes' })

// UnixSocket
const socket = UnixSocket.from(3)
exactly<UnixSocket>()(socket)
exactly<UnixSocket>()(UnixSocket.from(Descriptor.from(3)))
exactly<UnixSocket>()(UnixSocket.from(new Socket(), { credentials: true, pidfd: true }))
// @ts-expect-error
UnixSocket.from('3')
// @ts-expect-error
UnixSocket.from(netServer)
// @ts-expect-error
UnixSocket.from(socket)
// @ts-expect-error
UnixSocket.from(3, { type: 'stream' })
// @ts-expect-error
new UnixSocket()
// @ts-expect-error
new UnixSocket(3)
// @ts-expect-error
export class DerivedSocket extends UnixSocket {}

exactly<SocketType>()(socket.type)
exactly<boolean>()(socket.closed)
exactly<string | null>()(socket.localAddress)
exactly<string | null>()(socket.remoteAddress)
exactly<Descriptor>()(socket.peerPidfd())
exactly<void>()(socket.shutdown())
exactly<UnixSocket>()(socket.ref().unref())
exactly<number>()(socket.release())
exactly<void>()(socket.close())
socket.shutdown('read')
socket.shutdown('write')
socket.shutdown('both')
// @ts-expect-error
socket.shutdown('rw')
// @ts-expect-error
socket.shutdown(1)
// @ts-expect-error
socket.type = 'dgram'
// @ts-expect-error
socket.closed = true
// @ts-expect-error
socket.localAddress = '/run/x'
exactly<number>()(socket.fd)
// @ts-expect-error
socket.fd = 3

// UnixStream
const stream = socket.toStream()
exactly<UnixStream>()(stream)
exactly<UnixStream>()(Descriptor.from(3).toStream({ allowHalfOpen: true, maxFds: 1024 }))
exactly<boolean>()(stream.writeWithFds('x', [3, socket]))
exactly<UnixStream>()(stream.ref().unref())
exactly<Buffer | null>()(stream.read())
stream.on('fds', (fds, offset) => {
  exactly<Descriptor[]>()(fds)
  exactly<number>()(offset)
})
stream.on('fdsLost', (error) => exactly<ControlError>()(error))
stream.on('error', (error) => exactly<Error>()(error))
stream.on('close', () => {})
// @ts-expect-error
stream.writeWithFds('x')
// @ts-expect-error
socket.toStream({ maxFds: '1' })
// @ts-expect-error
new UnixStream({})

// Credentials
const peer = socket.peer()
exactly<Credentials>()(peer)
exactly<number | null>()(peer.pid)
exactly<number>()(peer.uid)
exactly<number>()(peer.gid)
exactly<number[] | undefined>()(peer.groups)
exactly<string | undefined>()(peer.label)
// @ts-expect-error
peer.uid = 0
// @ts-expect-error
process.kill(peer.pid)

// listen
exactly<Promise<UnixServer>>()(listen('/run/x'))
listen('/run/x', { type: 'seqpacket', mode: 0o600, backlog: 1, descriptors: false, credentials: true, pidfd: true })
listen('/run/x', {
  allow: ({ uid, gid, pid, groups = [] }) => uid === 0 && gid === 0 && pid !== 1 && groups.length > 0
})
listen('/run/x', { allow: async (credentials) => credentials.uid === 0 })
listen('/run/x', { allow: () => true })
// @ts-expect-error
listen(null)
// @ts-expect-error
listen({ path: '/run/x' })
// @ts-expect-error
listen('/run/x', { type: 'dgram' })
// @ts-expect-error
listen('/run/x', { mode: '600' })
// @ts-expect-error
listen('/run/x', { backlog: '1' })
// @ts-expect-error
listen('/run/x', { signal })
// @ts-expect-error
listen('/run/x', { descriptors: 0 })
// @ts-expect-error
listen('/run/x', { allow: ({ uid }) => uid })
// @ts-expect-error
listen('/run/x', { allow: true })
// @ts-expect-error
listen('/run/x', { allow: ({ user }) => user === 'root' })

// UnixServer
const server = await listen('/run/x')
exactly<string>()(server.address)
exactly<SocketType>()(server.type)
exactly<boolean>()(server.closed)
exactly<number>()(server.fd)
exactly<Promise<UnixSocket>>()(server.accept())
exactly<Promise<UnixSocket>>()(server.accept({ signal }))
exactly<AsyncIterableIterator<UnixSocket, undefined>>()(server[Symbol.asyncIterator]())
exactly<UnixServer>()(server.ref().unref())
exactly<number>()(server.release())
exactly<void>()(server.close())
for await (const connection of server) exactly<UnixSocket>()(connection)
// @ts-expect-error
new UnixServer()
// @ts-expect-error
export class DerivedServer extends UnixServer {}
// @ts-expect-error
server.accept(signal)
// @ts-expect-error
server.accept((connection) => {})
// @ts-expect-error
server.address = '/run/y'
// @ts-expect-error
server.recv()

export async function disposed() {
  using now = UnixSocket.from(3)
  await using later = UnixSocket.from(4)
  using serverNow = await listen('/run/x')
  await using serverLater = await listen('/run/y')
  return [now.type, later.type, serverNow.type, serverLater.type]
}

declare const descriptor: Descriptor
const bytes = new Uint8Array(1)

// send
exactly<Promise<void>>()(socket.send('text'))
socket.send(bytes)
socket.send(Buffer.from('text'))
socket.send('text', { fds: [0, descriptor, socket], to: '/run/x', credentials: true, signal })
socket.send('text', { fds: null })
socket.send('text', { fds: [descriptor] as const })
socket.send('text', { credentials: { pid: 1, uid: 0, gid: 0 } })
socket.send('text', { credentials: socket.peer() })
// @ts-expect-error
socket.send()
// @ts-expect-error
socket.send(null)
// @ts-expect-error
socket.send(new ArrayBuffer(1))
// @ts-expect-error
socket.send(new DataView(new ArrayBuffer(1)))
// @ts-expect-error
socket.send([1, 2, 3])
// @ts-expect-error
socket.send('text', [descriptor])
// @ts-expect-error
socket.send('text', { fds: descriptor })
// @ts-expect-error
socket.send('text', { fds: ['0'] })
// @ts-expect-error
socket.send('text', { fds: [null] })
// @ts-expect-error
socket.send('text', { fds: new Set([descriptor]) })
// @ts-expect-error
socket.send('text', { fd: descriptor })
// @ts-expect-error
socket.send('text', { to: null })
// @ts-expect-error
socket.send('text', { credentials: false })
// @ts-expect-error
socket.send('text', { credentials: { pid: 1, uid: 0 } })
// @ts-expect-error
socket.send('text', { signal: 1000 })
// @ts-expect-error
socket.send('text', () => {})

// recv
exactly<Promise<Message | null>>()(socket.recv())
socket.recv({ maxBytes: 1, maxFds: 0, signal })
// @ts-expect-error
socket.recv(1)
// @ts-expect-error
socket.recv({ maxBytes: '1' })
// @ts-expect-error
socket.recv({ maxFds: null })
// @ts-expect-error
socket.recv({ timeout: 1 })
// @ts-expect-error
export const unchecked: Message = await socket.recv()

// messages
exactly<AsyncIterableIterator<Message, undefined>>()(socket.messages())
exactly<AsyncIterableIterator<Message, undefined>>()(socket.messages({ maxBytes: 1, maxFds: 1, signal }))
exactly<AsyncIterableIterator<Message, undefined>>()(socket[Symbol.asyncIterator]())
for await (const each of socket) exactly<Message>()(each)
for await (using each of socket.messages()) exactly<Message>()(each)
// @ts-expect-error
socket.messages({ type: 'stream' })
// @ts-expect-error
for (const each of socket) each.close()

// Message
const message = (await socket.recv())!
exactly<Buffer>()(message.data)
exactly<number>()(message.size)
exactly<readonly Descriptor[]>()(message.fds)
exactly<Credentials | undefined>()(message.credentials)
exactly<Descriptor | undefined>()(message.pidfd)
exactly<string | null | undefined>()(message.address)
exactly<void>()(message.close())
// @ts-expect-error
message.data = bytes
// @ts-expect-error
message.fds = []
// @ts-expect-error
message.fds.push(descriptor)
// @ts-expect-error
message.fd
// @ts-expect-error
message.credentials.uid
// A datagram's sender may have no address.
// @ts-expect-error
socket.send('answer', { to: message.address })

// sendFd
exactly<Promise<void>>()(sendFd(socket, descriptor))
exactly<Promise<void>>()(socket.sendFd(descriptor))
sendFd(socket, 0, 'text', { signal })
socket.sendFd(socket, bytes, { signal })
sendFd(socket, 0, undefined, { signal })
// @ts-expect-error
sendFd(descriptor, socket)
// @ts-expect-error
sendFd(3, descriptor)
// @ts-expect-error
sendFd(socket)
// @ts-expect-error
sendFd(socket, [descriptor])
// @ts-expect-error
sendFd(socket, descriptor, { signal })
// @ts-expect-error
socket.sendFd(descriptor, null)
// @ts-expect-error
socket.sendFd(descriptor, 'text', { fds: [] })

// recvFd
exactly<Promise<Message | null>>()(socket.recvExactly(4))
socket.recvExactly(4, { maxFds: 1, signal })
// @ts-expect-error
socket.recvExactly()
// @ts-expect-error
socket.recvExactly(4, { maxBytes: 1 })
exactly<Descriptor>()((await socket.recvFd({ required: true, signal })).fd)
exactly<Descriptor>()((await recvFd(socket, { required: true })).fd)
exactly<Promise<ReceivedFd | null>>()(socket.recvFd({ required: false }))
exactly<Promise<ReceivedFd | null>>()(recvFd(socket))
exactly<Promise<ReceivedFd | null>>()(socket.recvFd({ maxBytes: 1, signal }))
const received = (await recvFd(socket, { maxBytes: 1, signal }))!
exactly<Descriptor | null>()(received.fd)
exactly<Buffer>()(received.data)
// @ts-expect-error
recvFd(3)
// @ts-expect-error
recvFd(socket, { maxFds: 1 })
// @ts-expect-error
received.fd.close()
// @ts-expect-error
received.fd = null

export async function disposedMessages() {
  using now = await socket.recv()
  using later = await socket.recvFd()
  return [now?.size, later?.fd]
}

// Errors
declare const systemError: SystemError
exactly<string>()(systemError.code)
exactly<number>()(systemError.errno)
exactly<string>()(systemError.syscall)
exactly<string | undefined>()(systemError.address)
export const isFull = systemError.errno === -constants.errno.EMFILE
export const asNodes: NodeJS.ErrnoException = systemError

declare const controlError: ControlError
exactly<'ERR_CONTROL_TRUNCATED' | 'ERR_TOO_MANY_DESCRIPTORS' | 'ERR_UNEXPECTED_CONTROL'>()(controlError.code)
exactly<Buffer>()(controlError.data)
export const error: Error = controlError
// @ts-expect-error
export const noSuchCode = controlError.code === 'ERR_CONTROL_LOST'

/** An option that is undefined is as one that is not there, whatever exactOptionalPropertyTypes says. */
export function undefinedOptions(): void {
  const signal = undefined
  const receiving = { credentials: undefined, pidfd: undefined }
  connect('/run/x', { type: undefined, localAddress: undefined, signal, ...receiving })
  bind('/run/x', { mode: undefined, ...receiving })
  listen('/run/x', { type: undefined, mode: undefined, backlog: undefined, descriptors: undefined, allow: undefined })
  listen('/run/x', receiving)
  const [socket] = socketpair({ type: undefined, ...receiving })
  UnixSocket.from(3, receiving)
  socket.send('text', { fds: undefined, to: undefined, credentials: undefined, signal })
  socket.recv({ maxBytes: undefined, maxFds: undefined, signal })
  socket.messages({ maxBytes: undefined, maxFds: undefined, signal })
  sendFd(socket, Descriptor.from(3), undefined, { signal })
  recvFd(socket, { maxBytes: undefined, signal })

  // And so are options that are undefined.
  connect('/run/x', undefined)
  bind('/run/x', undefined)
  listen('/run/x', undefined)
  socketpair(undefined)
  UnixSocket.from(3, undefined)
  socket.send('text', undefined)
  socket.recv(undefined)
  socket.messages(undefined)
  sendFd(socket, 3, undefined, undefined)
  recvFd(socket, undefined)

  // null is nothing.
  // @ts-expect-error
  connect('/run/x', null)
  // @ts-expect-error
  bind('/run/x', null)
  // @ts-expect-error
  listen('/run/x', null)
  // @ts-expect-error
  socketpair(null)
  // @ts-expect-error
  socket.send('text', null)
  // @ts-expect-error
  socket.recv(null)
  // @ts-expect-error
  socket.recv({ signal: null })
}
