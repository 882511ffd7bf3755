import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { ReadStream } from 'node:fs'
import { type AddressInfo, type NetConnectOpts, Server, type ServerOpts, Socket, connect as dial } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import {
  type Address,
  type ConnectOptions,
  type SocketType,
  type UnixSocket,
  connect,
  receiveConnection,
  socketpair
} from 'fdpass'
import { temporaryFolder } from './descriptors.ts'
import { runs } from './processes.ts'

/** Connects to another program's socket, as soon as that has made it. */
export async function connectWhenThere(address: Address, options?: ConnectOptions): Promise<UnixSocket> {
  const deadline = performance.now() + 120_000
  for (;;) {
    try {
      return await connect(address, options)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if ((code !== 'ENOENT' && code !== 'ECONNREFUSED') || performance.now() > deadline) throw error
    }
    await delay(20)
  }
}

/** The length and the digest of some bytes. */
export function digest(data: Uint8Array): string {
  return `${data.length} ${createHash('sha256').update(data).digest('hex')}`
}

/** Reads a connection up to its end. */
export async function readAllOf(connection: Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  connection.on('data', (part: Buffer) => parts.push(part))
  if (!connection.readableEnded) await once(connection, 'end')
  return Buffer.concat(parts)
}

/** Reads a socket or a stream up to its end; an error counts as the end, and its code is appended. */
export async function readToEnd(socket: Socket | ReadStream): Promise<string> {
  let seen = ''
  try {
    for await (const chunk of socket) seen += String(chunk)
  } catch (error) {
    seen += ` ${(error as NodeJS.ErrnoException).code}`
  }
  return seen
}

/** Answers a connection with the length and the digest of all that it sent. The client checks for errors. */
export function answer(connection: Socket): void {
  connection.on('error', () => {})
  readAllOf(connection).then(
    (data) => connection.end(digest(data)),
    () => {}
  )
}

/** Both ends of a new connection, TCP or Unix domain; nothing was read of the server's. */
export async function openConnection(
  options: ServerOpts = {},
  path?: string
): Promise<{ client: Socket; connection: Socket }> {
  const server = new Server({ allowHalfOpen: true, ...options })
  if (path === undefined) server.listen(0, '127.0.0.1')
  else server.listen(path)
  await once(server, 'listening')
  const address: NetConnectOpts = path === undefined ? { port: (server.address() as AddressInfo).port } : { path }
  const client = dial({ host: '127.0.0.1', allowHalfOpen: true, ...address })
  const [[connection]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[Socket], []]
  server.close()
  return { client, connection }
}

export const MEBIBYTE = 1024 * 1024

/** A channel that is closed with the test. */
export function openChannel(t: ExecutionContext, type: SocketType = 'stream'): [UnixSocket, UnixSocket] {
  const channel = socketpair({ type })
  t.teardown(() => channel.forEach((end) => end.close()))
  return channel
}

/** A connection, destroyed at the end of the test, of which Node has read all that the client sent. */
export async function open(
  t: ExecutionContext,
  said = '',
  options = {}
): Promise<{ client: Socket; connection: Socket }> {
  const pair = await openConnection(options)
  pair.client.on('error', () => {}) // of a receiver that does not read
  t.teardown(() => Object.values(pair).forEach((socket) => socket.destroy()))
  if (said !== '') await say(pair, said)
  return pair
}

/** The client sends a text, and Node reads it. */
export async function say({ client, connection }: { client: Socket; connection: Socket }, said: string): Promise<void> {
  const expected = connection.readableLength + said.length
  client.write(said)
  while (connection.readableLength < expected) await delay(1)
}

/** Fills a channel, so that a message has to wait for room. */
export function fill(channel: UnixSocket): Promise<void> {
  const filling = channel.send(Buffer.alloc(4 * MEBIBYTE))
  filling.catch(() => {}) // the test ends with it on its way
  return filling
}

/** Receives a number of bytes, and none of the message behind them: Linux returns a message with a descriptor together with plain bytes before it. */
export async function drain(channel: UnixSocket, bytes: number): Promise<void> {
  for (let left = bytes; left > 0;) left -= (await channel.recv({ maxBytes: Math.min(left, 65_536) }))!.data.length
}

/** A connection that was handed over; it is destroyed with the test. */
export async function receive(t: ExecutionContext, channel: UnixSocket, options = {}): Promise<Socket> {
  const received = (await receiveConnection(channel, options))!
  t.teardown(() => received.destroy())
  return received
}

/** What is read next. */
export async function next(connection: Socket): Promise<string> {
  return String(((await once(connection, 'data')) as [Buffer])[0])
}

/** Asserts that a connection is intact: each end reads all that the other end writes, beginning with `unread`. */
export async function assertWorks(
  t: ExecutionContext,
  { client, connection }: { client: Socket; connection: Socket },
  unread: string
): Promise<void> {
  t.false(connection.destroyed)
  const heard = [readAllOf(connection), readAllOf(client)]
  client.end('more')
  connection.end('answer')
  t.deepEqual((await Promise.all(heard)).map(String), [`${unread}more`, 'answer'])
}

/** A server on a port of this machine that ends with the test. */
export async function listen<S extends Server>(t: ExecutionContext, server: S): Promise<{ server: S; port: number }> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { server, port: (server.address() as AddressInfo).port }
}

export const hasOpenssl = runs('openssl', 'version')

/** Makes a key and a certificate for localhost, and returns their folder. */
export function makeKey(): string {
  const folder = temporaryFolder()
  const files = ['-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')]
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=localhost']
  execFileSync('openssl', ['req', '-x509', ...key, ...files], { stdio: 'ignore' })
  return folder
}
