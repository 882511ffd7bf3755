import { once } from 'node:events'
import { closeSync, existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { type Message, type SocketType, type UnixSocket, bind, connect, listen, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { startFixture, startLimited, startPython } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const types: readonly SocketType[] =
  process.platform === 'darwin' ? ['stream', 'dgram'] : ['stream', 'seqpacket', 'dgram']
const onLinux = onlyIf(isLinux, 'needs Linux')
const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

const folder = temporaryFolder()
let names = 0

/** A free path. */
function newPath(): string {
  return join(folder, `socket-${names++}`)
}

/** A free abstract address. */
function newAbstract(): string {
  return `\0fdpass-${process.pid}-${names++}`
}

const spaces: Record<string, () => string> = isLinux ? { path: newPath, abstract: newAbstract } : { path: newPath }

/** Proves a message's one descriptor by what can be read through it. */
function contentsOf(message: Message): string {
  const contents = readAll(message.fds[0]!.fd)
  message.close()
  return contents
}

async function sendFile(socket: UnixSocket, data: string, to?: string): Promise<void> {
  const file = openFile('of the test')
  await socket.send(data, { fds: [file], to })
  closeSync(file)
}

for (const type of types) {
  for (const [space, newAddress] of Object.entries(spaces)) {
    test(`another process connects by a ${space} address, type ${type}`, async (t) => {
      const [address, theirs] = [newAddress(), newAddress()]
      const server = type === 'dgram' ? undefined : await listen(address, { type })
      const datagrams = type === 'dgram' ? bind(address) : undefined
      const args = ['connect', type, JSON.stringify(address), JSON.stringify(theirs)]
      const { done, socket: unused } = startFixture('addresses', args)
      unused.close()
      const socket = datagrams ?? (await server!.accept())
      t.is(socket.type, type)
      const message = (await socket.recv())!
      t.is(text(message), 'from the client')
      t.is(contentsOf(message), 'of the client')
      t.is(message.address, type === 'dgram' ? theirs : undefined)
      t.is(socket.localAddress, address)
      t.is(socket.remoteAddress, type === 'dgram' ? null : theirs)
      await sendFile(socket, 'answer', type === 'dgram' ? theirs : undefined)
      t.is(await done, `answer: of the test\n${JSON.stringify([theirs, address])}\n`)
      socket.close()
      server?.close()
      if (space === 'path') t.deepEqual([existsSync(address), existsSync(theirs)], [false, false])
    })

    test(`another process serves on a ${space} address, type ${type}`, async (t) => {
      const [address, ours] = [newAddress(), newAddress()]
      const { child, done, socket: unused } = startFixture('addresses', ['serve', type, JSON.stringify(address)])
      unused.close()
      await once(child.stdout!, 'data')
      const socket = await connect(address, { type, localAddress: ours })
      t.deepEqual([socket.localAddress, socket.remoteAddress], [ours, address])
      await sendFile(socket, 'question')
      const message = (await socket.recv())!
      t.is(text(message), 'from the server')
      t.is(contentsOf(message), 'of the server')
      t.is(message.address, type === 'dgram' ? address : undefined)
      t.is(await done, 'ready\nquestion: of the test\n')
      socket.close()
      t.deepEqual([socket.localAddress, socket.remoteAddress], [null, null])
    })

    test(`an address of the longest kind works and one byte more is refused: ${space}, type ${type} [F1] [F2]`, async (t) => {
      const most = space === 'abstract' ? 108 : isLinux ? 107 : 103
      const longest = newAddress().padEnd(most, 'x')
      const server = type === 'dgram' ? bind(longest) : await listen(longest, { type })
      const client = await connect(longest, { type })
      t.is(client.remoteAddress, longest)
      client.close()
      server.close()
      for (const [address, length] of [
        [`${longest}x`, most + 1],
        [longest.padEnd(5000, 'x'), 5000],
        // In bytes, not in characters.
        [`${longest.slice(0, -1)}ü`, most + 1]
      ] as const) {
        const made = () => (type === 'dgram' ? Promise.resolve().then(() => bind(address)) : listen(address, { type }))
        for (const call of [
          made,
          () => connect(address, { type }),
          () => connect(longest, { type, localAddress: address })
        ]) {
          const error = await t.throwsAsync<NodeJS.ErrnoException>(call, { code: 'ENAMETOOLONG' })
          t.regex(error.message, new RegExp(`has ${length} bytes, the platform's limit .* is ${most}`))
          t.true(error.errno! < 0)
        }
      }
    })
  }
}

test('a path with non-ASCII letters is bound and returned unchanged [F3.1]', async (t) => {
  const path = join(folder, 'Grüße-文-😀')
  const server = await listen(path)
  t.true(statSync(path).isSocket())
  const client = await connect(path)
  t.is(client.remoteAddress, path)
  t.is(server.address, path)
  client.close()
  server.close()
})

test("a path that begins with '@' is a path [F1]", async (t) => {
  const before = process.cwd()
  process.chdir(folder)
  const listening = listen('@name') // bound when the call returns
  process.chdir(before)
  const server = await listening
  t.true(statSync(join(folder, '@name')).isSocket())
  server.close()
  t.false(existsSync(join(folder, '@name')), 'a relative path is found again from another folder')
})

withPythonOnLinux('Python reaches an abstract address by exactly its bytes, trailing NULs included [F1]', async (t) => {
  const name = `fdpass-${process.pid}-exact`
  for (const suffix of ['', '\0', '\0\0x\0']) {
    const server = await listen(`\0${name}${suffix}`)
    const { socket, done } = startPython('reach', [Buffer.from(`\0${name}${suffix}`).toString('hex')])
    const connection = await server.accept()
    t.is(text(await connection.recv()), 'reached')
    t.is(await done, `${Buffer.from(`\0${name}${suffix}`).toString('hex')}\n`)
    connection.close()
    socket.close()
    server.close()
  }
})

onLinux('a socket bound to null gets an abstract address of its own, by which it can be answered [F1.2]', async (t) => {
  const [a, b] = [bind(null), bind(null)]
  t.regex(a.localAddress!, /^\0[0-9a-f]{5}$/)
  t.not(a.localAddress, b.localAddress)
  await a.send('x', { to: b.localAddress! })
  const { address } = (await b.recv())!
  t.is(address, a.localAddress)
  await b.send('y', { to: address! })
  t.is(text(await a.recv()), 'y')
  a.close()
  b.close()
})

test('a pair has no addresses, and a datagram from an unbound socket has a null address [F1.3]', async (t) => {
  for (const type of types) {
    const [a, b] = socketpair({ type })
    t.deepEqual([a.localAddress, a.remoteAddress], [null, null])
    await a.send('x')
    t.is((await b.recv())!.address, type === 'dgram' ? null : undefined)
    a.close()
    b.close()
  }
})

test('connecting without a listener, to a file that is not a socket, and to another type fails at once', async (t) => {
  const path = newPath()
  const missing = await t.throwsAsync<NodeJS.ErrnoException & { address: string }>(connect(path), { code: 'ENOENT' })
  t.is(missing.syscall, 'connect')
  t.is(missing.address, path)
  t.regex(missing.message, /^ENOENT: .*, connect '/)
  const server = await listen(path)
  for (const type of types.slice(1)) await t.throwsAsync(connect(path, { type }), { code: 'EPROTOTYPE' })
  server.close()
  await t.throwsAsync(connect(folder), { code: 'ECONNREFUSED' })
  if (isLinux) await t.throwsAsync(connect(newAbstract()), { code: 'ECONNREFUSED' })
  const left = await listen(path)
  closeSync(left.release()) // its file stays, and nobody listens
  await t.throwsAsync(connect(path), { code: 'ECONNREFUSED' })
})

const connections = types.filter((type) => type !== 'dgram')
for (const type of connections) {
  onLinux(`connect waits out a full backlog, type ${type} [S74]`, async (t) => {
    const address = newPath()
    const server = await listen(address, { type, backlog: 0 })
    const first = await connect(address, { type })
    const waiting = [connect(address, { type }), connect(address, { type })]
    t.true(await isPending(waiting[0]!))
    await delay(20)
    t.true(await isPending(waiting[1]!))
    const accepted: UnixSocket[] = []
    for (let i = 0; i < 3; i++) accepted.push(await server.accept())
    const clients = [first, ...(await Promise.all(waiting))]
    for (const [i, client] of clients.entries()) await client.send(String(i))
    t.deepEqual((await Promise.all(accepted.map((socket) => socket.recv()))).map(text).toSorted(), ['0', '1', '2'])
    for (const socket of [...clients, ...accepted]) socket.close()
    server.close()
  })

  onLinux(`a connect that waits for a full backlog can be aborted, and leaves nothing, type ${type}`, async (t) => {
    const address = newPath()
    const server = await listen(address, { type, backlog: 0 })
    const first = await connect(address, { type })
    const abort = new AbortController()
    const localAddress = newPath()
    const waiting = connect(address, { type, localAddress, signal: abort.signal })
    t.true(await isPending(waiting))
    t.true(existsSync(localAddress))
    abort.abort(new Error('enough'))
    const error = await t.throwsAsync(waiting, { name: 'AbortError', code: 'ABORT_ERR' })
    t.is((error.cause as Error).message, 'enough')
    t.false(existsSync(localAddress))
    const closed = connect(address, { type })
    t.true(await isPending(closed))
    server.close()
    await t.throwsAsync(closed, { message: /^(ENOENT|ECONNREFUSED): / })
    first.close()
  })
}

test('a connect that was aborted before it began makes nothing', async (t) => {
  const localAddress = newPath()
  const signal = AbortSignal.abort()
  await t.throwsAsync(connect(newPath(), { localAddress, signal }), { name: 'AbortError' })
  t.false(existsSync(localAddress))
})

test('datagrams and packets without a byte arrive, with and without a descriptor [B8.1]', async (t) => {
  const address = newPath()
  const receiver = bind(address)
  const sender = await connect(address, { type: 'dgram' })
  const file = openFile('of nothing')
  await sender.send('')
  await sender.send('', { fds: [file] })
  await sender.send('after')
  const [empty, carrier, after] = [(await receiver.recv())!, (await receiver.recv())!, (await receiver.recv())!]
  t.deepEqual([empty.data.length, empty.size, empty.fds.length], [0, 0, 0])
  t.is(carrier.data.length, 0)
  t.is(contentsOf(carrier), 'of nothing')
  t.is(text(after), 'after')
  closeSync(file)
  sender.close()
  receiver.close()
})

test('a datagram longer than maxBytes is cut, reports its size and keeps its descriptors and its address', async (t) => {
  const [address, from] = [newPath(), newPath()]
  const receiver = bind(address)
  const sender = await connect(address, { type: 'dgram', localAddress: from })
  const file = openFile('kept')
  await sender.send('0123456789', { fds: [file] })
  const message = (await receiver.recv({ maxBytes: 4 }))!
  t.is(text(message), '0123')
  t.is(message.size, isLinux ? 10 : 5)
  t.is(message.address, from)
  t.is(contentsOf(message), 'kept')
  closeSync(file)
  sender.close()
  receiver.close()
})

test('a datagram to an address without a receiver, and one without a peer, are refused [A1.1] [E3.1]', async (t) => {
  const socket = bind(isLinux ? null : newPath())
  const path = newPath()
  const error = await t.throwsAsync<NodeJS.ErrnoException & { address: string }>(socket.send('x', { to: path }), {
    code: 'ENOENT'
  })
  t.is(error.address, path)
  t.is(error.syscall, 'sendmsg')
  await t.throwsAsync(socket.send('x'), { code: 'ENOTCONN' })
  const gone = bind(path)
  closeSync(gone.release()) // the file stays
  await t.throwsAsync(socket.send('x', { to: path }), { code: 'ECONNREFUSED' })
  socket.close()
})

/** Fills a receiver's queue: sends until one has to wait; that one is given. */
async function fill(sender: UnixSocket, to: string): Promise<{ sent: number; waiting: Promise<void> }> {
  for (let sent = 0; ; sent++) {
    const waiting = sender.send(`${sent}`, { to })
    if (await isPending(waiting)) return { sent, waiting }
    await waiting
  }
}

test('datagrams to a full receiver wait, in order, and those to others do not wait for them', async (t) => {
  const [full, free] = [newPath(), newPath()]
  const receiver = bind(full)
  const other = bind(free)
  const sender = bind(newPath())
  const { sent, waiting } = await fill(sender, full)
  const { read, write } = openPipe()
  const more = Array.from({ length: 100 }, (_, i) => sender.send(`${sent + 1 + i}`, { to: full, fds: [write] }))
  closeSync(write) // what waits has duplicates
  await sender.send('free', { to: free })
  t.is(text(await other.recv()), 'free')
  t.true(await isPending(more[99]!))
  for (let i = 0; i <= sent + 100; i++) {
    const message = (await receiver.recv())!
    t.is(text(message), `${i}`)
    t.is(message.fds.length, i > sent ? 1 : 0)
    message.close()
  }
  await Promise.all([waiting, ...more])
  t.false(hasWriter(read))
  closeSync(read)
  // The way is free again.
  await sender.send('again', { to: full })
  t.is(text(await receiver.recv()), 'again')
  for (const socket of [receiver, other, sender]) socket.close()
})

test('a datagram that waits for a full receiver can be aborted, and is refused once the receiver is gone', async (t) => {
  const full = newPath()
  const receiver = bind(full)
  const sender = bind(newPath())
  const { waiting } = await fill(sender, full)
  const abort = new AbortController()
  const { read, write } = openPipe()
  const aborted = sender.send('aborted', { to: full, fds: [write], signal: abort.signal })
  closeSync(write)
  t.true(await isPending(aborted))
  abort.abort()
  await t.throwsAsync(aborted, { name: 'AbortError' })
  t.false(hasWriter(read))
  closeSync(read)
  receiver.close()
  await t.throwsAsync(waiting, { message: /^(ENOENT|ECONNREFUSED): / })
  sender.close()
})

test('closing a socket rejects the datagrams that wait, to every address', async (t) => {
  const [x, y] = [newPath(), newPath()]
  const [to, and] = [bind(x), bind(y)]
  const sender = bind(newPath())
  const waiting = [(await fill(sender, x)).waiting, (await fill(sender, y)).waiting]
  sender.close()
  for (const promise of waiting) await t.throwsAsync(promise, { code: 'ERR_SOCKET_CLOSED' })
  to.close()
  and.close()
})

onLinux(
  'a datagram behind one that could not be captured waits like any other, and is not sent after the close',
  async (t) => {
    const { socket, done } = startLimited(64, 'tables', ['reuse'])
    socket.close()
    t.is(await done, 'EMFILE\nERR_SOCKET_CLOSED\n')
  }
)

test('the file of a bound datagram socket has its mode, goes with it, and is not left beside a lock', async (t) => {
  const own = temporaryFolder()
  const path = join(own, 'x')
  const socket = bind(path, { mode: 0o620 })
  t.is(statSync(path).mode & 0o777, 0o620)
  t.throws(() => bind(path), { code: 'EADDRINUSE' })
  closeSync(socket.release())
  t.deepEqual(readdirSync(own), ['x'])
  const again = bind(path) // in place of the stale one
  t.deepEqual(readdirSync(own), ['x'])
  again.close()
  t.deepEqual(readdirSync(own), [])
  await t.throwsAsync(connect(newPath(), { type: 'dgram', localAddress: path }), { code: 'ENOENT' })
  t.deepEqual(readdirSync(own), [])
})
