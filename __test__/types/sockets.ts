import { type Server, Socket } from 'node:net'
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
  socketpair
} from 'fdpass'
import { exactly } from './exactly.ts'

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
