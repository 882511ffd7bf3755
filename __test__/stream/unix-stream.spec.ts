import { once } from 'node:events'
import { closeSync } from 'node:fs'
import test from 'ava'
import { Channel, Descriptor, UnixStream, bind, connect, listen, memfd, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import {
  CLOEXEC,
  hasWriter,
  isOpen,
  newPath,
  openFile,
  openPipe,
  readAll,
  sameFile,
  statusFlags
} from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import {
  assertBackPressure,
  event,
  openStream,
  contentsOf,
  receiveBytes,
  sendNumbered,
  takeOne,
  text
} from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const soon = () => ({ signal: AbortSignal.timeout(30_000) })

test('a full socket holds writes back: false, then drain; no descriptor is lost, and what was meant at the call arrives [B4] [A5]', async (t) => {
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
  const written = new Promise<void>((resolve) => {
    stream.write(Buffer.alloc(4 * 1024 * 1024), () => {
      taken = true
      resolve()
    })
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.false(taken)
  await receiveBytes(socket, 4 * 1024 * 1024)
  await written
})

test('data that arrives while a listener runs is emitted after earlier data, in a later turn of the event loop', async (t) => {
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

test("'fds' comes before its bytes can be read, with the listener's descriptors and the offset of the bytes", async (t) => {
  const { stream, socket } = openStream(t)
  const events: unknown[] = []
  const received: Descriptor[] = []
  stream.on('fds', (fds, offset) => {
    events.push(offset)
    received.push(...fds)
  })
  stream.on('data', (data) => events.push(String(data)))
  const file = openFile('content')
  await socket.send('first', { fds: [file, file] })
  await once(stream, 'data', soon())
  await socket.send('plain')
  await once(stream, 'data', soon())
  await socket.send('second', { fds: [file] })
  await once(stream, 'data', soon())
  t.deepEqual(events, [0, 'first', 'plain', 10, 'second'])
  t.is(received.length, 3)
  t.true(received.every((fd) => fd instanceof Descriptor && sameFile(fd.fd, file)))
  if (isLinux) t.true(received.every((fd) => (statusFlags(fd.fd) & CLOEXEC) !== 0))
  stream.destroy()
  t.true(received.every((fd) => isOpen(fd.fd))) // they outlive the stream
  closeSync(file)
  received.forEach((fd) => fd.closeSync())
})

test("descriptors are closed where 'fds' has no listener [S15]", async (t) => {
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
  t.is(text(await socket.recv()), 'goes on')
  t.throws(() => stream.writeWithFds('x', [], 'later' as never), { code: 'ERR_INVALID_ARG_TYPE' })
})

test('writeWithFds calls back when the kernel has accepted the bytes, and with the error of a stream that is destroyed', async (t) => {
  const { stream, socket } = openStream(t)
  const file = openFile('shared')
  const called: unknown[] = []
  await new Promise<void>((resolve) => {
    stream.writeWithFds('x', [file], (error) => {
      called.push(error ?? null)
      resolve()
    })
  })
  t.deepEqual(called, [null])
  t.deepEqual(contentsOf((await socket.recv())!.fds), ['shared'])
  stream.write(Buffer.alloc(4 * 1024 * 1024)) // fills the socket
  const failed = new Promise<unknown>((resolve) => stream.writeWithFds('y', [file], resolve))
  stream.destroy()
  t.regex(((await failed) as NodeJS.ErrnoException).code!, /^ERR_(SOCKET_CLOSED|STREAM_DESTROYED)$/)
  closeSync(file)
})

test('a socket and a descriptor are cast to a stream, and are closed from then on', async (t) => {
  const [a, b] = socketpair()
  const first = a.toStream()
  const second = Descriptor.from(b.release()).toStream()
  t.true(first instanceof UnixStream && second instanceof UnixStream)
  t.true(a.closed)
  t.is(a.localAddress, null)
  await t.throwsAsync(a.recv(), { code: 'ERR_SOCKET_CLOSED' })
  t.throws(() => a.toStream(), { code: 'ERR_SOCKET_CLOSED' })
  t.throws(() => a.messages()[Symbol.asyncIterator]() && a.release(), { code: 'ERR_SOCKET_CLOSED' })
  a.ref().unref().close() // all without effect on the stream
  await a[Symbol.asyncDispose]()
  const file = openFile('content')
  first.writeWithFds('both', [file])
  closeSync(file)
  const [[fds, offset], [data]] = await Promise.all([
    once(second, 'fds', soon()) as Promise<[Descriptor[], number]>,
    once(second, 'data', soon())
  ])
  t.deepEqual([String(data), contentsOf(fds), offset], ['both', ['content'], 0])
  const ended = event(first, 'close')
  second.destroy()
  first.resume()
  await ended
})

test('only an idle stream socket becomes a stream, and one that is refused is unchanged', async (t) => {
  const datagrams = bind(null)
  t.throws(() => datagrams.toStream(), { code: 'ERR_INVALID_FD_TYPE', message: /'dgram' has no toStream/ })
  datagrams.close()
  const [a, b] = socketpair()
  t.throws(() => a.toStream({ maxFds: 1 }), { code: 'ERR_OUT_OF_RANGE' })
  t.throws(() => a.toStream({ allowHalfOpen: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => a.toStream(null as never), { code: 'ERR_INVALID_ARG_TYPE' })
  const receiving = a.recv()
  t.throws(() => a.toStream(), { code: 'ERR_INVALID_STATE', message: /pending/ })
  await b.send('still a socket')
  t.is(text(await receiving), 'still a socket')
  const sending = a.send(Buffer.alloc(4 * 1024 * 1024))
  t.throws(() => a.toStream(), { code: 'ERR_INVALID_STATE', message: /pending/ })
  const failing = t.throwsAsync(sending, { code: 'ERR_SOCKET_CLOSED' })
  a.close()
  await failing
  b.close()
  const [c, d] = socketpair()
  const channel = new Channel(c)
  t.throws(() => c.toStream(), { code: 'ERR_INVALID_STATE', message: /Channel/ })
  channel.close()
  d.close()
  const memory = memfd()
  t.throws(() => memory.toStream(), { code: 'ERR_INVALID_FD_TYPE' })
  t.is(memory.kind, 'memfd')
  memory.closeSync()
  const [e, f] = socketpair().map((socket) => Descriptor.from(socket.release()))
  t.throws(() => e!.toStream({ maxFds: -1 }), { code: 'ERR_OUT_OF_RANGE' })
  t.is(e!.kind, 'unix-stream')
  ;[e, f].forEach((descriptor) => descriptor!.closeSync())
})

test('messages that an iteration received ahead are the first of the stream, with their descriptors', async (t) => {
  const [ours, socket] = socketpair()
  const file = openFile('content')
  await sendNumbered(socket, file, 5)
  closeSync(file)
  const first = await takeOne(ours)
  t.is(text(first), '0')
  first.close()
  const stream = ours.toStream()
  const fds: Descriptor[] = []
  stream.on('fds', (more) => fds.push(...more))
  let data = ''
  stream.setEncoding('utf8').on('data', (more) => (data += more))
  socket.close()
  await once(stream, 'end', soon())
  t.is(data, '1234')
  t.is(fds.length, 4)
  fds.forEach((fd) => fd.closeSync())
})

test('a stream over an accepted connection counts as a connection of its server until it closes', async (t) => {
  const server = await listen(newPath('server'), { maxConnections: 1 })
  t.teardown(() => server.close())
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const stream = connection.toStream()
  const second = await connect(server.address)
  const accepting = server.accept()
  t.is(await second.recv(), null) // closed at once
  client.close()
  stream.resume()
  await once(stream, 'close', soon())
  const third = await connect(server.address)
  ;(await accepting).close()
  for (const socket of [second, third]) socket.close()
})

test('destroy closes captured descriptors of pending writes, and received ones that were not emitted', async (t) => {
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

for (const [listens, outcome] of [
  [true, 'one, lost at 3: ERR_CONTROL_TRUNCATED bytes, bytes, 1 descriptors, two, end, 0 left\n'],
  [false, 'one, ERR_CONTROL_TRUNCATED, 0 left\n']
] as const) {
  onLinux(
    `descriptors that do not fit into the table are an error of the stream ${listens ? "for which 'fdsLost' has a listener, and which goes on" : "without a listener of 'fdsLost', and destroy it"}`,
    async (t) => {
      const { socket, done } = startLimited(64, 'tables', ['stream', String(listens)])
      await socket.recv() // it is ready
      const file = openFile()
      await socket.send('one')
      await socket.recv() // it was read
      await socket.send('bytes', { fds: Array.from({ length: 100 }, () => file) })
      await socket.send('two', { fds: [file] }).catch(() => {})
      closeSync(file)
      socket.close()
      t.is(await done, outcome)
    }
  )
}

test('descriptors of unread bytes are back-pressure until the bytes are read [S243]', async (t) => {
  const { stream, socket } = openStream(t)
  await assertBackPressure(t, stream, socket)
})

test('a read that needs more descriptors than maxFds destroys the stream [S244]', async (t) => {
  const { stream, socket } = openStream(t)
  const { read, write } = openPipe()
  const received: Descriptor[] = []
  stream.on('fds', (fds) => received.push(...fds))
  stream.on('readable', () => stream.read(16)) // as dbus-native reads a header
  const failed = event(stream, 'error')
  for (let i = 0; i < 8; i++) socket.send('x', { fds: Array.from({ length: 100 }, () => write) }).catch(() => {})
  t.like(await failed, { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.true(received.length <= 506)
  socket.close()
  closeSync(write)
  received.forEach((fd) => fd.closeSync())
  t.false(hasWriter(read))
  closeSync(read)
})

test('maxFds is at least two messages of the kernel', (t) => {
  const [ours, socket] = socketpair()
  t.teardown(() => {
    ours.close()
    socket.close()
  })
  for (const maxFds of [-1, 0, 505, 1.5]) t.throws(() => ours.toStream({ maxFds }), { code: 'ERR_OUT_OF_RANGE' })
  t.throws(() => ours.toStream({ maxFds: '5' as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  t.false(ours.closed)
})

test('a write returns false while many descriptors wait to be sent, and drain follows [S250]', async (t) => {
  const { stream, socket } = openStream(t)
  const file = openFile('shared')
  let messages = 1
  while (
    stream.writeWithFds(
      'x',
      Array.from({ length: 50 }, () => file)
    )
  )
    messages++
  t.true(stream.writableNeedDrain)
  t.true(stream.writableLength * 50 <= 506, `${stream.writableLength} messages`)
  const drained = once(stream, 'drain', soon())
  let received = 0
  while (received < messages * 50) {
    const message = await socket.recv()
    received += message!.fds.length
    message!.close()
  }
  await drained
  t.true(stream.writeWithFds('x', [file]))
  closeSync(file)
})
