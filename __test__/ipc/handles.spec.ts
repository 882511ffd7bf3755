import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, Server, Socket, connect, createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { type Descriptor, bindListener, listen, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { readAllOf } from '../helpers/connections.ts'
import { newPath } from '../helpers/descriptors.ts'
import { startChild } from '../helpers/ipc.ts'
import { fixturePath } from '../helpers/processes.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

/** Both ends of a TCP connection. */
async function connection(): Promise<[client: Socket, served: Socket]> {
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [served] = (await once(server, 'connection')) as [Socket]
  server.close()
  return [client, served]
}

test('values of JSON go both ways, in order', async (t) => {
  const { channel, next: receiveNext } = startChild(t)
  const values = [
    '',
    'text\nof two lines',
    'ü€😀\u2028',
    0,
    -1.5,
    true,
    false,
    null,
    {},
    [],
    { a: [{ b: null }] },
    'x'.repeat(300_000)
  ]
  const sent = values.map((value) => channel.send(['echo', value]))
  for (const value of values) t.deepEqual((await receiveNext()).message, { echo: value })
  await Promise.all(sent)
  await channel.send(['say', 1_000_000])
  t.is((await receiveNext()).message, 'x'.repeat(1_000_000))
})

test('a TCP connection becomes a net.Socket, and stays open here', async (t) => {
  const { channel, pid, next: receiveNext } = startChild(t)
  const [client, served] = await connection()
  await channel.send(['use'], served)
  t.false(served.destroyed)
  served.destroy()
  const { message, fd } = await receiveNext()
  t.deepEqual(message, { is: 'Socket' })
  t.is(fd, null)
  client.write('hello')
  t.is(String(await readAllOf(client)), `hello by ${pid}`)
})

test('a Unix domain stream becomes a net.Socket', async (t) => {
  const { channel, pid, next: receiveNext } = startChild(t)
  const [ours, theirs] = socketpair()
  const sent = channel.send(['use'], theirs)
  theirs.close() // what it meant is on its way
  await sent
  t.deepEqual((await receiveNext()).message, { is: 'Socket' })
  await ours.send('hello')
  t.is(text(await receiveSoon(ours)), `hello by ${pid}`)
  t.is(await ours.recv(), null)
  ours.close()
})

test('listeners become servers', async (t) => {
  const { channel, pid, next: receiveNext } = startChild(t)
  const path = newPath()
  const net = createServer().listen(0, '127.0.0.1')
  await once(net, 'listening')
  const listeners = [
    [bindListener({ port: 0, host: '127.0.0.1' }), undefined],
    [bindListener({ path }), path],
    [await listen(newPath()), undefined],
    [net, undefined]
  ] as const
  for (const [listener] of listeners) {
    const { address } = listener as { address: unknown }
    const where = (typeof address === 'function' ? (address.call(listener) as unknown) : address) as
      AddressInfo | string
    await channel.send(['use'], listener)
    t.deepEqual((await receiveNext()).message, { is: 'Server' })
    if ('closeSync' in listener) listener.closeSync()
    else if (listener instanceof Server) listener.close()
    if (!(listener instanceof Object && 'accept' in listener)) {
      const client = typeof where === 'string' ? connect(where) : connect(where.port, '127.0.0.1')
      t.is(String(await readAllOf(client)), `by server of ${pid}`)
    } else listener.close()
  }
})

for (const type of ['udp4', 'udp6'] as const) {
  test(`a socket of datagrams becomes a dgram.Socket (${type})`, async (t) => {
    const { channel, pid, next: receiveNext } = startChild(t)
    const host = type === 'udp4' ? '127.0.0.1' : '::1'
    const socket = createSocket(type).bind(0, host)
    await once(socket, 'listening')
    const { port } = socket.address()
    await channel.send(['use'], socket)
    socket.close()
    t.deepEqual((await receiveNext()).message, { is: 'Socket' })
    const client = createSocket(type)
    client.send('hello', port, host)
    const [answer] = (await once(client, 'message')) as [Buffer]
    t.is(String(answer), `hello by ${pid}`)
    client.close()
  })
}

onLinux('what a child sends comes as descriptors, and its server does not wait for them', async (t) => {
  const { channel, next: receiveNext } = startChild(t)
  const path = newPath()
  await channel.send(['give', path])
  const given = new Map<string, Descriptor>()
  const told: Record<string, unknown>[] = []
  while (given.size < 5 || told.length < 2) {
    const { message, fd } = await receiveNext()
    if (fd === null) told.push(message as Record<string, unknown>)
    else given.set((message as { given: string }).given, fd)
  }
  t.true(told.some(({ closed }) => closed === 'server'))
  t.true(told.some(({ count }) => count === 0))
  t.deepEqual(Object.fromEntries([...given].map(([name, { kind }]) => [name, kind])), {
    connection: 'tcp',
    listener: 'tcp-listener',
    local: 'unix-listener',
    udp4: 'udp',
    udp6: 'udp'
  })
  given.get('connection')!.toSocket().end('written here')
  t.deepEqual((await receiveNext()).message, { read: 'written here' })
  t.is(given.get('local')!.address, path)
  given.get('listener')!.closeSync()
  given.get('local')!.closeSync()
  for (const type of ['udp4', 'udp6']) {
    const { port, address } = given.get(type)!.address as AddressInfo
    const socket = given.get(type)!.toDatagramSocket()
    const client = createSocket(type as 'udp4')
    client.send('to here', port, address)
    const [data] = (await once(socket, 'message')) as [Buffer]
    t.is(String(data), 'to here')
    for (const each of [socket, client]) each.close()
  }
})

test('a message waits behind a descriptor that is not acknowledged, so that the order stays', async (t) => {
  const { channel, next: receiveNext } = startChild(t)
  const pairs = Array.from({ length: 5 }, () => socketpair())
  const sent = pairs.flatMap(([, theirs], i) => [channel.send(['use'], theirs), channel.send(['echo', i])])
  for (const [, theirs] of pairs) theirs.close()
  for (let i = 0; i < pairs.length; i++) {
    t.deepEqual((await receiveNext()).message, { is: 'Socket' })
    t.deepEqual((await receiveNext()).message, { echo: i })
  }
  await Promise.all(sent)
  for (const [ours] of pairs) ours.close()
})

const many = 1000

test(`${many} connections in a row arrive in order, and none is lost`, async (t) => {
  const { channel } = startChild(t)
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const sent: Promise<void>[] = []
  const read: Promise<Buffer>[] = []
  for (let place = 0; place < many; place++) {
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const [served] = (await once(server, 'connection')) as [Socket]
    sent.push(channel.send(['count', place], served))
    served.destroy()
    read.push(readAllOf(client))
  }
  await Promise.all(sent)
  const places = await Promise.all(read)
  t.deepEqual(
    places.map(String),
    Array.from({ length: many }, (_, place) => `${place}`)
  )
  server.close()
})

test(`${many} connections of a child arrive in order, and none is lost`, async (t) => {
  const { channel } = startChild(t)
  await channel.send(['flood', many])
  let place = 0
  for await (const { message, fd } of channel) {
    if (fd === null) continue
    t.is((message as { place: number }).place, place++)
    t.is(fd.kind, 'tcp')
    fd.closeSync()
    if (place === many) break
  }
  t.is(place, many)
})

/** What a child of Node's has printed at its end. It has no 'close' where its parent disconnects. */
async function endOf(t: ExecutionContext, child: ChildProcess): Promise<string> {
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout!.on('data', (data) => (output += data))
  await Promise.all([once(child, 'exit'), once(child.stdout!, 'end')])
  return output
}

onLinux('a Node parent sends handles to this end, and gets them back', async (t) => {
  const script = 'fd=$NODE_CHANNEL_FD; unset NODE_CHANNEL_FD; exec "$@" $fd'
  const node = [process.execPath, ...process.execArgv, fixturePath('peer'), 'node']
  const child = spawn('sh', ['-c', script, 'sh', ...node], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  const done = endOf(t, child)
  const answer = async () =>
    (await once(child, 'message', { signal: AbortSignal.timeout(30_000) })) as [object, unknown]
  t.deepEqual(await answer(), [{ ready: child.pid }, undefined])
  child.send({ echo: 'no handle' })
  t.deepEqual(await answer(), [{ echo: 'no handle' }, undefined])

  const [client, served] = await connection()
  child.send({ echo: 'a connection' }, served)
  t.deepEqual(await answer(), [{ echo: 'a connection', kind: 'tcp' }, undefined])
  t.is(String(await readAllOf(client)), 'a connection by fdpass')

  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  child.send({ echo: 'a server', back: true }, server)
  const [told, back] = (await answer()) as [object, Server]
  t.deepEqual(told, { echo: 'a server', kind: 'tcp-listener' })
  t.true(back instanceof Server)
  server.close()
  back.on('connection', (socket) => socket.end('there and back'))
  t.is(String(await readAllOf(connect(port, '127.0.0.1'))), 'there and back')
  back.close()

  const socket = createSocket('udp4').bind(0, '127.0.0.1')
  await once(socket, 'listening')
  child.send({ echo: 'datagrams' }, socket)
  t.deepEqual(await answer(), [{ echo: 'datagrams', kind: 'udp' }, undefined])
  socket.close()
  child.disconnect()
  t.is(await done, 'disconnected\n')
})
