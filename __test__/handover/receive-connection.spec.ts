import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Agent, Server as HttpServer, get } from 'node:http'
import { Server, Socket, connect as dial } from 'node:net'
import test from 'ava'
import { type SocketType, type UnixSocket, handOver, receiveConnection } from 'fdpass'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { digest, readAllOf } from '../helpers/connections.ts'
import { openFile } from '../helpers/descriptors.ts'
import { listen, next, open, openChannel, receive } from '../helpers/hand-overs.ts'
import { startFixture, startPython } from '../helpers/processes.ts'
import { turns } from '../helpers/promises.ts'

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
