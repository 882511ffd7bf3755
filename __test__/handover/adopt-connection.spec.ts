import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { createServer as createHttp } from 'node:http'
import { connect as connectHttp2, createServer as createHttp2 } from 'node:http2'
import { BlockList, Server, type ServerOpts, Socket, createServer, connect as dial } from 'node:net'
import { TLSSocket } from 'node:tls'
import test, { type ExecutionContext } from 'ava'
import { adoptConnection, handOver, receiveConnection } from 'fdpass'
import { type Loose, TYPE, VALUE, throws } from '../helpers/arguments.ts'
import { listen, next, open, openChannel, readToEnd } from '../helpers/connections.ts'

/** A server that does not listen, and its connections. */
function notListening<S extends Server>(t: ExecutionContext, server: S): { server: S; served: Socket[] } {
  const served: Socket[] = []
  server.on('connection', (socket: Socket) => {
    served.push(socket)
    t.teardown(() => socket.destroy())
  })
  return { server, served }
}

const countOf = (server: Server) => new Promise((resolve) => server.getConnections((_error, count) => resolve(count)))

function isSetting(value: unknown): boolean {
  return typeof value === 'boolean' || typeof value === 'number'
}

/** Whatever Node has set of a socket: also what nothing but its source code names. */
function stateOf(socket: Socket): Record<string, unknown> {
  const own = Reflect.ownKeys(socket)
    .map((key): [string, unknown] => [String(key), Reflect.get(socket, key)])
    .filter(([name, value]) => isSetting(value) && !/id|bytes|event/i.test(name))
  const { readableHighWaterMark, writableHighWaterMark, readableFlowing } = socket
  return { ...Object.fromEntries(own), readableHighWaterMark, writableHighWaterMark, readableFlowing }
}

const choices: readonly ServerOpts[] = [
  {},
  { allowHalfOpen: true },
  { pauseOnConnect: true },
  { noDelay: true },
  { keepAlive: true, keepAliveInitialDelay: 5000 },
  { highWaterMark: 1234 }
]

for (const options of choices) {
  test(`an adopted connection is what an accepted one is: ${JSON.stringify(options)}`, async (t) => {
    const { server, port } = await listen(t, createServer(options))
    const client = dial(port, '127.0.0.1')
    const [accepted] = (await once(server, 'connection')) as [Socket]
    const { server: other, served } = notListening(t, createServer(options))
    const { connection } = await open(t, '', { allowHalfOpen: !(options.allowHalfOpen ?? false) })
    adoptConnection(other, connection)
    t.is(served[0], connection)
    t.deepEqual(stateOf(connection), stateOf(accepted))
    t.is((connection as Socket & { server?: Server }).server, other)
    client.destroy()
    accepted.destroy()
  })
}

test('a server with pauseOnConnect reads nothing of an adopted connection before it is resumed', async (t) => {
  const { server } = notListening(t, createServer({ pauseOnConnect: true }))
  const { client, connection } = await open(t)
  adoptConnection(server, connection)
  client.write('later')
  const { client: other, connection: flowing } = await open(t)
  other.write('now')
  t.is(await next(flowing), 'now')
  t.is(connection.bytesRead, 0)
  const data = next(connection)
  connection.resume()
  t.is(await data, 'later')
})

test('connections are counted by the server that has adopted them, and beyond maxConnections dropped', async (t) => {
  const { server: front } = await listen(t, createServer())
  const { server, served } = notListening(t, createServer())
  server.maxConnections = 1
  const { port } = front.address() as { port: number }
  const clients = [dial(port, '127.0.0.1'), dial(port, '127.0.0.1')]
  const connections: Socket[] = []
  while (connections.length < 2) connections.push(...((await once(front, 'connection')) as [Socket]))
  t.is(await countOf(front), 2)
  adoptConnection(server, connections[0]!)
  t.deepEqual([await countOf(front), await countOf(server)], [1, 1])
  const dropped = once(server, 'drop')
  const { remotePort, localPort } = connections[1]!
  adoptConnection(server, connections[1]!)
  const local = { localAddress: '127.0.0.1', localPort, localFamily: 'IPv4' }
  t.deepEqual(await dropped, [{ ...local, remoteAddress: '127.0.0.1', remotePort, remoteFamily: 'IPv4' }])
  t.is(served.length, 1)
  await once(connections[1]!, 'close')
  t.is(await countOf(front), 0)
  connections[0]!.destroy()
  await once(connections[0]!, 'close')
  t.is(await countOf(server), 0)
  for (const client of clients) client.destroy()
})

test('a connection from an address of the blockList is closed', async (t) => {
  const { server, served } = notListening(t, createServer())
  const blockList = new BlockList()
  blockList.addSubnet('127.0.0.0', 8)
  Object.assign(server, { blockList }) // Node 22 and later take it as an option
  const { client, connection } = await open(t)
  const ended = readToEnd(client)
  adoptConnection(server, connection)
  t.is(await ended, '')
  t.true(connection.destroyed)
  t.is(served.length, 0)
})

test('an HTTP server reads first what was received with a connection, and diagnostics report the connection', async (t) => {
  const reported: unknown[] = []
  const report = (message: unknown) => reported.push((message as { socket: Socket }).socket)
  subscribe('net.server.socket', report)
  const [a, b] = openChannel(t)
  const { client, connection } = await open(t, 'GET /first HTTP/1.1\r\nHost: x\r\n')
  await handOver(a, connection)
  const { server } = notListening(
    t,
    createHttp((request, response) => response.end(request.url))
  )
  const received = (await receiveConnection(b))!
  adoptConnection(server, received)
  client.write('Connection: close\r\n\r\n')
  t.regex(await readToEnd(client), /\/first$/)
  unsubscribe('net.server.socket', report)
  t.true(reported.includes(received))
})

test('an HTTP server that does not listen ends half a request in time', async (t) => {
  const server = createHttp({ headersTimeout: 50, requestTimeout: 50, connectionsCheckingInterval: 10 })
  const { client, connection } = await open(t)
  adoptConnection(server, connection)
  client.write('GET / HTTP/1.1\r\n')
  t.regex(await readToEnd(client), /^HTTP\/1\.1 408 /)
})

test('an HTTP/2 server serves an adopted connection', async (t) => {
  const { server } = notListening(
    t,
    createHttp2((_request, response) => response.end('two'))
  )
  const { client, connection } = await open(t)
  adoptConnection(server, connection)
  const session = connectHttp2('http://localhost', { createConnection: () => client })
  const stream = session.request({ ':path': '/' })
  t.is(await next(stream as unknown as Socket), 'two')
  session.destroy()
})

test('adoptConnection refuses what no server can serve, and leaves it as it is', async (t) => {
  const adopt = adoptConnection as Loose
  const server = createServer()
  const { connection } = await open(t)
  for (const value of [undefined, null, {}, 5, 'server', connection]) {
    throws(t, 'server', TYPE, () => adopt(value, connection), /"server"/)
  }
  for (const value of [undefined, null, {}, 5, server]) {
    throws(t, 'socket', TYPE, () => adopt(server, value), /"socket"/)
  }
  throws(t, 'not connected', VALUE, () => adopt(server, new Socket()))
  const { port } = (await listen(t, createServer())).server.address() as { port: number }
  const connecting = dial(port, '127.0.0.1')
  throws(t, 'connecting', VALUE, () => adopt(server, connecting))
  connecting.destroy()
  throws(t, 'destroyed', VALUE, () => adopt(server, connecting))
  const http = createHttp()
  adoptConnection(http, connection)
  throws(t, 'HTTP', VALUE, () => adopt(server, connection))
  t.false(connection.destroyed)
  t.is(await countOf(http), 1)
  const { connection: encrypted } = await open(t)
  new TLSSocket(encrypted, { isServer: true }).on('error', () => {})
  throws(t, 'TLS', VALUE, () => adopt(server, encrypted), /keys would stay behind/)
  const { connection: framed } = await open(t)
  adoptConnection(createHttp2(), framed)
  throws(t, 'HTTP/2', VALUE, () => adopt(server, framed), /HTTP\/2 session/)
})
