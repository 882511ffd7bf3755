import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, read, writeSync } from 'node:fs'
import { type UnixSocket, pipe } from 'fdpass'
import { openPty } from '../things.ts'
import { assertGivenAway, pause, readToEnd, receiveDescriptor } from './common.ts'

/** Sends the reading end of a pipe, and writes until no process reads. */
export async function sendReadingEnd(channel: UnixSocket): Promise<void> {
  const [reading, writing] = pipe()
  await channel.sendFd(reading)
  reading.closeSync()
  writeSync(writing.fd, 'ping')
  let code: unknown
  while (code === undefined) {
    await pause(5)
    try {
      writeSync(writing.fd, 'more')
    } catch (error) {
      ;({ code } = error as NodeJS.ErrnoException)
    }
  }
  assert.equal(code, 'EPIPE')
  writing.closeSync()
}

/** Casts the reading end to a `net.Socket` that can only be read. */
export async function castReadingEnd(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toSocket()
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

/** Casts the writing end to a `net.Socket` that can only be written. */
export async function castWritingEnd(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toSocket()
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

/** Casts a master to a `net.Socket`, answers, and waits until the slave has read that: a close of the master discards what was not read. */
export async function castMaster(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toSocket()
  assertGivenAway(descriptor)
  const [data] = (await once(socket, 'data')) as [Buffer]
  assert.equal(String(data), 'ping')
  socket.write('pong')
  assert.equal(String(((await once(socket, 'data')) as [Buffer])[0]), 'seen')
  assert.deepEqual([socket.readable, socket.writable], [true, true])
  socket.destroy()
  await once(socket, 'close')
}

/** Casts a slave to a `net.Socket`, and answers. */
export async function castSlave(channel: UnixSocket): Promise<void> {
  const descriptor = await receiveDescriptor(channel)
  const socket = descriptor.toSocket()
  assertGivenAway(descriptor)
  assert.deepEqual([socket.readable, socket.writable], [true, true])
  const [data] = (await once(socket, 'data')) as [Buffer]
  assert.equal(String(data), 'ping')
  await new Promise((resolve) => socket.write('pong', resolve))
  socket.destroy()
  await once(socket, 'close')
}
