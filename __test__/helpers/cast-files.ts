import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, read, readSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { type FileStreamOptions, type UnixSocket, memfd, pipe } from 'fdpass'
import { readToEnd } from './connections.ts'
import { temporaryFile } from './descriptors.ts'
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
