import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Agent, Server as HttpServer, type IncomingMessage, createServer as createHttp, get } from 'node:http'
import { connect as connectHttp2, createServer as createHttp2 } from 'node:http2'
import { Server, Socket, connect as dial } from 'node:net'
import { TLSSocket } from 'node:tls'
import test, { type ExecutionContext } from 'ava'
import { type SocketType, UnixSocket, handOver, receiveConnection } from 'fdpass'
import { type Loose, TYPE, VALUE, notSignals, rejects } from '../helpers/arguments.ts'
import { hasPython, onlyIf, retainedBytes } from '../helpers/conditions.ts'
import {
  assertWorks,
  digest,
  listen,
  next,
  open,
  openChannel,
  readAllOf,
  readToEnd,
  receive
} from '../helpers/connections.ts'
import { newPath, openFile } from '../helpers/descriptors.ts'
import { startFixture, startPython } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9')

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

test.serial('a message that arrives byte by byte takes no more memory than its bytes [S160]', async (t) => {
  const [a, b] = openChannel(t)
  const { client, connection } = await open(t)
  const count = 20_000
  const receiving = receiveConnection(b)
  const header = Buffer.alloc(4)
  header.writeUInt32BE(16 * 1024 * 1024)
  const { allocUnsafeSlow } = Buffer
  let largest = 0
  try {
    Buffer.allocUnsafeSlow = (size) => {
      largest = Math.max(largest, size)
      return allocUnsafeSlow(size)
    }
    await handOver(a, connection, () => header)
    const before = retainedBytes()
    for (let i = 0; i < count; i++) await a.send('x')
    await turns()
    const perByte = (retainedBytes() - before) / count
    t.true(perByte < 64, `${perByte}`)
  } finally {
    Buffer.allocUnsafeSlow = allocUnsafeSlow
  }
  t.true(largest <= 65_536, `${largest}`)
  const failed = t.throwsAsync(receiving, { code: 'EPROTO' })
  a.close()
  await failed
  client.destroy()
})

test('the end of the channel resolves each pending receive to null', async (t) => {
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
      { code: 'EPROTO', message: /within a message/ }
    ],
    [
      'end',
      async (a) => {
        await a.sendFd(file, Buffer.from([0, 0, 0, 9, 1]))
        a.close()
      },
      { code: 'EPROTO', message: /ended inside/ }
    ],
    ['short', (a) => a.sendFd(file, 'ab'), { code: 'EPROTO', message: /differs from the announced one/ }, 'dgram'],
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

test('handOver refuses what cannot be handed over, and reports why [S187]', async (t) => {
  const [a] = openChannel(t)
  const { connection } = await open(t, 'head')
  const refusals: [string, Socket, RegExp][] = [
    ['TLS', new TLSSocket(connection), /is a TLSSocket: its keys would stay behind/],
    ['below TLS', connection, /is read by a TLSSocket: its keys would stay behind/],
    ['new', new Socket(), /has no descriptor/],
    ['encoding', (await open(t)).connection.setEncoding('utf8'), /has an encoding/],
    ['destroyed', (await open(t)).connection.destroy(), /is destroyed/]
  ]
  for (const [what, socket, message] of refusals) await rejects(t, what, VALUE, () => handOver(a, socket), message)
  await rejects(t, 'below TLS', VALUE, () => a.sendFd(connection), /is read by a TLSSocket/)
  t.throws(() => UnixSocket.from(connection), { code: VALUE, message: /is read by a TLSSocket/ })
})

/** A connection to an HTTP server, and both ends of a request that the server handles. */
async function openHttp(
  t: ExecutionContext
): Promise<{ client: Socket; requests: IncomingMessage[]; http: HttpServer }> {
  const requests: IncomingMessage[] = []
  const http = createHttp((request, response) => {
    requests.push(request)
    response.end(request.url)
  })
  http.listen(newPath())
  await once(http, 'listening')
  const client = dial(http.address() as string)
  t.teardown(() => {
    client.destroy()
    http.closeAllConnections()
    http.close()
  })
  return { client, requests, http }
}

test("a connection that an HTTP server reads is refused, and its requests are answered; after 'upgrade' it is handed over [S186]", async (t) => {
  const [a, b] = openChannel(t)
  const { client, requests, http } = await openHttp(t)
  const handled = once(http, 'request')
  client.write('GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /pipelined HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  await handled
  const parser = /HTTP parser, whose requests would stay behind/
  await rejects(t, 'handOver', VALUE, () => handOver(a, requests[0]!.socket), parser)
  await rejects(t, 'sendFd', VALUE, () => a.sendFd(requests[0]!.socket), parser)
  const answers = await readToEnd(client)
  t.regex(answers, /\/first.*\/pipelined$/s)

  const other = await openHttp(t)
  const upgraded = once(other.http, 'upgrade') as Promise<[IncomingMessage, Socket, Buffer]>
  other.client.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhead')
  const [, socket, head] = await upgraded
  t.is(head.toString(), 'head')
  await handOver(a, socket)
  const received = (await receiveConnection(b))!
  received.end('handed over')
  t.is(await readToEnd(other.client), 'handed over')
})

test('a connection that an HTTP/2 session reads is refused [S186]', async (t) => {
  const [a] = openChannel(t)
  const http = createHttp2((_request, response) => void response.end('answered')).listen(newPath())
  await once(http, 'listening')
  const socket = dial(http.address() as string)
  const accepted = once(http, 'connection') as Promise<[Socket]>
  await once(socket, 'connect')
  const client = connectHttp2('http://localhost', { createConnection: () => socket })
  const request = client.request().setEncoding('utf8')
  for (const side of [socket, (await accepted)[0]]) {
    await rejects(t, 'handOver', VALUE, () => handOver(a, side), /HTTP\/2 session, which would stay behind/)
    await rejects(t, 'sendFd', VALUE, () => a.sendFd(side), /HTTP\/2 session, which would stay behind/)
  }
  t.deepEqual(await request.toArray(), ['answered'])
  client.close()
  http.close()
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
