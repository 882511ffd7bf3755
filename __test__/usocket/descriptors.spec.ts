import { once } from 'node:events'
import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { listen, socketpair } from 'fdpass'
import { USocket } from 'fdpass/usocket'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newPath, openFile, openPipe, readAll, sameFile } from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import { assertBackPressure, eventOf, readWhenThere, receiveBytes } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const soon = () => ({ signal: AbortSignal.timeout(30_000) })

/** A socket over one end of a pair, and the other end. */
function openHalf(t: ExecutionContext) {
  const [ours, socket] = socketpair()
  const usocket = new USocket({ fd: ours.release() })
  t.teardown(() => {
    usocket.destroy()
    socket.close()
  })
  return { usocket, socket }
}

test('no descriptor is lost where a write has to wait [B4]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const size = 64 * 1024
  const called: number[] = []
  const results: boolean[] = []
  for (let i = 0; i < 60; i++) {
    const file = openFile(`file ${i}`)
    results.push(usocket.write({ data: Buffer.alloc(size, i), fds: [file], callback: () => called.push(i) }))
    closeSync(file) // captured: usocket would send what the number means later
  }
  t.false(results.at(-1))
  const drained = once(usocket, 'drain', soon())
  const { fds } = await receiveBytes(socket, 60 * size)
  await drained
  t.deepEqual(
    called,
    Array.from({ length: 60 }, (_, i) => i)
  )
  t.deepEqual(
    fds.map((fd) => readAll(fd.fd)),
    Array.from({ length: 60 }, (_, i) => `file ${i}`)
  )
  fds.forEach((fd) => fd.closeSync())
})

test('more than 64 descriptors come with one message', async (t) => {
  const { usocket, socket } = openHalf(t)
  const file = openFile('shared')
  await socket.send('many', { fds: Array.from({ length: 253 }, () => file) })
  const { fds } = await readWhenThere(usocket, 4, 253)
  t.true(fds.every((fd) => sameFile(fd, file)))
  ;[file, ...fds].forEach((fd) => closeSync(fd))
})

test('an array of descriptors goes with the next byte that is written; without one, the end is an error', async (t) => {
  const { usocket, socket } = openHalf(t)
  const files = [openFile('one'), openFile('two')]
  usocket.write([files[0]!])
  usocket.write({ fds: [files[1]!] })
  files.forEach((file) => closeSync(file))
  usocket.write('carrier')
  const { data, fds } = await receiveBytes(socket, 7)
  t.is(String(data), 'carrier')
  t.deepEqual(
    fds.map((fd) => readAll(fd.fd)),
    ['one', 'two']
  )
  fds.forEach((fd) => fd.closeSync())
  const { read, write } = openPipe()
  usocket.write([write])
  closeSync(write)
  const failed = eventOf(usocket, 'error')
  usocket.end()
  t.like(await failed, { code: 'ERR_INVALID_ARG_VALUE' })
  t.false(hasWriter(read))
  closeSync(read)
})

test('read with null takes the descriptors of the bytes up to there, not those of later messages', async (t) => {
  const { usocket, socket } = openHalf(t)
  const files = ['one', 'two'].map((content) => openFile(content))
  for (const [i, text] of ['plain', 'first', 'again', 'other'].entries()) {
    await socket.send(text, { fds: i % 2 === 1 ? [files[(i - 1) / 2]!] : [] })
  }
  files.forEach((file) => closeSync(file))
  while (usocket.readableLength < 20) {
    usocket.read(0)
    await new Promise((done) => setImmediate(done))
  }
  const parts = [5, 5, 5, 5].map((size) => usocket.read(size, null)!)
  t.deepEqual(
    parts.map(({ data, fds }) => [String(data), ...fds.map((fd) => readAll(fd))]),
    [['plain'], ['first', 'one'], ['again'], ['other', 'two']]
  )
  parts.forEach(({ fds }) => fds.forEach((fd) => closeSync(fd)))
  t.is(usocket.read(null, null), null)
})

test('what was read can be put back with its descriptors', async (t) => {
  const { usocket, socket } = openHalf(t)
  const file = openFile('content')
  await socket.send('bytes', { fds: [file] })
  closeSync(file)
  const { data, fds } = await readWhenThere(usocket, null, 1)
  usocket.unshift(data, fds)
  const again = usocket.read(5, 1)!
  t.is(String(again.data), 'bytes')
  t.is(readAll(again.fds[0]!), 'content')
  closeSync(again.fds[0]!)
})

test("descriptors are the 'fds' listener's where there is one, and not read's", async (t) => {
  const { usocket, socket } = openHalf(t)
  const seen = new Promise<number[]>((done) => usocket.once('fds', done))
  usocket.read(0)
  const file = openFile('content')
  await socket.send('bytes', { fds: [file] })
  closeSync(file)
  const fds = await seen
  t.is(usocket.read(1, 1), null)
  usocket.destroy()
  t.is(readAll(fds[0]!), 'content')
  closeSync(fds[0]!)
})

test('destroy closes received descriptors that were not taken, and pending ones [D3]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const { read, write } = openPipe()
  usocket.read(0)
  await socket.send('bytes', { fds: [write, write, write] })
  while (usocket.readableLength < 5) await new Promise((done) => setImmediate(done))
  usocket.write({ data: Buffer.alloc(4 * 1024 * 1024), fds: [write] })
  usocket.write({ data: 'waits', fds: [write] })
  usocket.write([write])
  closeSync(write)
  t.true(hasWriter(read))
  const closed = eventOf(usocket, 'close')
  usocket.destroy()
  socket.close()
  t.false(hasWriter(read))
  await closed
  t.is(usocket.read(5, 3), null)
  closeSync(read)
})

test('a peer that sends descriptors to a program that does not take them is held back [S13]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const { read, write } = openPipe()
  usocket.read(0)
  let sent = 0
  for (; sent < 8; sent++) {
    const gone = await Promise.race([
      socket.send('x', { fds: Array.from({ length: 250 }, () => write) }).then(() => true),
      new Promise<false>((done) => setTimeout(done, 100, false))
    ]).catch(() => false) // ETOOMANYREFS, which the socket tries again, or the table
    if (!gone) break
    await new Promise((done) => setTimeout(done, 20))
  }
  t.true(usocket.readableLength <= 2) // 250, and 250 more at most
  const { fds } = usocket.read(1, 250)!
  fds.forEach((fd) => closeSync(fd))
  const closed = eventOf(usocket, 'close')
  usocket.destroy()
  socket.close()
  await closed
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
})

test('what cannot be sent is refused at the call, and the socket goes on', async (t) => {
  const { usocket, socket } = openHalf(t)
  const closed = openFile()
  closeSync(closed)
  t.throws(() => usocket.write({ data: 'x', fds: [closed] }), { code: 'EBADF' })
  t.throws(() => usocket.write([closed]), { code: 'EBADF' })
  t.throws(() => usocket.write({ data: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => usocket.write({ data: 'x', fds: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => usocket.write({ data: 'x', callback: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => usocket.write(1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  usocket.write('676f6573206f6e', 'hex')
  t.is(Buffer.from((await socket.recv())!.data).toString(), 'goes on')
})

test('descriptors written after the end or destruction are closed, and their callback gets the error [S240]', async (t) => {
  for (const finish of ['end', 'destroy'] as const) {
    const { usocket } = openHalf(t)
    const failed = eventOf(usocket, 'error')
    usocket[finish]()
    const { read, write } = openPipe()
    const errors = [[write], { fds: [write] }, { data: 'x', fds: [write] }].map(
      (chunk) => new Promise<unknown>((done) => usocket.write(chunk, done))
    )
    closeSync(write)
    for (const error of await Promise.all(errors)) t.true(error instanceof Error, finish)
    if (finish === 'end') t.like(await failed, { code: 'ERR_STREAM_WRITE_AFTER_END' })
    t.false(hasWriter(read))
    closeSync(read)
  }
})

test('descriptors put back after the destruction are closed [S240]', async (t) => {
  const { usocket } = openHalf(t)
  usocket.destroy()
  const { read, write } = openPipe()
  usocket.unshift(null, [write])
  t.false(hasWriter(read))
  closeSync(read)
})

test('a write of descriptors alone is called back when its byte is sent, or with the error [S241]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const { read, write } = openPipe()
  const called: string[] = []
  usocket.write([write], () => called.push('array'))
  usocket.write({ fds: [write], callback: () => called.push('object') })
  await new Promise((done) => setImmediate(done))
  t.deepEqual(called, [])
  await new Promise((done) => usocket.write('x', done))
  t.deepEqual(called, ['array', 'object'])
  const message = await socket.recv()
  t.is(message!.fds.length, 2)
  message!.close()
  const ended = new Promise<unknown>((done) => usocket.write([write], done))
  const failed = eventOf(usocket, 'error')
  usocket.end()
  t.like(await ended, { code: 'ERR_INVALID_ARG_VALUE' })
  await failed
  const other = openHalf(t).usocket
  const destroyed = new Promise<unknown>((done) => other.write([write], done))
  other.destroy()
  t.like(await destroyed, { code: 'ERR_SOCKET_CLOSED' })
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
})

test('descriptors that wait for a byte are refused beyond 253, and the socket goes on [S242]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const { read, write } = openPipe()
  const many = (count: number) => Array.from({ length: count }, () => write)
  usocket.write(many(250))
  t.throws(() => usocket.write(many(4)), { code: 'ERR_OUT_OF_RANGE', message: /<= 3/ })
  t.throws(() => usocket.write({ data: 'x', fds: many(4) }), { code: 'ERR_OUT_OF_RANGE' })
  usocket.write(many(3))
  usocket.write('x')
  const message = await socket.recv()
  t.is(message!.fds.length, 253)
  message!.close()
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
})

test("descriptors of an 'fds' listener are back-pressure until their bytes are read [S243] [S245]", async (t) => {
  const { usocket, socket } = openHalf(t)
  await assertBackPressure(t, usocket, socket)
})

test('a read that needs more descriptors than maxFds destroys the socket, with all of them [S244]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const { read, write } = openPipe()
  const failed = eventOf(usocket, 'error')
  usocket.on('readable', () => usocket.read(16, null))
  for (let i = 0; i < 8; i++) socket.send('x', { fds: Array.from({ length: 100 }, () => write) }).catch(() => {})
  t.like(await failed, { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  socket.close()
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
})

test.serial('a read of more descriptors than there is room for unread ones returns all of them [S244]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const file = openFile('shared')
  const reading = readWhenThere(usocket, 3, 390)
  for (let i = 0; i < 3; i++) await socket.send('x', { fds: Array.from({ length: 130 }, () => file) })
  const { data, fds } = await reading
  t.is(String(data), 'xxx')
  t.is(fds.length, 390)
  ;[file, ...fds].forEach((fd) => closeSync(fd))
})

test('a read of bytes before the socket is connected waits for them [S244]', async (t) => {
  const path = newPath()
  const server = await listen(path)
  const usocket = new USocket(path)
  t.teardown(() => {
    usocket.destroy()
    server.close()
  })
  t.is(usocket.read(5), null)
  using socket = await server.accept()
  await socket.send('bytes')
  t.is(String((await readWhenThere(usocket, 5, 0)).data), 'bytes')
})

test('a message with 253 descriptors is read though its other bytes arrive later [S244]', async (t) => {
  const { usocket, socket } = openHalf(t)
  const file = openFile('shared')
  usocket.read(0)
  await socket.send('firs', { fds: Array.from({ length: 253 }, () => file) })
  while (usocket.readableLength < 4) await new Promise((done) => setImmediate(done))
  t.is(usocket.read(16, 1), null)
  await socket.send('t, and later')
  const { data, fds } = await readWhenThere(usocket, 16, 253)
  t.is(String(data), 'first, and later')
  ;[file, ...fds].forEach((fd) => closeSync(fd))
})

for (const [counted, lost] of [
  [false, 253],
  [true, 3]
] as const) {
  onLinux(
    `a message whose descriptors do not fit into the table has -1 for each where read ${counted ? 'counts them' : 'does not'}, and the next one its own [S270]`,
    async (t) => {
      const { socket, done } = startLimited(64, 'tables', ['usocket', String(counted)])
      await socket.recv() // it is ready
      const [file, two, end] = [openFile('lost'), openFile('2'), openFile('3')]
      await socket.send('one ', { fds: Array.from({ length: 100 }, () => file) })
      await socket.send('two ', { fds: [two] })
      await socket.send('end ', { fds: [end] })
      for (const fd of [file, two, end]) closeSync(fd)
      socket.shutdown('write')
      t.is(await done, `ERR_CONTROL_TRUNCATED\none : ${lost} lost, \ntwo : 0 lost, 2\nend : 0 lost, 3\n0 left\n`)
      socket.close()
    }
  )
}
