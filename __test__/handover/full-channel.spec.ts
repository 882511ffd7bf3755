import { connect as dial } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type UnixSocket, handOver, receiveConnection } from 'fdpass'
import { assertWorks, drain, fill, next, open, openChannel, readAllOf, say } from '../helpers/connections.ts'
import { isPending, turns } from '../helpers/promises.ts'

const MEBIBYTE = 1024 * 1024

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
    order.push(`${message.data} ${message.fds.length}`)
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

test('a connection whose message was sent in part is not read any more, and goes with the rest', async (t) => {
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
