import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect as connectNode } from 'node:net'
import { type UnixSocket, bindListener, socketpair } from 'fdpass'
import { assertGivenAway, pause, readToEnd, receiveDescriptor } from './common.ts'

/** Sends the accepting side of a TCP connection, and talks from the connecting side. */
export async function sendTcpConnection(channel: UnixSocket): Promise<void> {
  using listener = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = listener.address as AddressInfo
  const server = await listener.duplicate().toServer({ pauseOnConnect: true })
  const accepting = once(server, 'connection') as Promise<[Socket]>
  const client = connectNode(port, '127.0.0.1')
  const [[accepted]] = await Promise.all([accepting, once(client, 'connect')])
  server.close()
  await channel.sendFd(accepted)
  accepted.destroy()
  client.write('ping')
  assert.equal(await readToEnd(client), 'pong')
}

/** Casts a connection to a `net.Socket`, and answers. */
export async function castToSocket(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const connection = descriptor.toSocket()
  assertGivenAway(descriptor)
  const [data] = (await once(connection, 'data')) as [Buffer]
  assert.equal(String(data), 'ping')
  await new Promise((resolve) => connection.write('pong', resolve))
  // Without a shutdown: the other side sees the end only when no process has the descriptor any more.
  connection.destroy()
  await once(connection, 'close')
}

/** Sends one end of a pair of Unix sockets, and talks from the other end. */
export async function sendUnixSocket(channel: UnixSocket, type: 'stream' | 'seqpacket' | 'dgram'): Promise<void> {
  const [here, there] = socketpair({ type })
  await channel.sendFd(there)
  there.close()
  await here.send('ping')
  assert.equal(Buffer.from((await here.recv())!.data).toString(), 'pong')
  if (type === 'dgram') {
    // A datagram socket sees the end of its peer only by sending.
    const sendUntilClosed = async () => {
      for (;;) {
        await here.send('more')
        await pause(5)
      }
    }
    await assert.rejects(sendUntilClosed, { code: 'ECONNREFUSED' })
  } else assert.equal(await here.recv(), null)
  here.close()
}

/** Casts one end of a pair to a `UnixSocket`, and answers. */
export async function castToUnixSocket(channel: UnixSocket, type: 'stream' | 'seqpacket' | 'dgram'): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toUnixSocket()
  assertGivenAway(descriptor)
  assert.equal(socket.type, type)
  assert.equal(Buffer.from((await socket.recv())!.data).toString(), 'ping')
  await socket.send('pong')
  socket.close()
}
