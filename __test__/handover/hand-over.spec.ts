import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Agent, Server as HttpServer, get } from 'node:http'
import { type AddressInfo, Server, Socket, connect as dial } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import test, { type ExecutionContext } from 'ava'
import { type SocketType, type UnixSocket, handOver, receiveConnection, socketpair } from 'fdpass'
import { type Loose, TYPE, VALUE, notSignals, rejects } from '../helpers/arguments.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { digest, openConnection, readAllOf } from '../helpers/connections.ts'
import { openFile, temporaryFolder } from '../helpers/descriptors.ts'
import { startFixture, startPython } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'

const types: SocketType[] = process.platform === 'darwin' ? ['stream', 'dgram'] : ['stream', 'seqpacket', 'dgram']
const withPython = onlyIf(hasPython, 'needs Python 3.9')
const MEBIBYTE = 1024 * 1024

/** A channel that is closed with the test. */
function openChannel(t: ExecutionContext, type: SocketType = 'stream'): [UnixSocket, UnixSocket] {
  const channel = socketpair({ type })
  t.teardown(() => channel.forEach((end) => end.close()))
  return channel
}

/** A connection that is destroyed with the test, of which Node has read what the client has said. */
async function open(t: ExecutionContext, said = '', options = {}): Promise<{ client: Socket; connection: Socket }> {
  const pair = await openConnection(options)
  pair.client.on('error', () => {}) // of a receiver that does not read
  t.teardown(() => Object.values(pair).forEach((socket) => socket.destroy()))
  if (said !== '') await say(pair, said)
  return pair
}

/** The client says something, and Node reads it. */
async function say({ client, connection }: { client: Socket; connection: Socket }, said: string): Promise<void> {
  const expected = connection.readableLength + said.length
  client.write(said)
  while (connection.readableLength < expected) await delay(1)
}

/** Fills a channel, so that a message has to wait for room. */
function fill(channel: UnixSocket): Promise<void> {
  const filling = channel.send(Buffer.alloc(4 * MEBIBYTE))
  filling.catch(() => {}) // the test ends with it on its way
  return filling
}

/** Receives so many bytes, and none of the message behind them: Linux gives those with a descriptor along with plain ones before. */
async function drain(channel: UnixSocket, bytes: number): Promise<void> {
  for (let left = bytes; left > 0;) left -= (await channel.recv({ maxBytes: Math.min(left, 65_536) }))!.data.length
}

/** A connection that was handed over; it is destroyed with the test. */
async function receive(t: ExecutionContext, channel: UnixSocket, options = {}): Promise<Socket> {
  const received = (await receiveConnection(channel, options))!
  t.teardown(() => received.destroy())
  return received
}

/** What is read next. */
async function next(connection: Socket): Promise<string> {
  return String(((await once(connection, 'data')) as [Buffer])[0])
}

/** The connection works as if nothing had been: both ends hear all that is said, beginning with `unread`. */
async function assertWorks(
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
  await delay(1)
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

test('a channel that is closed in the middle of a message closes the connection that has come', async (t) => {
  const [a, b] = openChannel(t)
  const { client, connection } = await open(t)
  await handOver(a, connection, () => Buffer.from([0, 0, 0, 9]))
  const receiving = receiveConnection(b)
  t.true(await isPending(receiving))
  b.close()
  await t.throwsAsync(receiving, { code: 'ERR_SOCKET_CLOSED' })
  t.is(String(await readAllOf(client)), '')
})

test('a channel that is closed after an abort in the middle of a message closes the connection that has come', async (t) => {
  const [a, b] = openChannel(t)
  const { client, connection } = await open(t)
  await handOver(a, connection, () => Buffer.from([0, 0, 0, 9]))
  const abort = new AbortController()
  const receiving = receiveConnection(b, { signal: abort.signal })
  t.true(await isPending(receiving))
  abort.abort()
  await t.throwsAsync(receiving, { code: 'ABORT_ERR' })
  b.close()
  t.is(String(await readAllOf(client)), '')
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

test('while the channel is full the bytes are back in the socket, and each attempt takes them again', async (t) => {
  const [a, b] = openChannel(t)
  const pair = await open(t, 'one')
  const filling = fill(a)
  const heads: string[] = []
  const handing = handOver(a, pair.connection, (head) => {
    heads.push(String(head))
    return 'carrier'
  })
  t.true(await isPending(handing))
  t.is(pair.connection.readableLength, 3)
  await say(pair, ', two')
  await drain(b, 4 * MEBIBYTE)
  await filling
  await handing
  t.is(heads.at(-1), 'one, two')
  t.true(pair.connection.destroyed)
  const { fds, data } = (await b.recv())!
  t.is(String(Buffer.from(data)), 'carrier')
  const received = fds[0]!.toSocket()
  received.end('answer')
  t.is(await next(pair.client), 'answer')
})

test('a connection keeps its place among the messages of the channel', async (t) => {
  const [a, b] = openChannel(t, 'seqpacket')
  const [first, second] = [await open(t), await open(t)]
  const order: string[] = []
  const sends = [
    a.send('before'),
    handOver(a, first.connection, () => 'first'),
    a.send('between'),
    handOver(a, second.connection, () => 'second'),
    a.send('after')
  ]
  for (let i = 0; i < sends.length; i++) {
    using message = (await b.recv())!
    order.push(`${Buffer.from(message.data)} ${message.fds.length}`)
  }
  await Promise.all(sends)
  t.deepEqual(order, ['before 0', 'first 1', 'between 0', 'second 1', 'after 0'])
})

test('an abort while the channel is full leaves the connection here, with not a byte missing', async (t) => {
  const [a] = openChannel(t)
  const pair = await open(t, 'head, ')
  void fill(a)
  const reason = new Error('changed my mind')
  const abort = new AbortController()
  const handing = handOver(a, pair.connection, undefined, { signal: abort.signal })
  await turns()
  abort.abort(reason)
  await t.throwsAsync(handing, { name: 'AbortError', code: 'ABORT_ERR' })
  await t.throwsAsync(handOver(a, pair.connection, undefined, { signal: AbortSignal.abort(reason) }), {
    code: 'ABORT_ERR'
  })
  await assertWorks(t, pair, 'head, ')
})

test('an abort ends the wait for writing and for connecting', async (t) => {
  const [a] = openChannel(t)
  const { client, connection } = await open(t)
  client.pause()
  connection.write(Buffer.alloc(16 * MEBIBYTE))
  const signal = AbortSignal.timeout(10)
  await t.throwsAsync(handOver(a, connection, undefined, { signal }), { code: 'ABORT_ERR' })
  t.false(connection.destroyed)
  const connecting = dial({ port: 9, host: 'localhost', lookup: () => {} }) // never looked up
  const handing = handOver(a, connecting, undefined, { signal: AbortSignal.timeout(10) })
  await t.throwsAsync(handing, { code: 'ABORT_ERR' })
  connecting.destroy()
})

test('a channel that has ended leaves the connection here, with not a byte missing', async (t) => {
  const [a, b] = openChannel(t)
  const pair = await open(t, 'head, ')
  b.close()
  await t.throwsAsync(handOver(a, pair.connection), { code: 'EPIPE' })
  await assertWorks(t, pair, 'head, ')
})

test('a channel that is closed while it is full leaves the connection here', async (t) => {
  for (const close of [(a: UnixSocket) => a.close(), (_: UnixSocket, b: UnixSocket) => b.close()]) {
    const [a, b] = openChannel(t)
    const pair = await open(t, 'head, ')
    void fill(a)
    const handing = handOver(a, pair.connection)
    await turns()
    close(a, b)
    const { code } = (await t.throwsAsync<NodeJS.ErrnoException>(handing))!
    t.true(['ERR_SOCKET_CLOSED', 'EPIPE', 'ECONNRESET'].includes(code!))
    await assertWorks(t, pair, 'head, ')
  }
})

test('what message does wrong leaves the connection here', async (t) => {
  const [a, b] = openChannel(t)
  const failures: [() => unknown, object][] = [
    [
      () => {
        throw new RangeError('no message')
      },
      { instanceOf: RangeError, message: 'no message' }
    ],
    ...[undefined, null, 5, {}, '', new Uint8Array(), [1], new ArrayBuffer(1)].map((wrong): [() => unknown, object] => [
      () => wrong,
      { code: 'ERR_INVALID_RETURN_VALUE' }
    ])
  ]
  const pair = await open(t, 'head, ')
  for (const [message, expectation] of failures) {
    await t.throwsAsync(handOver(a, pair.connection, message as () => string), expectation)
    t.is(pair.connection.readableLength, 6)
  }
  await assertWorks(t, pair, 'head, ')
  t.true(await isPending(b.recv()))
})

test('an empty message goes where packets are kept apart', async (t) => {
  const [a, b] = openChannel(t, 'dgram')
  const { client, connection } = await open(t)
  await handOver(a, connection, () => '')
  const { data, fds } = (await b.recv())!
  t.is(data.length, 0)
  fds[0]!.toSocket().end('arrived')
  t.is(await next(client), 'arrived')
})

test('what message closes, ends or sends meanwhile is noticed', async (t) => {
  const [a, b] = openChannel(t)
  const destroyed = await open(t, 'head')
  const destroy = () => {
    destroyed.connection.destroy()
    return 'x'
  }
  await t.throwsAsync(handOver(a, destroyed.connection, destroy), { code: 'ERR_SOCKET_CLOSED' })

  const sending = await open(t, 'head, ')
  let other: Promise<void> | undefined
  const send = () => {
    const file = openFile('sent by message')
    other ??= a.sendFd(file, 'y').finally(() => closeSync(file))
    return 'x'
  }
  await handOver(a, sending.connection, send)
  await other
  const arrived = [(await b.recvFd())!, (await b.recvFd())!]
  t.deepEqual(
    arrived.map(({ fd, data }) => [String(Buffer.from(data)), fd!.kind]),
    [
      ['x', 'tcp'],
      ['y', 'file']
    ]
  )
  arrived.forEach(({ fd }) => fd!.closeSync())

  const abort = new AbortController()
  const aborting = await open(t, 'head, ')
  const { signal } = abort
  const stop = () => {
    abort.abort()
    return 'x'
  }
  await t.throwsAsync(handOver(a, aborting.connection, stop, { signal }), { code: 'ABORT_ERR' })
  await assertWorks(t, aborting, 'head, ')

  const closing = await open(t, 'head, ')
  const close = () => {
    a.close()
    return 'x'
  }
  await t.throwsAsync(handOver(a, closing.connection, close), { code: 'ERR_SOCKET_CLOSED' })
  await assertWorks(t, closing, 'head, ')
  t.is(await b.recv(), null)
})

function padded(head: Uint8Array): Uint8Array {
  return Buffer.concat([head, Buffer.alloc(4 * MEBIBYTE)])
}

/** Hands a connection over in a message of which only a part has room. */
async function handOverInPart(t: ExecutionContext, signal?: AbortSignal) {
  const [a, b] = openChannel(t)
  const pair = await open(t, 'head, ')
  const handing = handOver(a, pair.connection, padded, signal && { signal })
  handing.catch(() => {})
  const { data, fds } = (await b.recv({ maxBytes: 6 }))! // the descriptor has gone, with the first byte
  t.is(String(Buffer.from(data)), 'head, ')
  pair.client.write('said meanwhile, ')
  await delay(5)
  t.true(await isPending(handing))
  return { a, b, pair, handing, fd: fds[0]! }
}

test('a connection whose message has gone in part is not read any more, and goes with the rest', async (t) => {
  const { b, pair, handing, fd } = await handOverInPart(t)
  t.false(pair.connection.destroyed)
  await drain(b, 4 * MEBIBYTE)
  await handing
  t.true(pair.connection.destroyed)
  const received = fd.toSocket()
  t.is(await next(received), 'said meanwhile, ')
})

test('an abort in the middle of a message ends the channel, and the connection goes on here', async (t) => {
  const abort = new AbortController()
  const { a, b, pair, handing, fd } = await handOverInPart(t, abort.signal)
  abort.abort()
  await t.throwsAsync(handing, { code: 'ABORT_ERR' })
  fd.closeSync()
  await assertWorks(t, pair, 'head, said meanwhile, ')
  await t.throwsAsync(a.send('x'), { code: 'EPIPE' })
  for await (const message of b) message.close() // it ends
})

test('a receiver that dies in the middle of a message leaves the connection here', async (t) => {
  const { b, pair, handing, fd } = await handOverInPart(t)
  fd.closeSync()
  b.close()
  const { code } = (await t.throwsAsync<NodeJS.ErrnoException>(handing))!
  t.true(['EPIPE', 'ECONNRESET'].includes(code!))
  await assertWorks(t, pair, 'head, said meanwhile, ')
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

test('handOver refuses what cannot be handed over, and says why', async (t) => {
  const [a] = openChannel(t)
  const { connection } = await open(t, 'head')
  const refusals: [string, Socket, RegExp][] = [
    ['TLS', new TLSSocket(connection), /TLSSocket: its keys would stay behind/],
    ['new', new Socket(), /has no descriptor/],
    ['encoding', (await open(t)).connection.setEncoding('utf8'), /has an encoding/],
    ['destroyed', (await open(t)).connection.destroy(), /is destroyed/]
  ]
  for (const [what, socket, message] of refusals) await rejects(t, what, VALUE, () => handOver(a, socket), message)
})

test('wrong arguments reject, and the connection stays as it was', async (t) => {
  const [a] = openChannel(t)
  const pair = await open(t, 'head, ')
  const hand = handOver as unknown as Loose
  const take = receiveConnection as unknown as Loose
  for (const wrong of [undefined, null, 3, {}, pair.connection, Object.create(Object.getPrototypeOf(a))]) {
    await rejects(t, 'channel', TYPE, () => hand(wrong, pair.connection), /"channel" argument/)
    await rejects(t, 'channel', TYPE, () => take(wrong), /"channel" argument/)
  }
  for (const wrong of [undefined, null, 3, {}, a, new Server()]) {
    await rejects(t, 'socket', TYPE, () => hand(a, wrong), /"socket" argument must be an instance of net.Socket/)
  }
  for (const wrong of [null, 3, 'message', {}]) {
    await rejects(t, 'message', TYPE, () => hand(a, pair.connection, wrong), /"message" argument/)
  }
  for (const signal of notSignals) {
    await rejects(t, 'signal', TYPE, () => hand(a, pair.connection, undefined, { signal }))
    await rejects(t, 'signal', TYPE, () => take(a, { signal }))
  }
  for (const allowHalfOpen of [null, 0, 'yes', {}]) {
    await rejects(t, 'allowHalfOpen', TYPE, () => take(a, { allowHalfOpen }))
  }
  const [closed] = openChannel(t)
  closed.close()
  await rejects(t, 'closed', 'ERR_SOCKET_CLOSED', () => handOver(closed, pair.connection))
  await rejects(t, 'closed', 'ERR_SOCKET_CLOSED', () => receiveConnection(closed))
  await assertWorks(t, pair, 'head, ')
})

test('an aborted receiveConnection loses nothing, whatever has come of a message', async (t) => {
  const [a, b] = openChannel(t)
  const frame = Buffer.concat([Buffer.from([0, 0, 0, 4]), Buffer.from('head')])
  const { client, connection } = await open(t)
  for (let i = 0; i < frame.length; i++) {
    const abort = new AbortController()
    const receiving = receiveConnection(b, { signal: abort.signal })
    const behind = receiveConnection(b, { signal: abort.signal })
    if (i === 0) await handOver(a, connection, () => frame.subarray(0, 1))
    else await a.send(frame.subarray(i, i + 1))
    if (i === frame.length - 1) {
      const received = (await receiving)!
      t.is(await next(received), 'head')
      received.end('arrived')
      t.is(await next(client), 'arrived')
    } else {
      await turns()
      abort.abort()
      await t.throwsAsync(receiving, { code: 'ABORT_ERR' })
    }
    abort.abort()
    await t.throwsAsync(behind, { code: 'ABORT_ERR' })
  }
})

test('the end of the channel gives null, to each who waits', async (t) => {
  const [a, b] = openChannel(t)
  const waiting = [receiveConnection(b), receiveConnection(b)]
  a.close()
  t.deepEqual(await Promise.all(waiting), [null, null])
  t.is(await receiveConnection(b), null)
})

test('what is no connection in a frame is refused, and nothing of it is left open', async (t) => {
  const file = openFile('no connection')
  t.teardown(() => closeSync(file))
  const cases: [string, (a: UnixSocket) => unknown, object, SocketType?][] = [
    ['bytes', (a) => a.send('GET / HTTP/1.1'), { code: 'EPROTO', message: /without a connection/ }],
    ['file', (a) => a.sendFd(file, Buffer.alloc(4)), { code: 'ERR_INVALID_FD_TYPE' }],
    ['two', (a) => a.send(Buffer.alloc(4), { fds: [file, file] }), { code: 'ERR_TOO_MANY_DESCRIPTORS' }],
    ['long', (a) => a.sendFd(file, Buffer.alloc(8, 255)), { code: 'EPROTO', message: /4294967295 bytes/ }],
    [
      'inside',
      (a) => Promise.all([a.sendFd(file, Buffer.from([0, 0, 0, 9])), a.sendFd(file, 'x'.repeat(9))]),
      { code: 'EPROTO', message: /inside of a message/ }
    ],
    [
      'end',
      async (a) => {
        await a.sendFd(file, Buffer.from([0, 0, 0, 9, 1]))
        a.close()
      },
      { code: 'EPROTO', message: /ended inside/ }
    ],
    ['short', (a) => a.sendFd(file, 'ab'), { code: 'EPROTO', message: /as long as it says/ }, 'dgram'],
    ['short', (a) => a.sendFd(file, Buffer.from([0, 0, 0, 9, 1])), { code: 'EPROTO' }, 'dgram'],
    ['none', (a) => a.send(Buffer.alloc(4)), { code: 'EPROTO', message: /without a connection/ }, 'dgram']
  ]
  for (const [what, send, expectation, type = 'stream'] of cases) {
    const [a, b] = openChannel(t, type)
    const receiving = receiveConnection(b)
    receiving.catch(() => {})
    await send(a)
    await t.throwsAsync(receiving, expectation, what)
    if (a.closed) continue
    const { client, connection } = await open(t, 'head')
    await handOver(a, connection)
    const isLost = type === 'stream' && (expectation as { code: string }).code === 'EPROTO'
    if (isLost) {
      await t.throwsAsync(receiveConnection(b), expectation, `${what}, again`)
      continue
    }
    const received = await receive(t, b)
    t.is(await next(received), 'head', what)
    received.end('arrived')
    t.is(await next(client), 'arrived')
  }
})

withPython('a Python program hands a connection over by the same few bytes, and receives one', async (t) => {
  const { socket: channel, done } = startPython('connections')
  const received = await receive(t, channel)
  received.write('to Python, ')
  let said = ''
  while (said.length < 24) said += await next(received)
  t.is(said, 'read by Python, and more')
  const { client, connection } = await open(t, 'read by Node, ')
  await handOver(channel, connection)
  client.end('and more')
  t.is(String(await readAllOf(client)), 'READ BY NODE, AND MORE')
  received.end('done')
  t.is(await done, 'to Python, done\n')
  channel.close()
})

/** A server on a port of this machine that ends with the test. */
async function listen<S extends Server>(t: ExecutionContext, server: S): Promise<{ server: S; port: number }> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { server, port: (server.address() as AddressInfo).port }
}

test('an HTTP upgrade goes to another process with its request and what follows it', async (t) => {
  const { socket: channel, done } = startFixture('hand-over')
  const { server, port } = await listen(t, new HttpServer())
  const upgraded = once(server, 'upgrade')
  const client = dial({ port, host: '127.0.0.1', allowHalfOpen: true })
  const request = `GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: words\r\n\r\n`
  client.write(`${request}early words, `)
  const [, connection, head] = (await upgraded) as [unknown, Socket, Buffer]
  connection.unshift(head)
  await handOver(channel, connection)
  client.end('late words')
  t.is(String(await readAllOf(client)), digest(Buffer.from('early words, late words')))
  channel.close()
  t.is(await done, '')
})

test('an HTTP server of another process answers on connections that are handed over', async (t) => {
  const { socket: channel, done } = startFixture('hand-over', ['http'])
  const { port } = await listen(
    t,
    new Server({ allowHalfOpen: true, pauseOnConnect: true }, (connection) => void handOver(channel, connection))
  )
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  for (const path of ['/one', '/two']) {
    const [response] = await once(get({ port, path, agent }), 'response')
    t.is(String(((await response.toArray()) as Buffer[]).join('')), `GET ${path}`)
  }
  agent.destroy()
  channel.close()
  t.is(await done, '')
})
