import assert from 'node:assert/strict'
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { UnixSocket } from 'fdpass'
import { assertGivenAway, receiveDescriptor } from './common.ts'

/** Sends a bound UDP socket, with a peer or without one, and talks with it until it is closed everywhere. */
export async function sendUdpSocket(channel: UnixSocket, type: 'udp4' | 'udp6', hasPeer: boolean): Promise<void> {
  const host = type === 'udp4' ? '127.0.0.1' : '::1'
  const [sent, here] = [createSocket(type), createSocket(type)]
  sent.bind(0, host)
  here.bind(0, host)
  await Promise.all([once(sent, 'listening'), once(here, 'listening')])
  here.connect(sent.address().port, host)
  await once(here, 'connect')
  if (hasPeer) {
    sent.connect(here.address().port, host)
    await once(sent, 'connect')
  }
  await channel.sendFd(sent)
  sent.close()
  const answering = once(here, 'message') as Promise<[Buffer]>
  here.send('ping')
  assert.equal(String((await answering)[0]), 'pong')
  const failing = once(here, 'error') as Promise<[NodeJS.ErrnoException]>
  const sending = setInterval(() => here.send('more', () => {}), 5)
  assert.equal((await failing)[0].code, 'ECONNREFUSED')
  clearInterval(sending)
  here.close()
}

const closed = (socket: DatagramSocket) => new Promise<void>((resolve) => socket.close(resolve))

/** Casts to a `dgram.Socket`, and answers to the address of the sender. */
export async function castToDatagramSocket(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = await descriptor.toDatagramSocket()
  assertGivenAway(descriptor)
  const [data, from] = (await once(socket, 'message')) as [Buffer, AddressInfo]
  assert.equal(String(data), 'ping')
  await new Promise((resolve) => socket.send('pong', from.port, from.address, resolve))
  await closed(socket)
}

/** Casts to a `dgram.Socket` that has its peer, and answers without an address. */
export async function castToConnectedSocket(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = await descriptor.toDatagramSocket()
  assertGivenAway(descriptor)
  const [data, from] = (await once(socket, 'message')) as [Buffer, AddressInfo]
  assert.equal(String(data), 'ping')
  await new Promise((resolve) => socket.send('pong', resolve))
  const { address, port } = socket.remoteAddress()
  assert.deepEqual([address, port], [from.address, from.port])
  await closed(socket)
}
