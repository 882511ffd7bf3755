import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, read, readSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { type Socket as DatagramSocket, createSocket } from 'node:dgram'
import { type AddressInfo, type Socket, connect as connectNode } from 'node:net'
import {
  type FileStreamOptions,
  type UnixSocket,
  memfd,
  pipe,
  type Descriptor,
  bindListener,
  connect,
  socketpair
} from 'fdpass'
import { readToEnd } from './connections.ts'
import { temporaryFile, newPath } from './descriptors.ts'
import { openPty } from './kinds.ts'
import { assertGivenAway, receiveDescriptor } from './sockets.ts'

/** Sends a file whose offset is behind "con" of "contents"; the file holds `after` once it was used. */
export async function sendFile(channel: UnixSocket, after: string): Promise<void> {
  const handle = await open(temporaryFile('contents'), 'r+')
  await handle.read(Buffer.alloc(3), 0, 3, null)
  const copy = await open(`/proc/self/fd/${handle.fd}`, 'r')
  await channel.sendFd(handle)
  await handle.close()
  assert.equal(String(Buffer.from((await channel.recv())!.data)), 'used')
  assert.equal(await copy.readFile('utf8'), after)
  await copy.close()
}

/** Sends memory that holds "contents"; it holds `after` once it was used. */
export async function sendMemory(channel: UnixSocket, after: string): Promise<void> {
  const memory = memfd({ data: 'contents' })
  const copy = memory.duplicate()
  await channel.sendFd(memory)
  memory.closeSync()
  assert.equal(String(Buffer.from((await channel.recv())!.data)), 'used')
  const buffer = Buffer.alloc(100)
  assert.equal(buffer.subarray(0, readSync(copy.fd, buffer, 0, 100, 0)).toString(), after)
  copy.closeSync()
}

/** Casts to a `ReadStream`, which reads `content`. */
export async function castToReadStream(
  channel: UnixSocket,
  options: FileStreamOptions,
  content: string
): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const stream = descriptor.toReadStream(options)
  assertGivenAway(descriptor)
  assert.equal(await readToEnd(stream), content)
  await channel.send('used')
}

/** Casts to a `WriteStream`, and writes three bytes. */
export async function castToWriteStream(channel: UnixSocket, options: FileStreamOptions): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const stream = descriptor.toWriteStream(options)
  assertGivenAway(descriptor)
  stream.end('XYZ')
  await once(stream, 'close')
  assert.equal(stream.bytesWritten, 3)
  await channel.send('used')
}

/** Sends the reading end of a pipe, and writes until no process reads. */
export async function sendReadingEnd(channel: UnixSocket): Promise<void> {
  const [reading, writing] = pipe()
  await channel.sendFd(reading)
  reading.closeSync()
  writeSync(writing.fd, 'ping')
  let code: unknown
  while (code === undefined) {
    await delay(5)
    try {
      writeSync(writing.fd, 'more')
    } catch (error) {
      ;({ code } = error as NodeJS.ErrnoException)
    }
  }
  assert.equal(code, 'EPIPE')
  writing.closeSync()
}

/** Casts the reading end to a stream that can only be read. */
export async function castReadingEnd(channel: UnixSocket, method: 'toSocket' | 'toDuplex' = 'toSocket'): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket: Duplex = descriptor[method]()
  assertGivenAway(descriptor)
  assert.deepEqual([socket.readable, socket.writable], [true, false])
  const [data] = (await once(socket, 'data')) as [Buffer]
  assert.equal(data.toString().slice(0, 4), 'ping')
  socket.destroy()
  await once(socket, 'close')
}

/** Sends the writing end of a pipe, and reads up to the end. */
export async function sendWritingEnd(channel: UnixSocket): Promise<void> {
  const [reading, writing] = pipe()
  await channel.sendFd(writing)
  writing.closeSync()
  assert.equal(await readToEnd(reading.toSocket()), 'pong')
}

/** Casts the writing end to a stream that can only be written. */
export async function castWritingEnd(channel: UnixSocket, method: 'toSocket' | 'toDuplex' = 'toSocket'): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket: Duplex = descriptor[method]()
  assertGivenAway(descriptor)
  assert.deepEqual([socket.readable, socket.writable], [false, true])
  socket.end('pong')
  await once(socket, 'close')
}

/** Sends one side of a pseudoterminal in raw mode, and talks from the other side, without a stream of Node's. */
export async function sendTerminal(channel: UnixSocket, side: 'master' | 'slave'): Promise<void> {
  const [master, slave] = await openPty()
  const [sent, other] = side === 'master' ? [master, slave] : [slave, master]
  await channel.sendFd(sent)
  sent.closeSync()
  const number = other.release()
  writeSync(number, 'ping')
  let seen = ''
  for (let part = await readSome(number); part !== ''; part = await readSome(number)) {
    seen += part
    if (side === 'master' && seen === 'pong') writeSync(number, 'seen')
  }
  closeSync(number)
  assert.equal(seen, 'pong')
}

/** Reads once; empty at the end, which EIO is for a master without a slave. */
function readSome(number: number): Promise<string> {
  return new Promise((resolve, reject) => {
    read(number, Buffer.alloc(100), 0, 100, null, (error, length, buffer) => {
      if (error !== null && error.code !== 'EIO') reject(error)
      else resolve(error === null ? buffer.subarray(0, length).toString() : '')
    })
  })
}

/** Casts a master to a `TerminalStream`, answers, and waits until the slave has read that: a close of the master discards what was not read. */
export async function castMaster(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toTerminal()
  assertGivenAway(descriptor)
  const [data] = (await once(socket, 'data')) as [Buffer]
  assert.equal(String(data), 'ping')
  socket.write('pong')
  assert.equal(String(((await once(socket, 'data')) as [Buffer])[0]), 'seen')
  assert.deepEqual([socket.readable, socket.writable], [true, true])
  socket.destroy()
  await once(socket, 'close')
}

/** Casts a slave to a `TerminalStream`, and answers. */
export async function castSlave(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toTerminal()
  assertGivenAway(descriptor)
  assert.deepEqual([socket.readable, socket.writable], [true, true])
  const [data] = (await once(socket, 'data')) as [Buffer]
  assert.equal(String(data), 'ping')
  await new Promise((resolve) => socket.write('pong', resolve))
  socket.destroy()
  await once(socket, 'close')
}

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

/** Casts a connection to a stream, and answers. */
export async function castToSocket(
  channel: UnixSocket,
  method: 'toSocket' | 'toDuplex' | 'toStream' = 'toSocket'
): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const connection: Duplex = descriptor[method]()
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
        await delay(5)
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

/** Sends a listener, connects to it, and connects again until it is closed everywhere. */
async function sendListener(channel: UnixSocket, listener: Descriptor, dial: () => Socket): Promise<void> {
  await channel.sendFd(listener)
  listener.closeSync()
  assert.equal(await readToEnd(dial()), 'accepted')
  let refused: string
  do {
    await delay(5)
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
