import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { runInThisContext } from 'node:vm'
import test, { type ExecutionContext } from 'ava'
import { socketpair } from 'fdpass'
import { UServer, USocket } from 'fdpass/usocket'
import { CLOEXEC, isOpen, openFile, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { eventOf, readWhenThere } from '../helpers/sockets.ts'

const folder = temporaryFolder()

let names = 0

const newPath = () => join(folder, `socket-${names++}`)

const soon = () => ({ signal: AbortSignal.timeout(30_000) })

const require = createRequire(import.meta.url)

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

test('descriptors come with their bytes, and after the callback they may be closed [socket: can send multiple fds in a single send]', async (t) => {
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
  const closes = [eventOf(client, 'close'), eventOf(accepted, 'close')]
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
  const closed = eventOf(client, 'close')
  const failed = eventOf(client, 'error')
  client.connect({ fd: -1 }, () => t.fail('connected'))
  t.like(await failed, { code: 'ERR_OUT_OF_RANGE' })
  await closed
  client.removeAllListeners('connected')
  const refused = eventOf(client, 'error')
  client.connect(join(folder, 'nobody'))
  t.like(await refused, { code: 'ENOENT', syscall: 'connect' })
  client.connect(path)
  await once(client, 'connected', soon())
  t.is(typeof client.fd, 'number')
  t.throws(() => client.connect(path), { code: 'ERR_INVALID_STATE' })
  t.throws(() => new USocket().connect({}), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => new USocket(5 as never), {
    message: 'The "options" argument must be of type string or object. Received type number (5)'
  })
  client.destroy()
  server.close()
})

test("README's quick usage of usocket works: write in 'connection', read in 'readable', end", async (t) => {
  const server = new UServer()
  const client = new USocket()
  const path = newPath()
  const closed = eventOf(client, 'close')
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
  const failed = eventOf(socket, 'error')
  socket.write('x')
  t.like(await failed, { code: 'ENOTCONN' })
})

/** The arguments of the callbacks of two writes and of the end. */
function outcomes(socket: USocket): Promise<unknown[]> {
  const told = [1, 2].map((i) => new Promise<unknown>((done) => socket.write(`${i}`, (error) => done(error))))
  return Promise.all([...told, new Promise<unknown>((done) => socket.end((error) => done(error)))])
}

test('a write to a socket that is never connected fails', async (t) => {
  const missing = new USocket(newPath())
  const failed = eventOf(missing, 'error')
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

test('a socket with allowHalfOpen: false ends when its peer does', async (t) => {
  const [ours, socket] = socketpair()
  const usocket = new USocket({ fd: ours.release(), allowHalfOpen: false })
  const closed = eventOf(usocket, 'close')
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
  const taken = eventOf(second, 'error')
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
  const refused = eventOf(second, 'error')
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
  t.true(realpathSync(require.resolve('usocket')).startsWith(resolve('packages', 'usocket')))
})

test('fdpass-usocket is found where a loader cannot resolve or require fdpass: Jest and its versions before 28', (t) => {
  const path = resolve('packages', 'usocket', 'index.js')
  const load = runInThisContext(`(function (module, require, __filename) {${readFileSync(path, 'utf8')}})`) as (
    ...args: unknown[]
  ) => void
  for (const error of [new SyntaxError('Unexpected token export'), new Error("Cannot find module 'fdpass/usocket'")]) {
    const module: { exports?: { USocket: unknown } } = {}
    const refuse = () => {
      throw error
    }
    load(module, refuse, path)
    t.is(module.exports!.USocket, USocket)
  }
})
