import { type EventEmitter, once } from 'node:events'
import { closeSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Message, createConnection, messageType } from 'dbus-native'
import { UnixSocket, bind, listen, memfd, socketpair } from 'fdpass'
import { DBusStream, connectBus } from 'fdpass/dbus'
import { Bus, hasBus, startBus } from '../helpers/buses.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, isOpen, openFile, openPipe, readAll, sameFile, temporaryFolder } from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import { receiveBytes } from '../helpers/streams.ts'

const withBus = onlyIf(hasBus, 'needs dbus-daemon')
const onLinux = onlyIf(isLinux, 'needs Linux')
const soon = () => ({ signal: AbortSignal.timeout(30_000) })

/** Resolves at an event, errors or not. */
const event = (emitter: EventEmitter, name: string) =>
  new Promise<unknown>((resolve) => emitter.once(name, (value: unknown) => resolve(value)))

/** A stream, and the socket at its other end; both end with the test. */
function openStream(t: ExecutionContext): { stream: DBusStream; socket: UnixSocket } {
  const [ours, socket] = socketpair()
  const stream = new DBusStream(ours)
  t.teardown(() => {
    stream.destroy()
    socket.close()
  })
  return { stream, socket }
}

/** Two peers without a bus, of which the first was the server of the handshake. */
async function openPeers(t: ExecutionContext) {
  const streams = socketpair().map((socket) => new DBusStream(socket))
  t.teardown(() => streams.forEach((stream) => stream.destroy()))
  // dbus-native's declarations tell neither of `server` nor of `direct`.
  const options = [
    { stream: streams[0], server: true },
    { stream: streams[1], direct: true }
  ] as object[]
  const connections = options.map((each) => createConnection(each as Parameters<typeof createConnection>[0]))
  await Promise.all(connections.map((connection) => once(connection, 'connect', soon())))
  return { server: connections[0]!, client: connections[1]!, streams }
}

const call = (serial: number, fds: number[], text = '') => ({
  type: messageType.methodCall,
  serial,
  path: '/files',
  interface: 'fdpass.Files',
  member: 'Take',
  signature: 'sah',
  body: [text, fds.map((_, i) => i)],
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

test('a full socket holds writes back: false, then drain; no descriptor is lost, and what was meant at the call arrives [B4, A5]', async (t) => {
  const { stream, socket } = openStream(t)
  const size = 64 * 1024
  const results: boolean[] = []
  for (let i = 0; i < 60; i++) {
    const file = openFile(`file ${i}`)
    results.push(stream.writeWithFds(Buffer.alloc(size, i), [file]))
    closeSync(file)
    const other = openFile('another file') // has the number now
    t.is(other, file)
    closeSync(other)
  }
  t.false(results.at(-1))
  t.true(stream.writableNeedDrain)
  t.true(stream.writableLength > 30 * size)
  const drained = once(stream, 'drain', soon())
  const { data, fds } = await receiveBytes(socket, 60 * size)
  await drained
  t.is(stream.writableLength, 0)
  t.true(
    Array.from({ length: 60 }, (_, i) => i).every((i) =>
      data.subarray(i * size, (i + 1) * size).every((byte) => byte === i)
    )
  )
  t.deepEqual(
    fds.map((fd) => readAll(fd.fd)),
    Array.from({ length: 60 }, (_, i) => `file ${i}`)
  )
  fds.forEach((fd) => fd.closeSync())
})

test('a write is called back when the kernel has taken it, and not before', async (t) => {
  const { stream, socket } = openStream(t)
  let taken = false
  stream.write(Buffer.alloc(4 * 1024 * 1024), () => (taken = true))
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.false(taken)
  await receiveBytes(socket, 4 * 1024 * 1024)
  await new Promise((resolve) => setImmediate(resolve))
  t.true(taken)
})

test('what comes while a listener runs comes after what came before, and after a turn of the event loop', async (t) => {
  const [first, second] = [openStream(t), openStream(t)]
  const order: string[] = []
  second.stream.on('data', (data: Buffer) => order.push(String(data)))
  second.socket.send('ready')
  await once(second.stream, 'data', soon()) // it is watched now
  const both = new Promise<void>((resolve) => {
    first.stream.on('data', (data: Buffer) => {
      order.push(String(data))
      if (order.length > 2) return resolve()
      setImmediate(() => order.push('a turn'))
      void second.socket.send('sent before')
      void first.socket.send('sent behind')
    })
  })
  await first.socket.send('begin')
  await both
  t.deepEqual(order.slice(0, 2), ['ready', 'begin'])
  t.not(order[2], 'sent behind')
})

test("'fds' comes before its bytes can be read, with numbers that are close-on-exec and the listener's", async (t) => {
  const { stream, socket } = openStream(t)
  const events: unknown[] = []
  let numbers: number[] = []
  stream.on('fds', (fds: number[]) => {
    events.push('fds')
    numbers = fds
  })
  stream.on('data', (data: Buffer) => events.push(data.toString()))
  const file = openFile('content')
  await socket.send('bytes', { fds: [file, file] })
  await once(stream, 'data', soon())
  t.deepEqual(events, ['fds', 'bytes'])
  t.is(numbers.length, 2)
  t.true(numbers.every((fd) => sameFile(fd, file)))
  if (isLinux)
    t.true(
      numbers.every(
        (fd) =>
          (parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1]!, 8) & 0o2000000) !== 0
      )
    )
  stream.destroy()
  t.true(numbers.every(isOpen)) // they outlive the stream
  ;[file, ...numbers].forEach((fd) => closeSync(fd))
})

test("descriptors are closed where nobody listens to 'fds'", async (t) => {
  const { stream, socket } = openStream(t)
  const { read, write } = openPipe()
  await socket.send('bytes', { fds: Array.from({ length: 253 }, () => write) })
  closeSync(write)
  t.true(hasWriter(read))
  const [data] = await once(stream, 'data', soon())
  t.is(String(data), 'bytes')
  t.false(hasWriter(read))
  closeSync(read)
})

test('what cannot be sent is refused at the call, and the stream goes on', async (t) => {
  const { stream, socket } = openStream(t)
  const closed = openFile()
  closeSync(closed)
  t.throws(() => stream.writeWithFds(Buffer.from('x'), [closed]), { code: 'EBADF' })
  t.throws(() => stream.writeWithFds(Buffer.alloc(0), [0]), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(
    () =>
      stream.writeWithFds(
        Buffer.from('x'),
        Array.from({ length: 254 }, () => 0)
      ),
    { code: 'ERR_OUT_OF_RANGE' }
  )
  t.throws(() => stream.writeWithFds(Buffer.from('x'), [-1]), { code: 'ERR_OUT_OF_RANGE' })
  t.throws(() => stream.writeWithFds(Buffer.from('x'), 0 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => stream.writeWithFds(1 as never, []), { code: 'ERR_INVALID_ARG_TYPE' })
  t.true(stream.writeWithFds('goes on', []))
  t.is(Buffer.from((await socket.recv())!.data).toString(), 'goes on')
})

test('only a connected stream socket becomes a stream', (t) => {
  const datagrams = bind(null)
  t.throws(() => new DBusStream(datagrams), { code: 'ERR_INVALID_ARG_VALUE' })
  datagrams.close()
  const [a, b] = socketpair()
  a.close()
  b.close()
  t.throws(() => new DBusStream(a), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => new DBusStream({} as never), { code: 'ERR_INVALID_ARG_TYPE' })
})

test('end sends what waits and then the end; what the peer still says is read', async (t) => {
  const { stream, socket } = openStream(t)
  const file = openFile('last')
  stream.write(Buffer.alloc(2 * 1024 * 1024))
  stream.writeWithFds('last', [file])
  stream.end()
  closeSync(file)
  const { fds } = await receiveBytes(socket, 2 * 1024 * 1024 + 4)
  t.is(readAll(fds[0]!.fd), 'last')
  fds[0]!.closeSync()
  t.is(await socket.recv(), null)
  await socket.send('an answer')
  const [data] = await once(stream, 'data', soon())
  t.is(String(data), 'an answer')
  t.false(stream.destroyed)
  socket.close()
  await once(stream, 'close', soon())
})

test("the peer's end ends the stream, which closes", async (t) => {
  const { stream, socket } = openStream(t)
  await socket.send('last')
  socket.shutdown('write')
  const ended = once(stream, 'end', soon())
  stream.resume()
  await ended
  await once(stream, 'close', soon())
  t.is(await socket.recv(), null)
})

test('a peer that has gone is an error of the stream: EPIPE', async (t) => {
  const { stream, socket } = openStream(t)
  socket.close()
  const failed = event(stream, 'close')
  const error = event(stream, 'error')
  stream.writeWithFds('x', [0])
  t.like(await error, { code: 'EPIPE', syscall: 'sendmsg' })
  await failed
  t.true(stream.destroyed)
})

test('writing after the end, or after destroy, is the error of any stream, and nothing is captured', async (t) => {
  for (const finish of ['end', 'destroy'] as const) {
    const { stream } = openStream(t)
    const { read, write } = openPipe()
    stream[finish]()
    const error = event(stream, 'error')
    t.false(stream.writeWithFds('late', [write]))
    if (finish === 'end') t.like(await error, { code: 'ERR_STREAM_WRITE_AFTER_END' })
    closeSync(write)
    t.false(hasWriter(read))
    closeSync(read)
  }
})

test('destroy closes what was captured and waits, and what came and was not given out', async (t) => {
  const { stream, socket } = openStream(t)
  const { read, write } = openPipe()
  stream.write(Buffer.alloc(4 * 1024 * 1024)) // fills the socket
  stream.writeWithFds('waits', [write])
  closeSync(write)
  t.true(hasWriter(read))
  stream.destroy()
  t.false(hasWriter(read))
  closeSync(read)
  await t.throwsAsync(
    async () => {
      for (;;) await socket.send('x')
    },
    { code: 'EPIPE' }
  )
})

test('descriptors that no message claims are closed with the connection', async (t) => {
  const { server, streams } = await openPeers(t)
  const { read, write } = openPipe()
  streams[1]!.writeWithFds(Buffer.from('l'), [write, write]) // half a message, and nobody will ever claim these
  closeSync(write)
  await once(streams[0]!, 'fds', soon())
  t.true(hasWriter(read))
  server.on('error', () => {}) // half a message
  const gone = event(server, 'close')
  streams[1]!.destroy()
  await gone
  t.false(hasWriter(read))
  closeSync(read)
})

test('closeFds refuses a number that is not open', (t) => {
  const { stream } = openStream(t)
  const closed = openFile()
  closeSync(closed)
  t.throws(() => stream.closeFds([closed]), { code: 'EBADF' })
})

onLinux('a message whose descriptors do not fit into the table is an error of the stream', async (t) => {
  const { socket, done } = startLimited(64, 'dbus-table', [])
  await socket.recv() // it is ready
  const file = openFile()
  await socket.send('bytes', { fds: Array.from({ length: 100 }, () => file) })
  closeSync(file)
  t.is(await done, 'ERR_CONTROL_TRUNCATED\nclosed, 0 left\n')
  socket.close()
})

const folder = temporaryFolder()
let names = 0
const newPath = () => join(folder, `bus-${names++}`)

/** Connects by an address to a server that says its name. */
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

test('connectBus finds a socket by its path, with escapes, and by the first of several addresses that somebody listens on', async (t) => {
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

test.serial('connectBus finds the session and the system bus where the environment says', async (t) => {
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
