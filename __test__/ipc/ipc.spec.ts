import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { type AddressInfo, Server, Socket, connect, createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Descriptor, UnixSocket, bind, bindListener, listen, memfd, pipe, socketpair } from 'fdpass'
import { NodeChannel, type NodeMessage } from 'fdpass/ipc'
import { RANGE, TYPE, VALUE, loose, notOptions, notSignals, rejects, throws } from '../helpers/arguments.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { readAllOf } from '../helpers/connections.ts'
import { openFile, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { fixturePath, startFixture, startProgram } from '../helpers/processes.ts'
import { receive } from '../helpers/programs.ts'
import { codesOf, isPending } from '../helpers/promises.ts'

const folder = temporaryFolder()
const onLinux = onlyIf(isLinux, 'needs Linux')
let paths = 0
const newPath = () => join(folder, `socket-${paths++}`)

interface Child {
  readonly channel: NodeChannel
  readonly pid: number
  readonly done: Promise<string>
  next(): Promise<NodeMessage>
}

/** Starts an ordinary Node program with a channel of ours. */
function startChild(t: ExecutionContext): Child {
  const { child, socket, done } = startFixture('node-child', [], { env: { ...process.env, NODE_CHANNEL_FD: '3' } })
  const channel = new NodeChannel(socket)
  t.teardown(() => {
    channel.close()
    child.kill('SIGKILL')
  })
  done.catch(() => {})
  return { channel, pid: child.pid!, done, next: () => next(channel) }
}

/** A message that has to come soon. */
async function next(channel: NodeChannel): Promise<NodeMessage> {
  const message = await channel.receive({ signal: AbortSignal.timeout(30_000) })
  if (message === null) throw new Error('The other end has disconnected')
  return message
}

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
  t.is(text(await receive(ours)), `hello by ${pid}`)
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

test('the end of the channel is seen on both sides as Node tells it', async (t) => {
  const one = startChild(t)
  await one.channel.send(['echo', 1])
  await one.next()
  one.channel.close()
  t.is(await one.done, 'disconnected\n')

  const two = startChild(t)
  await two.channel.send(['echo', 1]) // Node fails where it disconnects in a message that came before anybody listened
  await two.next()
  await two.channel.send(['disconnect'])
  t.is(await two.channel.receive(), null)
  t.is(await two.channel.receive(), null)
  t.is(await two.done, 'disconnected\n')
  await t.throwsAsync(two.channel.send('too late'), { code: 'EPIPE' })
  for await (const message of two.channel) t.fail(String(message))
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
  const node = [process.execPath, ...process.execArgv, fixturePath('node-peer')]
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

onLinux('what Node makes no handle of is refused, and nothing is sent', async (t) => {
  const { channel, next: receiveNext } = startChild(t)
  const [read, write] = pipe()
  const [packets, packetsToo] = socketpair({ type: 'seqpacket' })
  const datagrams = bind(null)
  const seqpacketListener = await listen(newPath(), { type: 'seqpacket' })
  const refused = {
    file: openFile('a file'),
    memfd: memfd({ data: 'memory' }),
    directory: openSync('/', 'r'),
    'character-device': openSync('/dev/null', 'r'),
    tty: openSync('/dev/ptmx', 'r+'),
    fifo: read,
    'unix-seqpacket': packets,
    'unix-dgram': datagrams,
    'unix-listener': seqpacketListener
  }
  for (const [kind, fd] of Object.entries(refused)) {
    const error = await t.throwsAsync(channel.send(['use'], fd), { code: 'ERR_INVALID_FD_TYPE' }, kind)
    t.true(error.message.includes(`'${kind}'`), error.message)
  }
  await channel.send(['echo', 'alive'])
  t.deepEqual((await receiveNext()).message, { echo: 'alive' })
  for (const fd of Object.values(refused)) {
    if (typeof fd === 'number') closeSync(fd)
    else if ('closeSync' in fd) fd.closeSync()
    else fd.close()
  }
  packetsToo.close()
  write.closeSync()
})

/** A channel, and the socket at its other end. */
function pair(t: ExecutionContext, options?: { maxBytes: number }): { channel: NodeChannel; peer: UnixSocket } {
  const [socket, peer] = socketpair()
  const channel = new NodeChannel(socket, options)
  t.true(socket.closed) // it is the channel's
  t.teardown(() => {
    channel.close()
    peer.close()
  })
  return { channel, peer }
}

const line = (value: unknown) => `${JSON.stringify(value)}\n`
const ACK = line({ cmd: 'NODE_HANDLE_ACK' })
const NACK = line({ cmd: 'NODE_HANDLE_NACK' })

/** A stream, and whether its other end is open anywhere. */
function thing(t: ExecutionContext): { sent: UnixSocket; isClosed: () => Promise<boolean> } {
  const [ours, sent] = socketpair()
  t.teardown(() => ours.close())
  const isClosed = async () => {
    try {
      return (await ours.recv({ signal: AbortSignal.timeout(1000) })) === null
    } catch {
      return false
    }
  }
  return { sent, isClosed }
}

test('a descriptor that the other end could not receive is sent again, three times at most', async (t) => {
  const { channel, peer } = pair(t)
  const { sent, isClosed } = thing(t)
  const sending = channel.send('again', sent)
  const behind = channel.send('behind it')
  sent.close()
  for (let i = 0; i < 3; i++) {
    const message = await receive(peer)
    t.is(text(message), line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'again' }))
    t.is(message.fds.length, 1)
    message.close()
    await peer.send(NACK)
  }
  const last = await receive(peer)
  t.is(last.fds.length, 1)
  await peer.send(ACK)
  await sending
  t.is(text(await receive(peer)), line('behind it'))
  await behind
  last.close()
  t.true(await isClosed())

  const lost = thing(t)
  const failing = channel.send('lost', lost.sent)
  lost.sent.close()
  const after = channel.send('after it')
  for (let i = 0; i < 4; i++) {
    ;(await receive(peer)).close()
    await peer.send(NACK)
  }
  await t.throwsAsync(failing, { code: 'ERR_HANDLE_NOT_RECEIVED' })
  t.is(text(await receive(peer)), line('after it'))
  await after
  t.true(await lost.isClosed())
})

test('what comes without its descriptor is refused to the sender, and what Node sends again is acknowledged once', async (t) => {
  const { channel, peer } = pair(t)
  const { sent, isClosed } = thing(t)
  await peer.send(line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'lost' }))
  const receiving = channel.receive()
  t.is(text(await receive(peer)), NACK)
  t.true(await isPending(receiving))
  const inner = { cmd: 'NODE_HANDLE', type: 'net.Socket', msg: { a: 1 } }
  await peer.sendFd(sent, line({ cmd: 'NODE_HANDLE', type: 'net.Native', msg: inner }))
  sent.close()
  t.is(text(await receive(peer)), ACK)
  const { message, fd } = (await receiving)!
  t.deepEqual(message, { a: 1 })
  t.is(fd!.kind, 'unix-stream')
  fd!.closeSync()
  t.true(await isClosed())
  await t.throwsAsync(peer.recv({ signal: AbortSignal.timeout(50) }), { name: 'AbortError' })
})

for (const [program, fixture] of [
  ['Node', 'node-child'],
  ['this end', 'node-peer']
] as const) {
  onLinux(
    `where the table of ${program} is full, a descriptor is refused, and taken when there is room again`,
    async (t) => {
      const isNode = fixture === 'node-child'
      const script = 'ulimit -n 64 && exec "$@"'
      const args = [process.execPath, ...process.execArgv, fixturePath(fixture), ...(isNode ? [] : ['3'])]
      const env = isNode ? { ...process.env, NODE_CHANNEL_FD: '3' } : process.env
      const { socket, child, done } = startProgram('sh', ['-c', script, 'sh', ...args], { env })
      const channel = new NodeChannel(socket)
      t.teardown(() => channel.close())
      done.catch(() => {})
      t.teardown(() => child.kill('SIGKILL'))
      const say = (word: string) => channel.send(isNode ? [word] : { [word]: true })
      if (!isNode) t.deepEqual((await next(channel)).message, { ready: child.pid })
      await say('fill')
      t.deepEqual((await next(channel)).message, { filled: true })
      const lost = thing(t)
      const failing = channel.send(isNode ? ['use'] : { echo: 'lost' }, lost.sent)
      lost.sent.close()
      await t.throwsAsync(failing, { code: 'ERR_HANDLE_NOT_RECEIVED' })
      t.true(await lost.isClosed())
      await say('free')
      t.deepEqual((await next(channel)).message, { filled: false })
      const taken = thing(t)
      await channel.send(isNode ? ['use'] : { echo: 'taken' }, taken.sent)
      taken.sent.close()
      t.deepEqual((await next(channel)).message, isNode ? { is: 'Socket' } : { echo: 'taken', kind: 'unix-stream' })
    }
  )
}

test('descriptors belong to their lines, however the bytes come', async (t) => {
  const { channel, peer } = pair(t)
  const handle = (msg: unknown) => line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg })
  const things = Array.from({ length: 4 }, () => thing(t))
  const [a, b, c, d] = things.map(({ sent }) => sent)
  await peer.send(line('plain') + line({ cmd: 'NODE_CLUSTER', act: 'not ours' }))
  await peer.send(handle('first').slice(0, 10), { fds: [a!] })
  await peer.send(handle('first').slice(10) + line('between'))
  await peer.send(handle('second') + handle('third') + line('last'), { fds: [b!, c!] })
  for (const byte of handle('fourth'))
    await peer.send(byte, byte === '{' && d !== undefined ? { fds: d.closed ? [] : [d] } : {}).finally(() => d!.close())
  for (const { sent } of things) sent.close()
  const received: [unknown, boolean][] = []
  while (received.length < 7) {
    const { message, fd } = await next(channel)
    received.push([message, fd !== null])
    fd?.closeSync()
  }
  t.deepEqual(received, [
    ['plain', false],
    ['first', true],
    ['between', false],
    ['second', true],
    ['third', true],
    ['last', false],
    ['fourth', true]
  ])
  for (const { isClosed } of things) t.true(await isClosed())
})

test('what is not the protocol closes the channel with an error, and every descriptor', async (t) => {
  const cases: [data: string | Uint8Array, code: string, message: RegExp][] = [
    ['not JSON\n', 'EPROTO', /could not be decoded/],
    ['\n', 'EPROTO', /could not be decoded/],
    [Uint8Array.of(0, 0, 0, 5, 0xff), 'EPROTO', /serialization: 'advanced'/],
    [`"${'x'.repeat(2000)}`, 'EMSGSIZE', /2001 bytes or more, and 1000 are accepted/],
    [`"${'x'.repeat(2000)}"\n`, 'EMSGSIZE', /2002 bytes or more, and 1000 are accepted/]
  ]
  for (const [data, code, message] of cases) {
    const { channel, peer } = pair(t, { maxBytes: 1000 })
    const { sent, isClosed } = thing(t)
    const waiting = thing(t)
    const sending = channel.send('never acknowledged', waiting.sent)
    waiting.sent.close()
    await peer.send(data, { fds: [sent] })
    sent.close()
    const error = await t.throwsAsync(channel.receive(), { code, message })
    t.true((error as unknown as { errno: number }).errno < 0)
    await t.throwsAsync(sending, { code })
    t.true(channel.closed)
    await t.throwsAsync(channel.receive(), { code })
    await t.throwsAsync(channel.send('more'), { code })
    await t.throwsAsync(
      async () => {
        for await (const each of channel) t.fail(String(each))
      },
      { code }
    )
    t.true(await isClosed())
    peer.close()
    t.true(await waiting.isClosed())
  }
})

test('descriptors without messages are not piled up', async (t) => {
  const { channel, peer } = pair(t)
  const { sent, isClosed } = thing(t)
  const failing = channel.receive()
  for (let i = 0; i < 10; i++) await peer.send(' ', { fds: Array.from({ length: 10 }, () => sent) }).catch(() => {})
  sent.close()
  await t.throwsAsync(failing, { code: 'EPROTO', message: /without a message/ })
  t.true(await isClosed())
})

test('questions of the other end, which takes no answers, are not taken without end', async (t) => {
  const { channel, peer } = pair(t)
  const receiving = channel.receive()
  const questions = line({ cmd: 'NODE_SOCKET_GET_COUNT', key: 1 }).repeat(10_000)
  const held = async () => {
    for (let i = 0; i < 100; i++) {
      const signal = AbortSignal.timeout(1000)
      if ((await codesOf([peer.send(questions, { signal })]))[0] === 'ABORT_ERR') return true
    }
    return false
  }
  t.true(await held())
  t.true(await isPending(receiving))
  channel.close()
  t.deepEqual(await codesOf([receiving]), ['ERR_SOCKET_CLOSED'])
})

test('where the other end ends, what waits rejects, and descriptors are closed', async (t) => {
  const { channel, peer } = pair(t)
  const things = Array.from({ length: 3 }, () => thing(t))
  const sent = things.map(({ sent: each }) => channel.send('lost', each))
  for (const { sent: each } of things) each.close()
  const receiving = channel.receive()
  ;(await receive(peer)).close()
  peer.close()
  for (const each of sent) await t.throwsAsync(each, { code: 'ECONNRESET' })
  t.is(await receiving, null)
  for (const { isClosed } of things) t.true(await isClosed())

  const half = pair(t)
  await half.peer.send('"half a mess')
  half.peer.close()
  await t.throwsAsync(half.channel.receive(), { code: 'EPROTO', message: /within a message/ })
})

test('a child that is killed midway loses what it had, and nothing stays open here', async (t) => {
  const { channel, pid, done } = startChild(t)
  await channel.send(['echo', 'alive'])
  t.deepEqual((await next(channel)).message, { echo: 'alive' })
  process.kill(pid, 'SIGSTOP')
  const things = Array.from({ length: 20 }, () => thing(t))
  const sent = things.map(({ sent: each }) => channel.send(['use'], each))
  for (const { sent: each } of things) each.close()
  t.true(await isPending(sent[0]!))
  process.kill(pid, 'SIGKILL')
  for (const each of sent) await t.throwsAsync(each, { code: 'ECONNRESET' })
  for (const { isClosed } of things) t.true(await isClosed())
  await t.throwsAsync(done, { message: /SIGKILL/ })
})

test('an abort takes back what waits, and loses nothing', async (t) => {
  const { channel, peer } = pair(t)
  const cause = new Error('enough')
  const ending = new AbortController()
  const [gone, waits] = [thing(t), thing(t)]
  const first = channel.send('gone', gone.sent, { signal: ending.signal })
  const second = channel.send('taken back', waits.sent, { signal: ending.signal })
  const third = channel.send('third')
  for (const { sent } of [gone, waits]) sent.close()
  const receiving = channel.receive({ signal: ending.signal })
  t.true(await isPending(receiving))
  ending.abort(cause)
  for (const each of [first, second, receiving]) {
    t.is((await t.throwsAsync(each, { name: 'AbortError', code: 'ABORT_ERR' })).cause, cause)
  }
  t.true(await waits.isClosed())
  const message = await receive(peer)
  t.is(message.fds.length, 1)
  message.close()
  await peer.send(ACK + line('not lost'))
  t.is(text(await receive(peer)), line('third')) // not what was taken back
  await third
  t.is((await next(channel)).message, 'not lost')
  t.true(await gone.isClosed())
  await t.throwsAsync(channel.receive({ signal: AbortSignal.abort() }), { name: 'AbortError' })
  t.throws(() => channel.messages({ signal: AbortSignal.abort() }), { name: 'AbortError' })
})

test('close rejects what waits, ends an iteration, and closes what nobody has received', async (t) => {
  const { channel, peer } = pair(t)
  const [sent, came] = [thing(t), thing(t)]
  const sending = channel.send('waits', sent.sent)
  const behind = channel.send('behind it')
  sent.sent.close()
  await peer.sendFd(came.sent, line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'held' }))
  came.sent.close()
  ;(await receive(peer)).close()
  t.is(text(await receive(peer)), ACK) // the channel reads, as it waits for an acknowledgement
  channel.close()
  channel.close()
  t.true(channel.closed)
  for (const each of [sending, behind, channel.receive(), channel.send('late')]) {
    await t.throwsAsync(each, { code: 'ERR_SOCKET_CLOSED' })
  }
  t.is(await peer.recv(), null)
  for (const { isClosed } of [sent, came]) t.true(await isClosed())

  const { channel: other } = pair(t)
  const ended = (async () => {
    for await (const each of other) t.fail(String(each))
  })()
  const receiving = other.receive()
  t.true(await isPending(ended))
  other.close()
  await ended
  await t.throwsAsync(receiving, { code: 'ERR_SOCKET_CLOSED' })
})

test('a channel that nobody reads takes no more than it may hold', async (t) => {
  const { channel, peer } = pair(t, { maxBytes: 10_000 })
  const { sent } = thing(t)
  const sending = channel.send('waits', sent)
  sent.close()
  ;(await receive(peer)).close()
  const filling = (async () => {
    for (let i = 0; i < 100; i++) await peer.send(line([i, 'x'.repeat(5000)]))
    await peer.send(ACK)
  })()
  t.true(await isPending(sending))
  for (let i = 0; i < 100; i++) t.is(((await next(channel)).message as [number])[0], i)
  await filling
  await sending
})

test('two ends of ours speak with each other', async (t) => {
  const [one, other] = socketpair()
  using left = new NodeChannel(one)
  using right = new NodeChannel(other)
  const [a, b] = [thing(t), thing(t)]
  const sent = [left.send('to the right', a.sent), right.send('to the left', b.sent)]
  for (const { sent: each } of [a, b]) each.close()
  using atRight = await next(right)
  using atLeft = await next(left)
  t.deepEqual([atRight.message, atRight.fd!.kind], ['to the right', 'unix-stream'])
  t.deepEqual([atLeft.message, atLeft.fd!.kind], ['to the left', 'unix-stream'])
  await Promise.all(sent)
})

const make = (...args: unknown[]) => new (NodeChannel as unknown as new (...args: unknown[]) => unknown)(...args)

test('arguments of the wrong kind are refused, and nothing is sent', async (t) => {
  const { channel, peer } = pair(t)
  const send = loose(channel, 'send')
  for (const message of [undefined, () => {}, Symbol('message'), 5n])
    await rejects(t, 'message', TYPE, () => send(message))
  for (const message of [{ cmd: 'NODE_HANDLE' }, { cmd: 'NODE_x', a: 1 }]) {
    await rejects(t, 'message', VALUE, () => send(message), /NODE_/)
    await rejects(t, 'message', VALUE, () => send(message, peer), /NODE_/)
  }
  await rejects(t, 'message', VALUE, () => send({ toJSON: () => undefined }))
  await rejects(t, 'message', undefined, () => send({ a: 5n }), /BigInt/)
  await rejects(t, 'message', undefined, () => send({ a: 5n }, peer), /BigInt/)
  for (const fd of ['3', {}, true, []]) await rejects(t, 'fd', TYPE, () => send('message', fd), /"fd"/)
  for (const fd of [-1, 1.5, 2 ** 31]) await rejects(t, 'fd', RANGE, () => send('message', fd), /"fd"/)
  await rejects(t, 'fd', 'EBADF', () => send('message', 999_999))
  for (const name of ['send', 'receive'] as const) {
    const before = name === 'send' ? ['message', null] : []
    for (const options of notOptions) await rejects(t, name, TYPE, () => loose(channel, name)(...before, options))
    for (const signal of notSignals) await rejects(t, name, TYPE, () => loose(channel, name)(...before, { signal }))
    await rejects(t, name, 'ABORT_ERR', () => loose(channel, name)(...before, { signal: AbortSignal.abort() }))
  }
  for (const options of notOptions) throws(t, 'messages', TYPE, () => loose(channel, 'messages')(options))
  await channel.send({ cmd: 'NODE_' }) // nothing internal
  t.is(text(await receive(peer)), line({ cmd: 'NODE_' })) // the first that came

  for (const socket of [undefined, null, 3, {}, channel]) throws(t, 'socket', TYPE, () => make(socket))
  const [packets, other] = socketpair({ type: 'seqpacket' })
  throws(t, 'socket', VALUE, () => make(packets), /seqpacket/)
  t.false(packets.closed)
  for (const options of notOptions) throws(t, 'options', TYPE, () => make(packets, options))
  for (const maxBytes of [null, '5']) throws(t, 'maxBytes', TYPE, () => make(packets, { maxBytes }))
  for (const maxBytes of [0, 1.5, 2 ** 31]) throws(t, 'maxBytes', RANGE, () => make(packets, { maxBytes }))
  for (const socket of [packets, other, peer]) socket.close()
  throws(t, 'socket', 'ERR_SOCKET_CLOSED', () => make(peer))
})
