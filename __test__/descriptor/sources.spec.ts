import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { closeSync, createReadStream, openSync, readFileSync, readSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, Server, Socket, connect, createServer } from 'node:net'
import { TLSSocket } from 'node:tls'
import { ReadStream, WriteStream } from 'node:tty'
import test, { type ExecutionContext } from 'ava'
import { Channel, type Descriptor, type FdSource, type UnixSocket, adoptConnection, socketpair } from 'fdpass'
import { TYPE, VALUE, loose, rejects } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { newPath, openFile, openPipe, readAll, sameFile, temporaryFile } from '../helpers/descriptors.ts'
import { openPty } from '../helpers/kinds.ts'
import { startFixture } from '../helpers/processes.ts'
import { turns } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const isNode = !('bun' in process.versions || 'deno' in process.versions)
const onNode = onlyIf(isNode, "needs Node's own handles")
const withPython = onlyIf(isNode && isLinux && hasPython, "needs Node's own handles, Linux and Python 3.9")

const strict = { execArgv: ['--throw-deprecation', '--pending-deprecation'] }

/** What each source of `fixtures/casts.ts` is used for here, and what its other end sees there. */
const uses: Record<string, [seen: string, use: (descriptor: Descriptor) => Promise<void>]> = {
  connection: ['pong', (descriptor) => talk(descriptor.toSocket())],
  client: ['pong', (descriptor) => talk(descriptor.toSocket())],
  server: [
    'accepted here',
    async (descriptor) => {
      const server = await descriptor.toServer()
      const [connection] = (await once(server, 'connection')) as [Socket]
      connection.end('accepted here')
      server.close()
    }
  ],
  http: [
    'answered elsewhere',
    async (descriptor) => {
      const server = await descriptor.toServer()
      const http = createHttp((_, response) => {
        response.setHeader('connection', 'close')
        response.end('answered elsewhere')
      })
      server.on('connection', (connection) => adoptConnection(http, connection))
      await once(http, 'request')
      server.close()
    }
  ],
  udp: [
    'pong',
    async (descriptor) => {
      const socket = descriptor.toDatagramSocket()
      const [data, from] = (await once(socket, 'message')) as [Buffer, AddressInfo]
      if (String(data) === 'ping') socket.send('pong', from.port, from.address, () => socket.close())
    }
  ]
}

async function talk(socket: Socket): Promise<void> {
  const [data] = (await once(socket, 'data')) as [Buffer]
  if (String(data) === 'ping') socket.end('pong')
  await once(socket, 'close')
}

for (const [which, [seen, use]] of Object.entries(uses)) {
  onNode(`Node's own ${which} is sent by a child, closed there, and used here`, async (t) => {
    const { socket, done } = startFixture('casts', ['source', which], strict)
    const received = (await socket.recvFd())!
    t.is(text(received), which)
    await use(received.fd!)
    t.is(await done, seen)
    socket.close()
  })
}

withPython("a child's terminal is sent as its process.stdin", async (t) => {
  const [master, slave] = await openPty()
  const { socket, done } = startFixture('casts', ['source', 'stdin'], {
    ...strict,
    standard: [slave.fd, 'pipe', 'inherit']
  })
  using received = (await socket.recvFd())!
  t.is(received.fd!.kind, 'tty')
  t.true(sameFile(received.fd!.fd, slave.fd))
  await socket.send('received')
  t.is(await done, 'sent')
  socket.close()
  master.closeSync()
  slave.closeSync()
})

/** A pair, closed at the end of the test. */
function pair(t: ExecutionContext): [UnixSocket, UnixSocket] {
  const [a, b] = socketpair()
  t.teardown(() => {
    a.close()
    b.close()
  })
  return [a, b]
}

onNode('sending never closes the source: it goes on working, and can be sent again', async (t) => {
  const [a, b] = pair(t)
  const server = createServer({ pauseOnConnect: true }).listen(newPath())
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const client = connect(server.address() as string)
  const [[connection]] = await Promise.all([accepted, once(client, 'connect')])
  const udp = createSocket('udp4').bind(0, '127.0.0.1')
  await once(udp, 'listening')
  for (let i = 0; i < 3; i++) {
    await a.send('all', { fds: [client, connection, server, udp] })
    using message = (await b.recv())!
    t.deepEqual(
      message.fds.map(({ kind }) => kind),
      ['unix-stream', 'unix-stream', 'unix-listener', 'udp']
    )
  }
  client.write('works')
  t.is(String(((await once(connection.resume(), 'data')) as [Buffer])[0]), 'works')
  const own = once(udp, 'message') as Promise<[Buffer]>
  udp.send('to itself', udp.address().port, '127.0.0.1')
  t.is(String((await own)[0]), 'to itself')
  const second = once(server, 'connection') as Promise<[Socket]>
  const another = connect(server.address() as string)
  ;(await second)[0].end('accepted')
  t.is(await readToEnd(another), 'accepted')
  client.destroy()
  connection.destroy()
  server.close()
  udp.close()
})

withPython("Node's terminals are sources", async (t) => {
  const [a, b] = pair(t)
  const [master, slave] = await openPty()
  const both = [new ReadStream(slave.duplicate().release()), new WriteStream(slave.duplicate().release())]
  for (const terminal of both) {
    await a.sendFd(terminal)
    using received = (await b.recvFd())!
    t.is(received.fd!.kind, 'tty')
    t.true(sameFile(received.fd!.fd, slave.fd))
    terminal.destroy()
  }
  master.closeSync()
  slave.closeSync()
})

onNode("a pipe's end in a net.Socket is a source", async (t) => {
  const [a, b] = pair(t)
  const { read, write } = openPipe()
  const socket = new Socket({ fd: write, readable: false, writable: true })
  await a.sendFd(socket)
  socket.destroy()
  await once(socket, 'close')
  const writer = (await b.recvFd())!.fd!.toSocket()
  writer.end('through another one')
  t.is(await readToEnd(new Socket({ fd: read, readable: true, writable: false })), 'through another one')
})

onNode('what has no descriptor, or one that is of no use elsewhere, is refused, and why', async (t) => {
  const [a, b] = pair(t)
  const listening = createServer().listen(newPath())
  await once(listening, 'listening')
  const destroyed = new Socket().destroy()
  const ended = connect(listening.address() as string)
  await once(ended, 'connect')
  ended.destroy()
  const closedServer = createServer().listen(newPath())
  await once(closedServer, 'listening')
  closedServer.close()
  const closedUdp = createSocket('udp4').bind(0)
  await once(closedUdp, 'listening')
  closedUdp.close()
  // From here to the first cases there is no turn of the loop.
  const connecting = connect(listening.address() as string)
  const connected = once(connecting, 'connect')
  const binding = createSocket('udp6').bind(0, '::1')
  const bound = once(binding, 'listening')
  const unbound = createSocket('udp4')
  const wrapped = new Socket()
  const tls = new TLSSocket(wrapped).on('error', () => {})
  const noDescriptor = /^The "(fd|options\.fds\[1\])" (argument|property) (has no descriptor|is destroyed)/
  const file = openFile()
  const cases: [string, unknown, RegExp][] = [
    ['connecting', connecting, /is still connecting: wait for 'connect'$/],
    ['TLS', tls, /is a TLSSocket: its keys would stay behind$/],
    ['never connected', new Socket(), noDescriptor],
    ['destroyed', destroyed, noDescriptor],
    ['destroyed after use', ended, noDescriptor],
    ['a server that does not listen', new Server(), noDescriptor],
    ['a closed server', closedServer, noDescriptor],
    ['an HTTP server that does not listen', createHttp(), noDescriptor],
    ['a UDP socket that is not bound', unbound, noDescriptor],
    ['a closed UDP socket', closedUdp, noDescriptor]
  ]
  await rejects(t, 'a UDP socket that is being bound', VALUE, () => a.sendFd(binding), noDescriptor)
  for (const [what, source, message] of cases) {
    await rejects(t, what, VALUE, () => loose(a, 'sendFd')(source), message)
    await rejects(t, what, VALUE, () => loose(a, 'send')('x', { fds: [file, source] }), message)
  }
  const socketOnly: unknown = Object.create(Socket.prototype)
  await rejects(t, 'only the prototype', TYPE, () => loose(a, 'sendFd')(socketOnly), /Received an instance of Socket/)
  const serverOnly: unknown = Object.create(Server.prototype)
  await rejects(t, 'only the prototype', VALUE, () => loose(a, 'sendFd')(serverOnly), noDescriptor)
  for (const other of [{}, { _handle: { fd: file } }, { fd: file }, () => file, Symbol('3')]) {
    await rejects(
      t,
      'something else',
      TYPE,
      () => loose(a, 'sendFd')(other),
      /net\.Socket, net\.Server or dgram\.Socket/
    )
  }
  closeSync(file)
  // Nothing was sent, and those that were too early work.
  await Promise.all([connected, bound])
  for (const [source, kind] of [
    [connecting, 'unix-stream'],
    [binding, 'udp']
  ] as [FdSource, string][]) {
    await a.sendFd(source, 'the first')
    using received = (await b.recvFd())!
    t.deepEqual([text(received), received.fd!.kind], ['the first', kind])
  }
  connecting.destroy()
  wrapped.destroy()
  tls.destroy()
  listening.close()
  for (const socket of [binding, unbound]) socket.close()
})

onNode('a stream with bytes that nothing has consumed is refused, until they are read [S185]', async (t) => {
  const [a, b] = pair(t)
  const server = createServer({ pauseOnConnect: true }).listen(newPath())
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const client = connect(server.address() as string)
  const [connection] = await accepted
  client.write('ahead')
  await once(connection, 'readable')
  const refused = /has read 5 bytes, which would stay behind: use handOver\(\)$/
  await rejects(t, 'sendFd', VALUE, () => a.sendFd(connection), refused)
  await rejects(t, 'send', VALUE, () => a.send('x', { fds: [client, connection] }), refused)
  t.is(String(connection.read()), 'ahead')
  await a.sendFd(connection, 'the first')
  using received = (await b.recvFd())!
  t.is(text(received), 'the first')
  client.destroy()
  connection.destroy()
  server.close()

  const stream = createReadStream(temporaryFile('abcdef'), { highWaterMark: 3 })
  await once(stream, 'readable')
  const unread = /has read \d bytes, which would stay behind: read them first$/
  await rejects(t, 'a file', VALUE, () => a.sendFd(stream), unread)
  stream.destroy()
  const positioned = createReadStream(temporaryFile('abcdef'), { start: 1 })
  await once(positioned, 'readable')
  await a.sendFd(positioned)
  using file = (await b.recvFd())!
  const all = Buffer.alloc(6)
  t.is(readSync(file.fd!.fd, all), 6)
  t.is(String(all), 'abcdef')
  positioned.destroy()
})

test('a UnixSocket that holds messages, or belongs to a channel, is not sent [S188]', async (t) => {
  const [a, b] = pair(t)
  const [c, d] = pair(t)
  await c.send('first')
  await c.send('second')
  for await (const message of d) {
    if (text(message) === 'first') {
      await t.throwsAsync(a.sendFd(d), { code: 'ERR_SOCKET_NOT_EMPTY', message: /holds 1 messages/ })
    } else break
  }
  await a.sendFd(d, 'empty')
  t.is(text((await b.recvFd())!), 'empty')
  const [e] = pair(t)
  const channel = new Channel(e)
  await t.throwsAsync(a.sendFd(e), { code: 'ERR_INVALID_STATE', message: /belongs to a Channel/ })
  channel.close()
})

onNode('a standard output that is redirected to a file is a source', async (t) => {
  const path = temporaryFile('')
  const [socket, theirs] = socketpair()
  const program = `
    import { UnixSocket } from ${JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)}
    const socket = UnixSocket.from(3)
    await socket.send('both', { fds: [process.stdout, process.stderr] })
    socket.close()`
  const file = openSync(path, 'w')
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', file, file, theirs.fd]
  })
  const closed = once(child, 'close') // it can come before the message is received
  theirs.close()
  using message = (await socket.recv())!
  t.deepEqual(
    message.fds.map(({ fd }) => sameFile(fd, file)),
    [true, true]
  )
  t.deepEqual(await closed, [0, null])
  t.is(readFileSync(path, 'utf8'), '')
  closeSync(file)
  socket.close()
})

test.serial('a number that is closed is EBADF, and one that is used again is what it is now', async (t) => {
  const [a, b] = pair(t)
  const closed = openFile()
  closeSync(closed)
  await t.throwsAsync(a.sendFd(closed), { code: 'EBADF' })
  const again = openSync(temporaryFile('another file'), 'r')
  t.is(again, closed)
  await a.sendFd(closed)
  using received = (await b.recvFd())!
  t.is(readAll(received.fd!.fd), 'another file')
  closeSync(again)
})

onNode('what a source means is what it meant at the call, though it is closed before there is room', async (t) => {
  const [a, b] = pair(t)
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const filler = a.send(Buffer.alloc(4 * 1024 * 1024))
  const sending = a.sendFd(server, '!')
  server.close()
  await turns()
  let fds: readonly Descriptor[] = []
  while (fds.length === 0) ({ fds } = (await b.recv())!)
  await Promise.all([filler, sending])
  const other = await fds[0]!.toServer()
  const accepted = once(other, 'connection') as Promise<[Socket]>
  const client = connect(port, '127.0.0.1')
  ;(await accepted)[0].end('still there')
  t.is(await readToEnd(client), 'still there')
  other.close()
})
