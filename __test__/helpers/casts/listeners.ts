import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect as connectNode } from 'node:net'
import { type Descriptor, type UnixSocket, bindListener, connect } from 'fdpass'
import { assertGivenAway, newPath, pause, readToEnd, receiveDescriptor } from './common.ts'

/** Sends a listener, connects to it, and connects again until it is closed everywhere. */
async function sendListener(channel: UnixSocket, listener: Descriptor, dial: () => Socket): Promise<void> {
  await channel.sendFd(listener)
  listener.closeSync()
  assert.equal(await readToEnd(dial()), 'accepted')
  let refused: string
  do {
    await pause(5)
    refused = await readToEnd(dial())
  } while (refused === '' || refused.includes('ECONNRESET')) // it was still in the backlog
  assert.equal(refused, ' ECONNREFUSED')
}

export async function sendTcpListener(channel: UnixSocket): Promise<void> {
  const listener = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = listener.address as AddressInfo
  await sendListener(channel, listener, () => connectNode(port, '127.0.0.1'))
}

export async function sendUnixListener(channel: UnixSocket): Promise<void> {
  const path = newPath()
  await sendListener(channel, bindListener({ path }), () => connectNode(path))
}

/** Casts a listener to a `net.Server`, accepts one connection, and closes. */
export async function castToServer(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const server = await descriptor.toServer()
  assertGivenAway(descriptor)
  const [connection] = (await once(server, 'connection')) as [Socket]
  connection.end('accepted')
  await new Promise((resolve) => server.close(resolve))
  assert.equal(server.listening, false)
}

/** Casts a listener to a `UnixServer`, accepts the other process and itself, and closes. */
export async function castToUnixServer(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const server = descriptor.toUnixServer()
  assertGivenAway(descriptor)
  assert.equal(server.type, 'stream')
  const own = await connect(server.address)
  for (const connection of [await server.accept(), await server.accept()]) {
    await connection.send('accepted')
    connection.close()
  }
  own.close()
  server.close()
}
