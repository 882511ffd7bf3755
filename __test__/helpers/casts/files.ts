import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { type FileStreamOptions, type UnixSocket, memfd } from 'fdpass'
import { temporaryFile } from '../descriptors.ts'
import { assertGivenAway, readToEnd, receiveDescriptor } from './common.ts'

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
