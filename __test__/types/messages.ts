import { constants } from 'node:os'
import {
  type ControlError,
  type Credentials,
  Descriptor,
  type Message,
  type ReceivedFd,
  type SystemError,
  UnixSocket,
  bind,
  connect,
  listen,
  recvFd,
  sendFd,
  socketpair
} from 'fdpass'
import { exactly } from './exactly.ts'

declare const socket: UnixSocket
declare const descriptor: Descriptor
const { signal } = new AbortController()
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

export async function disposed() {
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
