import { execFileSync } from 'node:child_process'
import { type EventEmitter, once } from 'node:events'
import { closeSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { socketpair } from 'fdpass'
import { UServer, USocket, type USocketRead } from 'fdpass/usocket'
import {
  CLOEXEC,
  hasWriter,
  isOpen,
  openFile,
  openPipe,
  readAll,
  sameFile,
  temporaryFolder
} from '../helpers/descriptors.ts'
import { receiveBytes } from '../helpers/streams.ts'

const folder = temporaryFolder()
let names = 0
const newPath = () => join(folder, `socket-${names++}`)
const soon = () => ({ signal: AbortSignal.timeout(30_000) })
const require = createRequire(import.meta.url)

/** Resolves at an event, errors or not. */
const event = (emitter: EventEmitter, name: string) =>
  new Promise<unknown>((done) => emitter.once(name, (value: unknown) => done(value)))

/** A client and its connection on the server, as usocket's own tests have them. */
async function openBoth(t: ExecutionContext) {
  const path = newPath()
  const server = new UServer()
  server.listen(path)
  await once(server, 'listening', soon())
  const connection = once(server, 'connection', soon())
  const client = new USocket(path)
  await once(client, 'connected', soon())
  const [accepted] = (await connection) as [USocket]
  t.teardown(() => {
    client.destroy()
    accepted.destroy()
    server.close()
  })
  return { server, client, accepted, path }
}

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

/** Reads so much as soon as it is there, as programs written to usocket do. */
function readWhenThere(socket: USocket, size: number | null, count: number | null): Promise<USocketRead> {
  return new Promise((done) => {
    const look = () => {
      const message = socket.read(size, count)
      if (message === null) return
      socket.removeListener('readable', look)
      done(message)
    }
    socket.on('readable', look)
    look()
  })
}

test('bytes go both ways, a lot of them as well [socket: can send a lot of data]', async (t) => {
  const { client, accepted } = await openBoth(t)
  for (const [from, to] of [
    [client, accepted],
    [accepted, client]
  ] as const) {
    const data = Buffer.from('Long Data!'.repeat(50_000))
    from.write(data)
    t.deepEqual((await readWhenThere(to, data.length, 0)).data, data)
  }
})

test('descriptors come with their bytes, and the callback tells that they may be closed [socket: can send multiple fds in a single send]', async (t) => {
  const { client, accepted } = await openBoth(t)
  const files = [openFile('one'), openFile('two')]
  await new Promise<void>((called) => {
    accepted.write({
      data: Buffer.from('two files'),
      fds: files,
      callback() {
        files.forEach((file) => closeSync(file))
        called()
      }
    })
  })
  const { data, fds } = await readWhenThere(client, 9, 2)
  t.is(String(data), 'two files')
  t.deepEqual(
    fds.map((fd) => readAll(fd)),
    ['one', 'two']
  )
  if (process.platform === 'linux') {
    const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fds[0]}`, 'utf8'))![1]!
    t.not(parseInt(flags, 8) & CLOEXEC, 0)
  }
  fds.forEach((fd) => closeSync(fd))
})

test('both halves end in turn, and both sockets close [socket: can orderly shut down]', async (t) => {
  const { client, accepted } = await openBoth(t)
  const closes = [event(client, 'close'), event(accepted, 'close')]
  accepted.on('readable', () => accepted.read(0))
  accepted.on('end', () => accepted.end(Buffer.from('last')))
  client.end()
  t.is(String((await readWhenThere(client, 4, 0)).data), 'last')
  client.read()
  await Promise.all(closes)
  t.is(client.fd, undefined)
})

test('an invalid descriptor is an error, after which the socket can still connect [socket: cannot connect the client with invalid fd]', async (t) => {
  const server = new UServer()
  const path = newPath()
  server.listen(path)
  await once(server, 'listening', soon())
  const client = new USocket()
  t.is(client.fd, undefined)
  const closed = event(client, 'close')
  const failed = event(client, 'error')
  client.connect({ fd: -1 }, () => t.fail('connected'))
  t.like(await failed, { code: 'ERR_OUT_OF_RANGE' })
  await closed
  client.removeAllListeners('connected')
  const refused = event(client, 'error')
  client.connect(join(folder, 'nobody'))
  t.like(await refused, { code: 'ENOENT', syscall: 'connect' })
  client.connect(path)
  await once(client, 'connected', soon())
  t.is(typeof client.fd, 'number')
  t.throws(() => client.connect(path), { code: 'ERR_INVALID_STATE' })
  t.throws(() => new USocket().connect({}), { code: 'ERR_INVALID_ARG_TYPE' })
  client.destroy()
  server.close()
})

test("README's quick usage of usocket works: write in 'connection', read in 'readable', end", async (t) => {
  const server = new UServer()
  const client = new USocket()
  const path = newPath()
  const closed = event(client, 'close')
  server.listen(path, () => client.connect(path))
  server.on('connection', (connection: USocket) => {
    const fd = openFile('quick')
    connection.end({ data: Buffer.from('message'), fds: [fd], callback: () => closeSync(fd) })
  })
  client.on('connected', () => client.read(0))
  client.on('readable', () => {
    const message = client.read(7, 1)
    if (message === null) return
    t.is(String(message.data), 'message')
    t.is(readAll(message.fds[0]!), 'quick')
    closeSync(message.fds[0]!)
    server.close()
    client.end()
  })
  await closed
})

test('a socket is connected in a later turn of the event loop, as of usocket', async (t) => {
  const { path } = await openBoth(t)
  const client = new USocket(path)
  t.teardown(() => void client.destroy())
  for (let i = 0; i < 100; i++) await undefined
  await once(client, 'connected', soon())
  t.true(isOpen(client.fd!))
})

test('what is written before it is connected goes when it is', async (t) => {
  const path = newPath()
  const server = new UServer().listen({ path, backlog: 5 })
  await once(server, 'listening', soon())
  const client = new USocket()
  const accepted = once(server, 'connection', soon())
  const file = openFile('early')
  client.connect(path)
  client.write({ data: 'early', fds: [file] })
  client.end()
  closeSync(file)
  const [connection] = (await accepted) as [USocket]
  const { fds } = await readWhenThere(connection, 5, 1)
  t.is(readAll(fds[0]!), 'early')
  closeSync(fds[0]!)
  connection.read(0)
  await once(connection, 'end', soon())
  connection.destroy()
  server.close()
})

test('writing to a socket that is not to be connected is an error', async (t) => {
  const socket = new USocket()
  const failed = event(socket, 'error')
  socket.write('x')
  t.like(await failed, { code: 'ENOTCONN' })
})

/** What the callbacks of two writes and of the end are told. */
function outcomes(socket: USocket): Promise<unknown[]> {
  const told = [1, 2].map((i) => new Promise<unknown>((done) => socket.write(`${i}`, (error) => done(error))))
  return Promise.all([...told, new Promise<unknown>((done) => socket.end((error) => done(error)))])
}

test('what is written to a socket that is never connected is told to have failed', async (t) => {
  const missing = new USocket(newPath())
  const failed = event(missing, 'error')
  const whyNot = (await outcomes(missing)) as NodeJS.ErrnoException[]
  t.like(await failed, { code: 'ENOENT' })
  t.is(whyNot[0]!.code, 'ENOENT')
  t.true(whyNot.every((error) => error instanceof Error))

  const path = newPath()
  const server = new UServer().listen({ path, backlog: 5 })
  await once(server, 'listening', soon())
  const destroyed = new USocket(path)
  const told = outcomes(destroyed)
  destroyed.destroy()
  const errors = (await told) as NodeJS.ErrnoException[]
  t.is(errors[0]!.code, 'ERR_SOCKET_CLOSED')
  t.true(errors.every((error) => error instanceof Error))
  server.close()
})

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
  const failed = event(usocket, 'error')
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

test('destroy closes what came and was not taken, and what waits [D3]', async (t) => {
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
  const closed = event(usocket, 'close')
  usocket.destroy()
  socket.close()
  t.false(hasWriter(read))
  await closed
  t.is(usocket.read(5, 3), null)
  closeSync(read)
})

test('a peer that sends descriptors to a program that does not take them is held back', async (t) => {
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
  const closed = event(usocket, 'close')
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

test('a socket with allowHalfOpen: false ends when its peer does', async (t) => {
  const [ours, socket] = socketpair()
  const usocket = new USocket({ fd: ours.release(), allowHalfOpen: false })
  const closed = event(usocket, 'close')
  usocket.resume()
  socket.shutdown('write')
  t.is(await socket.recv(), null)
  await closed
  socket.close()
})

test('a server pauses and resumes, replaces only what a dead process left, and leaves its file', async (t) => {
  const path = newPath()
  const server = new UServer()
  server.pause()
  server.listen(path)
  await once(server, 'listening', soon())
  t.true(server.listening && typeof server.fd === 'number')
  t.throws(() => server.listen(path), { code: 'ERR_INVALID_STATE' })
  let accepted = 0
  server.on('connection', (connection: USocket) => {
    accepted++
    connection.destroy()
  })
  const client = new USocket(path)
  client.resume()
  await once(client, 'connected', soon())
  await new Promise((done) => setTimeout(done, 50))
  t.is(accepted, 0)
  server.resume()
  await once(client, 'end', soon())
  t.is(accepted, 1)
  server.pause()
  server.resume()
  const other = new USocket(path)
  other.resume()
  await once(other, 'end', soon())
  t.is(accepted, 2)

  const second = new UServer()
  const taken = event(second, 'error')
  second.listen(path)
  t.like(await taken, { code: 'EADDRINUSE' })
  server.close()
  t.false(server.listening)
  t.true(existsSync(path))
  second.listen(path)
  await once(second, 'listening', soon())
  second.close()
  const file = newPath()
  writeFileSync(file, 'no socket')
  const refused = event(second, 'error')
  second.listen(file)
  t.like(await refused, { code: 'EADDRINUSE' })
  t.is(readFileSync(file, 'utf8'), 'no socket')
  client.destroy()
  other.destroy()
})

test('a socket and a server that are unreferenced let the process end', (t) => {
  const program = `
    import { UServer, USocket } from 'fdpass/usocket'
    const server = new UServer().unref()
    server.listen(process.argv[1], () => {
      const client = new USocket(process.argv[1], () => console.log('connected')).unref()
      client.resume()
    })
    setTimeout(() => {}, 300)`
  const args = ['--input-type=module', '-e', program, newPath()]
  t.is(execFileSync(process.execPath, args, { encoding: 'utf8', timeout: 20_000 }), 'connected\n')
})

test('CommonJS modules require it, and fdpass-usocket by the name of usocket', (t) => {
  t.is(require('fdpass/usocket').USocket, USocket)
  t.is(require('usocket').USocket, USocket)
  t.is(require('usocket').UServer, UServer)
  t.true(require.resolve('usocket').startsWith(resolve('packages', 'usocket')))
})
