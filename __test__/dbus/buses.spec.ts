import { once } from 'node:events'
import { closeSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { bind, listen, memfd, socketpair } from 'fdpass'
import { DBusStream, connectBus } from 'fdpass/dbus'
import { type Message, messageType } from 'dbus-native'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { Bus, encodeCall, encodeField, hasBus, openPeers, startBus } from '../helpers/dbus.ts'
import { hasWriter, isOpen, openFile, openPipe, readAll, sameFile, temporaryFolder } from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const soon = () => ({ signal: AbortSignal.timeout(30_000) })

const folder = temporaryFolder()

let names = 0

const newPath = () => join(folder, `bus-${names++}`)

/** Connects by an address to a server that sends its name. */
async function reached(address: string, path: string): Promise<string> {
  const server = await listen(path)
  try {
    const [stream, socket] = await Promise.all([connectBus(address), server.accept()])
    await socket.send('here')
    const [data] = await once(stream, 'data', soon())
    stream.destroy()
    socket.close()
    return String(data)
  } finally {
    server.close()
  }
}

test('connectBus finds a socket by its path, with escapes, and by the first of several addresses with a listener', async (t) => {
  for (const [made, address] of [
    [newPath(), (at: string) => `unix:path=${at}`],
    [newPath(), (at: string) => `unix:guid=00,path=${at},other=1;`],
    [`${newPath()} ü,;%`, (at: string) => `unix:path=${encodeURIComponent(at)}`],
    [newPath(), (at: string) => `tcp:host=localhost,port=1;unix:tmpdir=/tmp;unix:path=${folder}/nobody;unix:path=${at}`]
  ] as const) {
    t.is(await reached(address(made), made), 'here')
  }
})

onLinux('connectBus finds a socket by its abstract name', async (t) => {
  const name = `fdpass-${process.pid} 1`
  t.is(await reached(`unix:abstract=${name.replace(' ', '%20')}`, `\0${name}`), 'here')
})

test.serial('connectBus finds the session and the system bus by the environment', async (t) => {
  const { env } = process
  const before = { ...env }
  try {
    const runtime = join(folder, 'bus')
    env.XDG_RUNTIME_DIR = folder
    delete env.DBUS_SESSION_BUS_ADDRESS
    t.is(await reached('session', runtime), 'here')
    t.is(await reached('unix:runtime=yes', runtime), 'here')
    env.DBUS_SESSION_BUS_ADDRESS = `unix:path=${folder}/session`
    t.is(await reached('session', `${folder}/session`), 'here')
    env.DBUS_SYSTEM_BUS_ADDRESS = `unix:path=${folder}/system`
    t.is(await reached('system', `${folder}/system`), 'here')
    delete env.XDG_RUNTIME_DIR
    delete env.DBUS_SESSION_BUS_ADDRESS
    await t.throwsAsync(connectBus(), { code: 'ERR_INVALID_ARG_VALUE' })
    await t.throwsAsync(connectBus('unix:runtime=yes'), { code: 'ERR_INVALID_ARG_VALUE' })
  } finally {
    for (const name of ['XDG_RUNTIME_DIR', 'DBUS_SESSION_BUS_ADDRESS', 'DBUS_SYSTEM_BUS_ADDRESS']) {
      if (before[name] === undefined) delete env[name]
      else env[name] = before[name]
    }
  }
})

test('connectBus rejects what is no address, what carries no descriptors, and with the error of the last address', async (t) => {
  for (const address of [
    '',
    'bus',
    '/run/bus',
    'tcp:host=localhost,port=1',
    'unix:',
    'unix:path',
    'unix:path=/x%2',
    'unix:path=/x,path=/y',
    'unix:path=/x,abstract=y',
    'unix:dir=/tmp'
  ]) {
    await t.throwsAsync(connectBus(address), { code: 'ERR_INVALID_ARG_VALUE' }, address)
  }
  await t.throwsAsync(connectBus(1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  const file = join(folder, 'file')
  writeFileSync(file, '')
  await t.throwsAsync(connectBus(`unix:path=${file};unix:path=${folder}/nobody`), { code: 'ENOENT' })
  await t.throwsAsync(connectBus(`unix:path=${file}`, { signal: AbortSignal.abort() }), { name: 'AbortError' })
})

const withBus = onlyIf(hasBus, 'needs dbus-daemon')

const call = (serial: number, fds: number[]) => ({
  type: messageType.methodCall,
  serial,
  path: '/files',
  interface: 'fdpass.Files',
  member: 'Take',
  signature: 'sah',
  body: ['', fds.map((_, i) => i)],
  fds
})

/** Collects messages, until there are so many. */
async function messages(connection: Awaited<ReturnType<typeof openPeers>>['server'], count: number) {
  const received: Message[] = []
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${received.length} of ${count} came`)), 60_000)
    connection.on('message', (message: Message) => {
      received.push(message)
      if (received.length < count) return
      clearTimeout(timer)
      resolve()
    })
  })
  return received
}

test('dbus-native passes descriptors both ways, each with its own message', async (t) => {
  const { server, client } = await openPeers(t)
  t.true(server.canPassFds && server.unixFdsAgreed && client.canPassFds && client.unixFdsAgreed)
  for (const [from, to] of [
    [client, server],
    [server, client]
  ] as const) {
    const arriving = messages(to, 3)
    const files = ['one', 'two', 'three'].map((content) => openFile(content))
    from.message(call(1, [files[0]!]) as Message)
    from.message({ type: messageType.methodCall, serial: 2, path: '/files', member: 'Plain' } as Message)
    from.message(call(3, [files[1]!, files[2]!]) as Message)
    files.forEach((file) => closeSync(file))
    const received = await arriving
    t.deepEqual(
      received.map(({ fds = [] }) => fds.map((fd) => readAll(fd))),
      [['one'], [], ['two', 'three']]
    )
    for (const { fds = [] } of received) fds.forEach((fd) => closeSync(fd))
  }
})

withBus('50 pipelined calls arrive over a bus in order, each with its descriptors [B13]', async (t) => {
  const { path } = startBus(t)
  const [caller, service] = [await Bus.open(t, path), await Bus.open(t, path)]
  service.serve('answered')
  const files = Array.from({ length: 50 }, (_, i) => openFile(`file ${i}`))
  const calls = files.map((file) => {
    const more = { signature: 'h', body: [0], fds: [file] }
    const reply = caller.call(service.name, '/files', 'fdpass.Files', 'Exchange', more)
    closeSync(file) // what it means has been captured
    return reply
  })
  for (const [i, { body, fds }] of (await Promise.all(calls)).entries()) {
    t.deepEqual(body, [`file ${i}`, 0])
    t.is(fds!.length, 1)
    t.is(readAll(fds![0]!), 'answered')
    closeSync(fds![0]!)
  }
})

test('messages with descriptors keep their order between plain ones that are corked', async (t) => {
  const { server, client } = await openPeers(t)
  const arriving = messages(server, 200)
  for (let i = 0; i < 200; i++) {
    if (i % 3 === 0) {
      const file = openFile(`file ${i}`)
      client.message(call(i + 1, [file]) as Message)
      closeSync(file)
    } else {
      client.message(call(i + 1, []) as Message)
    }
  }
  for (const [i, { serial, fds = [] }] of (await arriving).entries()) {
    t.is(serial, i + 1)
    t.deepEqual(
      fds.map((fd) => readAll(fd)),
      i % 3 === 0 ? [`file ${i}`] : []
    )
    fds.forEach((fd) => closeSync(fd))
  }
})

withBus('a message of 8 MiB with one descriptor goes over a bus, and is answered with another', async (t) => {
  const { path } = startBus(t)
  const [caller, service] = [await Bus.open(t, path), await Bus.open(t, path)]
  service.serve('answered')
  const memory = memfd({ data: 'beside 8 MiB' })
  const more = { signature: 'hs', body: [0, 'x'.repeat(8 * 1024 * 1024)], fds: [memory.fd] }
  const reply = caller.call(service.name, '/files', 'fdpass.Files', 'Exchange', more)
  memory.closeSync()
  const { body, fds } = await reply
  t.deepEqual(body, ['beside 8 MiB', 0])
  t.is(readAll(fds![0]!), 'answered')
  closeSync(fds![0]!)
})

test("a stream for D-Bus reports descriptors as numbers, which are the listener's", async (t) => {
  const [ours, socket] = socketpair()
  const stream = new DBusStream(ours)
  t.true(ours.closed)
  const file = openFile('content')
  await socket.send('bytes', { fds: [file, file] })
  const [[numbers], [data]] = await Promise.all([
    once(stream, 'fds', soon()) as Promise<[number[]]>,
    once(stream, 'data', soon())
  ])
  t.is(String(data), 'bytes')
  t.true(numbers.every((fd) => sameFile(fd, file)))
  stream.destroy()
  t.true(numbers.every(isOpen)) // they outlive the stream
  for (const fd of [file, ...numbers]) closeSync(fd)
  socket.close()
})

test('only an idle stream socket becomes a stream for D-Bus', async (t) => {
  const datagrams = bind(null)
  t.throws(() => new DBusStream(datagrams), { code: 'ERR_INVALID_ARG_VALUE' })
  datagrams.close()
  const [a, b] = socketpair()
  const receiving = a.recv()
  t.throws(() => new DBusStream(a), { code: 'ERR_INVALID_STATE' })
  await b.send('still a socket')
  t.is(text(await receiving), 'still a socket')
  a.close()
  b.close()
  t.throws(() => new DBusStream(a), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => new DBusStream({} as never), { code: 'ERR_INVALID_ARG_TYPE' })
})

test('descriptors that no message claims are closed with the connection', async (t) => {
  const { server, streams } = await openPeers(t)
  const { read, write } = openPipe()
  streams[1]!.writeWithFds(Buffer.from('l'), [write, write]) // half a message, and nobody will ever claim these
  closeSync(write)
  await once(streams[0]!, 'fds', soon())
  t.true(hasWriter(read))
  server.on('error', () => {}) // half a message
  const gone = new Promise((resolve) => server.once('close', resolve))
  streams[1]!.destroy()
  await gone
  t.false(hasWriter(read))
  closeSync(read)
})

test('closeFds refuses a number that is not open, and passes over a lost one', (t) => {
  const [ours, socket] = socketpair()
  const stream = new DBusStream(ours)
  const [closed, open] = [openFile(), openFile()]
  closeSync(closed)
  t.throws(() => stream.closeFds([closed]), { code: 'EBADF' })
  stream.closeFds([-1, open, -1])
  t.false(isOpen(open))
  stream.destroy()
  socket.close()
})

/** A peer by dbus-native with room for 64 descriptors, as far as its first message. */
async function startSmallPeer(): Promise<ReturnType<typeof startLimited>> {
  const peer = startLimited(64, 'tables', ['dbus'])
  const { socket } = peer
  await socket.send(`\0AUTH EXTERNAL ${Buffer.from(`${process.getuid!()}`).toString('hex')}\r\n`)
  await socket.recv() // OK
  await socket.send('NEGOTIATE_UNIX_FD\r\n')
  await socket.recv() // AGREE_UNIX_FD
  await socket.send('BEGIN\r\n')
  await socket.recv() // the peer has read it
  return peer
}

const tooMany = 100

for (const [title, bigEndian, cuts] of [
  ['in one piece', false, []],
  ['in big-endian byte order', true, []],
  ['cut inside of its fixed header', false, [5]],
  ['cut inside of its header fields, and inside of its fixed header', false, [9, 30, 44]]
] as const) {
  onLinux(
    `a D-Bus message whose descriptors do not fit into the table has -1 for each, and the next one its own: ${title}`,
    async (t) => {
      const { socket, done } = await startSmallPeer()
      const [file, other] = [openFile('lost'), openFile('content')]
      await socket.send(encodeCall(1, 0))
      const large = encodeCall(2, tooMany, { bigEndian })
      const parts = [0, ...cuts].map((from, i) => large.subarray(from, cuts[i] ?? large.length))
      await socket.send(parts[0]!, { fds: Array.from({ length: tooMany }, () => file) })
      for (const part of parts.slice(1)) await socket.send(part)
      await socket.send(encodeCall(3, 1, { bigEndian }), { fds: [other] })
      await socket.send(encodeCall(4, 0))
      closeSync(file)
      closeSync(other)
      socket.shutdown('write')
      t.is(
        await done,
        `1: 0 lost, \n2: ${tooMany} lost, \n3: 0 lost, content\n4: 0 lost, \n0 left, ERR_CONTROL_TRUNCATED\n`
      )
      socket.close()
    }
  )
}

onLinux(
  'a D-Bus message whose descriptors were lost, and whose header is longer than any, ends the stream [S270]',
  async (t) => {
    const { socket, done } = await startSmallPeer()
    const beginning = encodeCall(1, tooMany).subarray(0, 16)
    beginning.writeUInt32LE(2 ** 26, 12) // the length of the header fields
    await socket.send(beginning, { fds: Array.from({ length: tooMany }, () => 0) })
    let sent = 0
    const sending = async () => {
      for (; ; sent += 10_000) await socket.send(Buffer.alloc(10_000))
    }
    const { code } = (await t.throwsAsync<NodeJS.ErrnoException>(sending()))!
    t.regex(code!, /^(EPIPE|ECONNRESET)$/)
    t.true(sent < 2_000_000, `${sent}`) // what is kept, and what the socket holds: not the whole header
    t.is(await done, 'error EPROTO\n0 left, ERR_CONTROL_TRUNCATED\n')
    socket.close()
  }
)

onLinux(
  'descriptors inside of a D-Bus header, of a message whose own were lost, end the stream and are closed [S270]',
  async (t) => {
    const { socket, done } = await startSmallPeer()
    const file = openFile('content')
    const message = encodeCall(1, tooMany)
    await socket.send(message.subarray(0, 9), { fds: Array.from({ length: tooMany }, () => file) })
    await socket.send(message.subarray(9, 12), { fds: [file] })
    closeSync(file)
    t.is(await done, 'error EPROTO\n0 left, ERR_CONTROL_TRUNCATED\n')
    socket.close()
  }
)

onLinux('descriptors that no D-Bus message claims and that do not fit into the table change nothing', async (t) => {
  const { socket, done } = await startSmallPeer()
  const [file, other] = [openFile('lost'), openFile('content')]
  await socket.send(encodeCall(1, 0), { fds: Array.from({ length: tooMany }, () => file) })
  await socket.send(encodeCall(2, 1), { fds: [other] })
  closeSync(file)
  closeSync(other)
  socket.shutdown('write')
  t.is(await done, '1: 0 lost, \n2: 0 lost, content\n0 left, ERR_CONTROL_TRUNCATED\n')
  socket.close()
})

onLinux(
  'lost descriptors of a D-Bus message with a header field of an unknown type are an error of the stream',
  async (t) => {
    const { socket, done } = await startSmallPeer()
    const file = openFile('lost')
    const unknown = encodeField(77, 'y', Buffer.from([1]))
    await socket.send(encodeCall(1, tooMany, { before: [unknown] }), {
      fds: Array.from({ length: tooMany }, () => file)
    })
    closeSync(file)
    t.is(await done, 'error ERR_CONTROL_TRUNCATED\n0 left, ERR_CONTROL_TRUNCATED\n')
    socket.close()
  }
)
