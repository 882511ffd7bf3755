import type { Duplex } from 'node:stream'
import { Descriptor, type UnixSocket } from 'fdpass'
import * as dbus from 'fdpass/dbus'
import * as usocket from 'fdpass/usocket'
import type { UServerListenOptions, USocketMessage, USocketOptions, USocketRead } from 'fdpass/usocket'
import { exactly, same } from './exactly.ts'

same<keyof typeof dbus, 'DBusStream' | 'connectBus'>()
same<keyof typeof usocket, 'UServer' | 'USocket'>()

declare const socket: UnixSocket

/** Streams to a bus. */
export async function buses(): Promise<Duplex> {
  const stream = new dbus.DBusStream(socket)
  exactly<boolean>()(stream.writeWithFds(Buffer.from('x'), [3, Descriptor.from(4)]))
  exactly<void>()(stream.closeFds([3]))
  exactly<dbus.DBusStream>()(stream.ref().unref())
  exactly<dbus.DBusStream>()(await dbus.connectBus())
  exactly<dbus.DBusStream>()(await dbus.connectBus('system', { signal: AbortSignal.timeout(1) }))
  stream.on('fds', (fds) => stream.closeFds(fds))
  exactly<boolean>()(stream.writeWithFds('x', [3], (error) => exactly<Error | null | undefined>()(error)))
  // @ts-expect-error
  new dbus.DBusStream(3)
  // @ts-expect-error
  stream.writeWithFds(Buffer.from('x'), 3)
  // @ts-expect-error
  await dbus.connectBus('session', { timeout: 5 })
  return stream
}

/** Sockets and servers as usocket has them. */
export function sockets(options: USocketOptions, message: USocketMessage, where: UServerListenOptions): Duplex {
  const client = new usocket.USocket(options, () => {})
  client.connect('/run/x', () => {})
  exactly<number | undefined>()(client.fd)
  exactly<boolean>()(client.write(message))
  client.write([3])
  client.write('x', 'utf8', (error) => exactly<Error | null | undefined>()(error))
  client.end({ data: Buffer.from('x'), fds: [3], callback() {} })
  exactly<Buffer | null>()(client.read(1))
  exactly<USocketRead | null>()(client.read(1, null))
  client.unshift(Buffer.from('x'), [3])
  client.on('fds', (fds) => exactly<number[]>()(fds))
  const server = new usocket.UServer()
  exactly<usocket.UServer>()(server.listen(where, () => {}).unref())
  server.listen('/run/x', 5, () => {})
  server.on('connection', (connection: usocket.USocket) => connection.destroy())
  // @ts-expect-error
  client.write({ data: 'x', fds: '3' })
  // @ts-expect-error
  server.listen(80)
  return client
}
