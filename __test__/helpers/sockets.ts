import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import type { EventEmitter } from 'node:events'
import { closeSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import {
  Descriptor,
  type Message,
  type RecvOptions,
  type UnixServer,
  UnixSocket,
  type UnixStream,
  bind,
  bindListener,
  connect,
  listen,
  socketpair
} from 'fdpass'
import type { USocket, USocketRead } from 'fdpass/usocket'
import { countFds, hasWriter, newFolder, openPipe, readAll } from './descriptors.ts'
import { isPending } from './promises.ts'

/** Whether this machine has IPv6. */
export const hasIPv6 = canListen('::1')

function canListen(host: string): boolean {
  try {
    bindListener({ port: 0, host }).closeSync()
    return true
  } catch {
    return false
  }
}

/** The bytes of a message as text; null at the end of a connection. */
export function text(message: { readonly data: Uint8Array } | null | undefined): string | null {
  return message ? Buffer.from(message.data).toString() : null
}

/** Runs a test on a new pair, over which nothing may go and after which as much must be open as before. */
export async function withPair(
  t: ExecutionContext,
  body: (a: UnixSocket, b: UnixSocket) => void | Promise<void>
): Promise<void> {
  const [a, b] = socketpair()
  const before = countFds()
  await body(a, b)
  t.is(countFds(), before)
  await a.send('nothing before')
  const message = (await b.recv())!
  t.is(text(message), 'nothing before')
  t.deepEqual(message.fds, [])
  a.close()
  b.close()
}

/** That a server takes connections, and that none came to it before this one. */
export async function takesConnections(t: ExecutionContext, server: UnixServer): Promise<void> {
  const client = await connect(server.address)
  await client.send('the first')
  const connection = await server.accept()
  t.is(text(await connection.recv()), 'the first')
  const controller = new AbortController()
  const next = server.accept({ signal: controller.signal })
  t.true(await isPending(next))
  controller.abort()
  await t.throwsAsync(next, { name: 'AbortError' })
  client.close()
  connection.close()
}

/** That a datagram socket receives, and that nothing came to it before. */
export async function takesDatagrams(t: ExecutionContext, receiver: UnixSocket): Promise<void> {
  const sender = bind(null)
  await sender.send('the first', { to: receiver.localAddress! })
  const message = (await receiver.recv())!
  t.is(text(message), 'the first')
  t.deepEqual(message.fds, [])
  sender.close()
}

/** That two connected sockets work, and that nothing came to them before. */
export async function areConnected(t: ExecutionContext, a: UnixSocket, b: UnixSocket): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a]
  ] as const) {
    await from.send('the first')
    t.is(text(await to.recv()), 'the first')
  }
}

/** Closes sockets also where the test fails: collected later, they would change another test's count. */
export function closeAtLast(t: ExecutionContext, ...sockets: readonly (UnixServer | UnixSocket)[]): void {
  t.teardown(() => {
    for (const socket of sockets) socket.close()
  })
}

/** An abstract address of so many bytes. */
export function abstractOf(length: number): string {
  return `\0fdpass-${process.pid}-`.padEnd(length, 'x')
}

/** Leaves a file at a path as a socket does that was closed by the end of its process. */
export function leaveSocket(path: string): void {
  closeSync(bind(path).release())
}

/** Creates files in a folder that are not sockets. Returns the path of each. */
export function putOthers(folder: string): Record<string, string> {
  const path = (name: string) => join(folder, name)
  writeFileSync(path('file'), 'content of the file')
  mkdirSync(path('folder'))
  execFileSync('mkfifo', [path('fifo')])
  symlinkSync(path('file'), path('link'))
  symlinkSync(path('nowhere'), path('dangling'))
  leaveSocket(path('left'))
  symlinkSync(path('left'), path('link to a socket'))
  const names = ['file', 'folder', 'fifo', 'link', 'dangling', 'link to a socket']
  return Object.fromEntries(names.map((name) => [name, path(name)]))
}

/** That a server goes on behind a connection that already waits. */
export async function takesConnectionsAfter(
  t: ExecutionContext,
  server: UnixServer,
  client: UnixSocket
): Promise<void> {
  const connection = await server.accept()
  await areConnected(t, client, connection)
  client.close()
  connection.close()
  await takesConnections(t, server)
  server.close()
}

/** Whether the peer of a socket has closed, by its end. */
export async function hasEnded(socket: UnixSocket): Promise<boolean> {
  try {
    return (await socket.recv()) === null
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ECONNRESET'
  }
}

/** Takes one message out of a new iteration and leaves it; the rest may have been received ahead. */
export async function takeOne(socket: UnixSocket): Promise<Message> {
  for await (const message of socket) return message
  throw new Error('The connection has ended')
}

/** Sends messages '0', '1', … with one descriptor each, so that a stream keeps them apart. */
export async function sendNumbered(socket: UnixSocket, fd: number, count: number, from = 0): Promise<void> {
  for (let i = from; i < from + count; i++) await socket.sendFd(fd, String(i))
}

/** The results of several receives, joined. */
export interface Stretch {
  readonly data: Buffer
  readonly fds: readonly Descriptor[]
  /** For each descriptor, the first and the last byte of its receive. */
  readonly within: readonly (readonly [number, number])[]
}

/** Receives so many bytes of a stream. */
export async function receiveBytes(socket: UnixSocket, length: number, options?: RecvOptions): Promise<Stretch> {
  const parts: Uint8Array[] = []
  const fds: Descriptor[] = []
  const within: [number, number][] = []
  let received = 0
  while (received < length) {
    const message = await socket.recv(options)
    if (message === null) throw new Error(`The stream ended after ${received} bytes`)
    for (const fd of message.fds) {
      fds.push(fd)
      within.push([received, received + message.data.length - 1])
    }
    parts.push(message.data)
    received += message.data.length
  }
  return { data: Buffer.concat(parts), fds, within }
}

/** What each descriptor's file holds; closes them. */
export function contentsOf(fds: readonly Descriptor[]): string[] {
  const contents = fds.map(({ fd }) => readAll(fd))
  fds.forEach((fd) => fd.closeSync())
  return contents
}

/** Receives a message that another program has to send soon. */
export async function receiveSoon(socket: UnixSocket): Promise<Message> {
  const message = await socket.recv({ signal: AbortSignal.timeout(30_000) })
  if (message === null) throw new Error('The connection has ended')
  return message
}

/** Receives the descriptor that the other side has sent. */
export async function receiveDescriptor(channel: UnixSocket): Promise<Descriptor> {
  return (lastDescriptor = (await channel.recvFd())!.fd!)
}

/** The descriptor that `receiveDescriptor` has received last. */
export let lastDescriptor: Descriptor | undefined

/** Asserts that a descriptor that was cast has given its number away. */
export function assertGivenAway(descriptor: Descriptor): void {
  assert.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
}

/** Reads a stream by lengths, for protocols with length prefixes. */
export class Reader {
  /** The received descriptors that were not taken yet. */
  readonly fds: Descriptor[] = []
  #bytes = Buffer.alloc(0)
  readonly #socket: UnixSocket

  constructor(socket: UnixSocket) {
    this.#socket = socket
  }

  /** The next bytes, so many. */
  async take(length: number): Promise<Buffer> {
    while (this.#bytes.length < length) {
      const { data, fds } = await receiveSoon(this.#socket)
      this.#bytes = Buffer.concat([this.#bytes, data])
      this.fds.push(...fds)
    }
    const taken = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return taken
  }
}

/** Resolves at an event, errors or not. */
export const eventOf = (emitter: EventEmitter, name: string) =>
  new Promise<unknown>((done) => emitter.once(name, (value: unknown) => done(value)))

/** Reads so much as soon as it is there, as programs written to usocket do. */
export function readWhenThere(socket: USocket, size: number | null, count: number | null): Promise<USocketRead> {
  return new Promise((done) => {
    const look = () => {
      const message = socket.read(size, count)
      if (message === null) return
      socket.removeListener('readable', look)
      done(message)
    }
    socket.on('readable', look)
    look()
  })
}

/** Asserts that a stream holds at most 506 descriptors of unread bytes, and delivers all others as the bytes are read. */
export async function assertBackPressure(t: ExecutionContext, stream: Duplex, socket: UnixSocket): Promise<void> {
  const { read, write } = openPipe()
  const received: (number | Descriptor)[] = []
  stream.on('fds', (fds: number[] | Descriptor[]) => received.push(...fds))
  stream.read(0)
  const messages = Array.from({ length: 8 }, () => socket.send('x', { fds: Array.from({ length: 100 }, () => write) }))
  await Promise.all(messages)
  while (stream.readableLength < 3) await new Promise((done) => setImmediate(done))
  for (let i = 0; i < 100; i++) await new Promise((done) => setImmediate(done)) // the event loop reports everything meanwhile
  t.true(received.length <= 506, `${received.length} descriptors`)
  for (let bytes = 0; bytes < 8; await new Promise((done) => setImmediate(done))) {
    if (stream.read(1) !== null) bytes++
  }
  t.is(received.length, 800)
  for (const fd of [write, ...received]) closeSync(typeof fd === 'number' ? fd : fd.release())
  t.false(hasWriter(read))
  closeSync(read)
}

/** Resolves at an event, errors or not. */
export const event = (emitter: EventEmitter, name: string) =>
  new Promise<unknown>((resolve) => emitter.once(name, (value: unknown) => resolve(value)))

/** A stream, and the socket at its other end; both end with the test. */
export function openStream(t: ExecutionContext): { stream: UnixStream; socket: UnixSocket } {
  const [ours, socket] = socketpair()
  const stream = ours.toStream()
  t.teardown(() => {
    stream.destroy()
    socket.close()
  })
  return { stream, socket }
}

/** Opens and closes a server and a connection: what the first socket of a process opens for good is open before a test counts descriptors. */
export async function openFirstSockets(): Promise<void> {
  const server = await listen(join(newFolder(), 'first'))
  const waiting = server.accept()
  const client = await connect(server.address)
  const connection = await waiting
  for (const socket of [server, client, connection]) socket.close()
}

/** Waits until a pipe has no writing end, in a process or in a message. Resolves to false if it still has one. */
export async function isReleased(read: number): Promise<boolean> {
  for (let wait = 0; wait < 1000 && hasWriter(read); wait++) {
    await delay(20)
    // What is closed while Linux collects is left to the close of another socket (net/unix/garbage.c, gc_in_progress).
    for (const socket of socketpair()) socket.close()
  }
  return !hasWriter(read)
}
