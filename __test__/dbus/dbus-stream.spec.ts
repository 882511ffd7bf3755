import { type EventEmitter, once } from 'node:events'
import { closeSync, readFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { UnixSocket, bind, socketpair } from 'fdpass'
import { DBusStream } from 'fdpass/dbus'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { openPeers } from '../helpers/dbus-streams.ts'
import { hasWriter, isOpen, openFile, openPipe, readAll, sameFile } from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import { receiveBytes } from '../helpers/streams.ts'

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

test('end sends pending data and then the end; what the peer still sends is read', async (t) => {
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
