import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Channel, type Descriptor, UnixSocket, capabilities, connect, listen, socketpair } from 'fdpass'
import { connectBroker, serveBroker } from 'fdpass/broker'
import { connectStore, serveStore } from 'fdpass/store'
import { MESSAGE, REQUEST, frame } from '../helpers/channels.ts'
import { fdLimit, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, newPath, openFile, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { endWith, fixturePath, fixtureSource, receiveLast, startLimited, startProgram } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const canMount = isLinux && spawnSync('python3', [fixtureSource('kernel.py'), 'fuse', temporaryFolder()]).status === 0

const onLinux = onlyIf(isLinux, 'needs Linux')

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')

asRoot(
  'what one peer does not read holds up what its user sends to others with descriptors, and bytes not [S67]',
  async (t) => {
    const { socket, child, done } = startLimited(64, 'in-flight', ['others', temporaryFile('in flight')])
    let told = ''
    child.stdout!.on('data', (part) => (told += part))
    await once(child.stdout!, 'data')
    t.is(told, 'waits true\n')
    // Once the peer reads, all goes on.
    for (let message = await socket.recv(); message !== null; message = await socket.recv()) {
      t.is(text(message), 'unread')
      message.close()
    }
    await done
    t.is(told, 'waits true\nto another 1\n')
    socket.close()
  }
)

onLinux(
  'connections that fill the table of a store keep new ones waiting, and those that are there are served [S70]',
  async (t) => {
    const path = newPath()
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('services'), 'serve', path], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.regex(String(await once(child.stdout, 'data')), /^ready/)
    // Not before: Node opens many of a program's modules at a time.
    execFileSync('prlimit', ['--pid', `${child.pid}`, '--nofile=64'])
    using early = await connectStore(path)
    await early.list()
    const flood = await Promise.all(Array.from({ length: 100 }, () => connect(path)))
    using late = await connectStore(path)
    const waiting = late.list()
    t.deepEqual(await early.list(), [])
    t.true(await isPending(waiting))
    for (const socket of flood) socket.close()
    t.deepEqual(await waiting, [])
    const file = openFile('kept')
    await late.put('file', file)
    closeSync(file)
    child.kill()
    await once(child, 'exit')
  }
)

onlyIf(
  isLinux && hasPython,
  'needs Python 3.9 on Linux',
  test.serial
)('descriptors whose close blocks delay neither a store nor a broker [S272]', async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'content')
  const [path, address] = [newPath(), newPath()]
  using _store = await serveStore({ path })
  using store = await connectStore(path)
  using _broker = serveBroker(await listen(address), { roots: [root], allow: () => true })
  using broker = await connectBroker(address)
  const open = async () => {
    using file = await broker.open('file')
    t.is(readAll(file.fd), 'content')
  }
  await open()
  await store.list()
  const before = countFds()
  const { child, socket, done } = startProgram('python3', [fixtureSource('hostile.py'), 'lingering', '8', '3600'])
  /** Sends a descriptor, of which the receiver has the last copy. */
  const give = async <T>(send: (fd: Descriptor) => Promise<T>): Promise<T> => {
    const fd = await receiveLast(socket)
    const sent = send(fd)
    fd.closeSync() // it is on its way
    return sent
  }
  using putting = new Channel(await connect(path))
  // Not `store.put`, which closes a duplicate of its own.
  const put = (name: string, options = {}) => {
    const request = { ask: 'put', name, expires: null, mode: 0o600, group: null, replace: false, ...options }
    return give((fd) => putting.request(request, [fd]))
  }
  for (const name of ['deleted', 'kept']) await put(name)
  await put('expired', { expires: 1 })
  await store.delete('deleted')
  await t.throwsAsync(put('kept'), { code: 'EEXIST' })
  await put('kept', { replace: true })
  while ((await store.list()).length > 1);
  await store.delete('kept')
  using asking = new Channel(await connect(address))
  ;(await give((fd) => asking.request({ operation: 'open', path: 'file', flags: 0, mode: 0 }, [fd]))).close()
  for (const channel of [putting, asking]) channel.close()
  await open()
  for (const lies of [{ fds: 0 }, { fds: 1, kind: MESSAGE }]) {
    using breaking = await connect(address)
    await give((fd) => breaking.send(frame(lies.kind ?? REQUEST, '{}', lies), { fds: [fd] }))
    await breaking.recv().catch(() => {})
    await open()
  }
  socket.close()
  child.kill('SIGKILL') // which resets the connections
  await t.throwsAsync(done)
  await until(() => countFds() <= before)
})

onlyIf(
  canMount,
  'needs root, FUSE and mount namespaces',
  test.serial
)('the close of a file that a broker has handed out delays no other request [S272]', async (t) => {
  const [root, mounted] = [temporaryFolder(), temporaryFolder()]
  writeFileSync(join(root, 'file'), 'content')
  const fuse = spawn('python3', [fixtureSource('kernel.py'), 'fuse', mounted, 'close'], {
    stdio: ['pipe', 'pipe', 'inherit']
  })
  const ended = endWith(t, fuse).catch(() => {})
  await once(fuse.stdout, 'data')
  const there = `/proc/${fuse.pid}/root${mounted}`
  const address = newPath()
  using _service = serveBroker(await listen(address), { roots: [root, there], allow: () => true })
  using broker = await connectBroker(address)
  const slow = await broker.open(`${there}/file`)
  using file = await broker.open('file')
  t.is(readAll(file.fd), 'content')
  fuse.stdin.end()
  await slow.close()
  fuse.kill('SIGKILL')
  await ended
})

onLinux('a client of a broker that reads no answers keeps no other client waiting [S46]', async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'content')
  const address = newPath()
  using _service = serveBroker(await listen(address), { roots: [root], allow: () => true })
  using hostile = await connect(address)
  const wish = JSON.stringify({ operation: 'open', path: 'file', flags: 0, mode: 0 })
  const wishes = Array.from({ length: 20_000 }, (_, id) => frame(REQUEST, wish, { id, format: 1 }))
  const flood = hostile.send(Buffer.concat(wishes))
  flood.catch(() => {})
  t.true(await isPending(flood), 'it is not even read')
  using broker = await connectBroker(address)
  for (let i = 0; i < 20; i++) {
    using file = await broker.open('file')
    t.is(readAll(file.fd), 'content')
  }
})

onLinux('a broker whose listener refuses descriptors receives none, and sends them [S45]', async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'content')
  const path = newPath()
  using _service = serveBroker(await listen(path, { descriptors: false }), { roots: [root], allow: () => true })
  using channel = new Channel(await connect(path))
  const wish = { operation: 'open', path: 'file', flags: 0, mode: 0 }
  const answer = await channel.request(wish)
  t.is(readAll(answer.fds[0]!.fd), 'content')
  answer.close()
  await t.throwsAsync(channel.request(wish, [0]), { code: capabilities().passRights ? 'EPERM' : 'EMSGSIZE' })
})

/** Connects as the user nobody, and prints how many connections are open once as many as expected have been closed. */
const crowd = `
import os, select, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
path, count, kept = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sockets, poll = {}, select.poll()
for i in range(count):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    sockets[s.fileno()] = s
    poll.register(s, 0)
while len(sockets) > kept:
    for fd, _ in poll.poll():
        poll.unregister(fd)
        sockets.pop(fd).close()
print(len(sockets), flush=True)
sys.stdin.read()
print(len(sockets) - len(poll.poll(0)))
`

/** Opens connections of another user, of which all but some are closed; returns the number that are open at the end. */
async function openCrowd(
  t: ExecutionContext,
  path: string,
  count: number,
  kept: number
): Promise<() => Promise<string>> {
  const args = ['-c', crowd, path, `${count}`, `${kept}`]
  const child = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const done = endWith(t, child)
  await once(child.stdout, 'data')
  return () => {
    child.stdin.end()
    return done
  }
}

const withCrowd = onlyIf(
  hasPython && isLinux && process.getuid!() === 0,
  'needs root, to become another user, and Python'
)

withCrowd(
  "a user's silent connections are limited in a store and in a broker, and take nobody's place [S210]",
  async (t) => {
    const path = newPath()
    using _store = await serveStore({ path, mode: 0o666, maxConnectionsPerUser: 5 })
    const listener = await listen(newPath(), { mode: 0o666 })
    using _broker = serveBroker(listener, { roots: ['/dev'], allow: () => true, maxConnectionsPerUser: 5 })
    const closeStoreCrowd = await openCrowd(t, path, 300, 5)
    const closeBrokerCrowd = await openCrowd(t, listener.address, 300, 5)
    using store = await connectStore(path)
    t.deepEqual(await store.list(), [])
    using broker = await connectBroker(listener.address)
    using file = await broker.open('null')
    t.is(file.kind, 'character-device')
    t.is(await closeStoreCrowd(), '5\n5\n')
    t.is(await closeBrokerCrowd(), '5\n5\n')
  }
)

withCrowd(
  'by default 128 connections of one user are kept, and those that allow refuses are closed [S211] [S215]',
  async (t) => {
    const paths = [newPath(), newPath()] as const
    using _open = await serveStore({ path: paths[0], mode: 0o666 })
    using _closed = await serveStore({ path: paths[1], mode: 0o666, allow: ({ uid }) => uid === process.getuid!() })
    const most = Math.min(128, Math.floor(fdLimit / 8))
    t.is(await (await openCrowd(t, paths[0], 300, most))(), `${most}\n${most}\n`)
    t.is(await (await openCrowd(t, paths[1], 300, 0))(), '0\n0\n')
    for (const path of paths) {
      using store = await connectStore(path)
      t.deepEqual(await store.list(), [])
    }
  }
)

test('a full store refuses clients, and closes a silent connection for one after a second [S212]', async (t) => {
  const path = newPath()
  using _service = await serveStore({ path, maxConnections: 2 })
  using busy = await connectStore(path)
  await busy.list()
  const silent = await connect(path)
  const outcomes: string[] = []
  while (!outcomes.includes('served')) {
    using late = await connectStore(path)
    outcomes.push(
      await late.list().then(
        () => 'served',
        (error: NodeJS.ErrnoException) => error.code!
      )
    )
  }
  t.deepEqual(new Set(outcomes), new Set(['EAGAIN', 'served']))
  t.is(await silent.recv(), null)
  silent.close()
  t.deepEqual(await busy.list(), [])
})

test('a server closes connections beyond its limits, until one is closed or released [S213]', async (t) => {
  for (const limits of [{ maxConnections: 2 }, { maxConnectionsPerUser: 2 }]) {
    let asked = 0
    const server = await listen(newPath(), { ...limits, allow: () => ++asked > 0 })
    const open = async () => {
      const client = await connect(server.address)
      return [client, await server.accept()] as const
    }
    const [first, second] = [await open(), await open()]
    const accepting = server.accept()
    const refused = await connect(server.address)
    t.is(await refused.recv(), null)
    t.is(asked, 2)
    t.true(await isPending(accepting))
    first[1].close()
    const third = [await connect(server.address), await accepting] as const
    const accepted = server.accept()
    UnixSocket.from(second[1].release()).close()
    const fourth = [await connect(server.address), await accepted] as const
    for (const socket of [refused, ...first, ...second, ...third, ...fourth]) socket.close()
    server.close()
  }
  await t.throwsAsync(listen(newPath(), { maxConnections: 0 }), { code: 'ERR_OUT_OF_RANGE' })
})

/** How much CPU time, in microseconds, an abort of `count` sends takes that wait behind another one. */
async function costOfAborts(count: number): Promise<number> {
  const [a, b] = socketpair()
  using _a = a
  using _b = b
  const first = a.send(Buffer.alloc(4 * 1024 * 1024))
  const controller = new AbortController()
  const outcomes = Array.from({ length: count }, () =>
    a.send('x', { signal: controller.signal }).catch(() => 'aborted')
  )
  const before = process.cpuUsage()
  controller.abort()
  const { user, system } = process.cpuUsage(before)
  if ((await Promise.all(outcomes)).some((outcome) => outcome !== 'aborted')) throw new Error('a send was not aborted')
  a.close()
  await first.catch(() => {})
  return user + system
}

test.serial('an abort of many operations takes time in proportion to their number [S151]', async (t) => {
  await costOfAborts(16_000) // compiled
  // Each error is an object: collections of garbage take up to half of the time, and fall into some of the runs only.
  const few: number[] = []
  for (let run = 0; run < 3; run++) few.push(await costOfAborts(16_000))
  const many: number[] = []
  for (let run = 0; run < 2; run++) many.push(await costOfAborts(128_000))
  t.true(
    Math.min(...many) < 32 * Math.max(...few),
    `16,000 took ${few.join(', ')} µs of CPU time, 128,000 ${many.join(', ')} µs`
  )
})
