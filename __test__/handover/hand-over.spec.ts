import { once } from 'node:events'
import { type AddressInfo, Server, Socket, connect as dial } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { type SocketType, handOver, receiveConnection } from 'fdpass'
import { VALUE } from '../helpers/arguments.ts'
import {
  assertWorks,
  digest,
  drain,
  fill,
  next,
  open,
  openChannel,
  openConnection,
  readAllOf,
  receive,
  say
} from '../helpers/connections.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'

const types: SocketType[] = process.platform === 'darwin' ? ['stream', 'dgram'] : ['stream', 'seqpacket', 'dgram']

const MEBIBYTE = 1024 * 1024

for (const type of types) {
  test(`a connection goes to another process with what Node has read of it, channel ${type}`, async (t) => {
    const { socket: channel, child, done } = startFixture('hand-over', [], { type })
    const { client, connection } = await open(t, 'first, ')
    await handOver(channel, connection)
    t.true(connection.destroyed)
    client.end('then')
    t.is(String(await readAllOf(client)), digest(Buffer.from('first, then')))
    channel.close()
    if (type === 'dgram') child.kill() // its channel never ends
    await (type === 'dgram' ? t.throwsAsync(done) : done)
  })
}

test('a Unix domain connection is handed over', async (t) => {
  const [a, b] = openChannel(t)
  const pair = await openConnection({}, join(temporaryFolder(), 's'))
  await say(pair, 'over a path')
  await handOver(a, pair.connection)
  const received = await receive(t, b)
  t.is(await next(received), 'over a path')
  received.end('answer')
  t.is(await next(pair.client), 'answer')
  pair.client.destroy()
})

test('connections arrive in the order in which they were handed over, each with its own head', async (t) => {
  const [a, b] = openChannel(t)
  const pairs = await Promise.all(Array.from({ length: 20 }, (_, i) => open(t, `head ${i}`.repeat(i * 100))))
  const receiving = pairs.map(() => receiveConnection(b))
  await Promise.all(pairs.map(({ connection }) => handOver(a, connection)))
  for (const [i, promise] of receiving.entries()) {
    const received = (await promise)!
    pairs[i]!.client.end('.')
    t.is(String(await readAllOf(received)), `${`head ${i}`.repeat(i * 100)}.`)
    received.destroy()
  }
})

test("a paused socket's listener gets nothing of what is handed over", async (t) => {
  const [a, b] = openChannel(t)
  const pair = await open(t)
  const heard: string[] = []
  pair.connection.on('data', (data) => heard.push(String(data)))
  pair.client.write('consumed')
  await once(pair.connection, 'data')
  pair.connection.pause()
  await say(pair, 'buffered')
  await handOver(a, pair.connection)
  t.deepEqual(heard, ['consumed'])
  const received = await receive(t, b)
  t.is(await next(received), 'buffered')
})

test('a flowing socket is paused from the call on, and flows again after a failure', async (t) => {
  const [a] = openChannel(t)
  const pair = await open(t)
  let heard = ''
  pair.connection.on('data', (data) => (heard += String(data)))
  void fill(a)
  const abort = new AbortController()
  const handing = handOver(a, pair.connection, undefined, { signal: abort.signal })
  await say(pair, 'while it waits')
  t.is(heard, '')
  abort.abort()
  await t.throwsAsync(handing, { name: 'AbortError' })
  if (heard === '') await once(pair.connection, 'data')
  t.is(heard, 'while it waits')
  await assertWorks(t, pair, '')
})

test('handOver waits until the socket is connected', async (t) => {
  const [a, b] = openChannel(t)
  const server = new Server()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const connecting = dial({ port: (server.address() as AddressInfo).port, host: 'localhost', family: 4 })
  t.true(connecting.connecting)
  const [[accepted]] = await Promise.all([once(server, 'connection') as Promise<[Socket]>, handOver(a, connecting)])
  const received = await receive(t, b)
  received.end('from elsewhere')
  t.is(await next(accepted), 'from elsewhere')
  accepted.destroy()
  server.close()
})

test('handOver rejects with the error of a socket that cannot connect, and leaves none unhandled', async (t) => {
  const [a] = openChannel(t)
  const server = new Server().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  await t.throwsAsync(handOver(a, dial(port, '127.0.0.1')), { code: 'ECONNREFUSED' })
  const destroyed = dial(port, '127.0.0.1')
  const handing = handOver(a, destroyed)
  destroyed.destroy()
  await t.throwsAsync(handing, { code: 'ERR_SOCKET_CLOSED' })
})

test('handOver waits until everything is written', async (t) => {
  const [a, b] = openChannel(t)
  const { client, connection } = await open(t)
  client.pause()
  const written = Buffer.alloc(16 * MEBIBYTE, 'w')
  connection.write(written)
  t.true(connection.writableLength > 0)
  const handing = handOver(a, connection)
  t.true(await isPending(handing))
  const heard = readAllOf(client.resume())
  await handing
  const received = await receive(t, b)
  received.end('from elsewhere')
  t.is(digest(await heard), digest(Buffer.concat([written, Buffer.from('from elsewhere')])))
})

test('a channel that is closed while the socket is still writing is not mistaken for the next one of its number', async (t) => {
  const [a] = openChannel(t)
  const pair = await open(t, 'head, ')
  pair.client.pause()
  pair.connection.write(Buffer.alloc(16 * MEBIBYTE))
  const handing = handOver(a, pair.connection)
  await turns()
  a.close()
  const others = Array.from({ length: 4 }, () => openChannel(t)) // one of them has the number now
  pair.client.resume()
  await t.throwsAsync(handing, { code: 'ERR_SOCKET_CLOSED' })
  t.false(pair.connection.destroyed)
  t.is(pair.connection.readableLength, 6)
  for (const end of others.flat()) t.true(await isPending(end.recv()))
})

test('handOver waits for the end that was written, and the other half goes on elsewhere', async (t) => {
  const [a, b] = openChannel(t)
  const { client, connection } = await open(t)
  const written = Buffer.alloc(16 * MEBIBYTE, 'w')
  client.pause()
  connection.end(written)
  const handing = handOver(a, connection)
  t.true(await isPending(handing))
  const heard = readAllOf(client.resume())
  await handing
  t.is(digest(await heard), digest(written))
  client.end('still heard')
  const received = await receive(t, b)
  t.is(String(await readAllOf(received)), 'still heard')
})

test('an end that Node has read is read again behind the head', async (t) => {
  const [a, b] = openChannel(t)
  const pair = await open(t, 'all that there is')
  pair.client.end()
  await delay(10)
  await handOver(a, pair.connection)
  const received = await receive(t, b, { allowHalfOpen: true })
  t.is(String(await readAllOf(received)), 'all that there is')
  received.end('answered all the same')
  t.is(await next(pair.client), 'answered all the same')
})

test('a connection that is closed while it waits is not sent', async (t) => {
  const [a, b] = openChannel(t)
  const filling = fill(a)
  const [destroyed, reset] = [await open(t, 'head'), await open(t, 'head')]
  const handing = [handOver(a, destroyed.connection), handOver(a, reset.connection)]
  for (const promise of handing) promise.catch(() => {})
  await turns()
  destroyed.connection.destroy()
  reset.client.resetAndDestroy()
  await t.throwsAsync(handing[0]!, { code: 'ERR_SOCKET_CLOSED' })
  await t.throwsAsync(handing[1]!, { code: 'ECONNRESET' })
  await drain(b, 4 * MEBIBYTE)
  await filling
  t.true(await isPending(b.recv()))
})

test('a socket is handed over once', async (t) => {
  const [a, b] = openChannel(t)
  const { connection } = await open(t, 'head')
  void fill(a)
  const handing = [handOver(a, connection), handOver(a, connection)]
  const outcomes = Promise.allSettled(handing)
  await drain(b, 4 * MEBIBYTE)
  t.deepEqual((await outcomes).map(({ status }) => status).toSorted(), ['fulfilled', 'rejected'])
  await receive(t, b)
  await t.throwsAsync(handOver(a, connection), { code: VALUE })
  t.true(await isPending(b.recv()))
})
