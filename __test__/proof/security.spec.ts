import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, closeSync, constants, mkdirSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Channel, type FdSource, type UnixSocket, capabilities, connect, listen, memfd, socketpair } from 'fdpass'
import { connectBroker, serveBroker } from 'fdpass/broker'
import { connectStore, serveStore } from 'fdpass/store'
import { takeover } from 'fdpass/takeover'
import { MESSAGE, REQUEST, frame, openBare, openChannels } from '../helpers/channels.ts'
import { fdLimit, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { type Fixture, fixturePath, startFixture, startLimited, startProgram } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { exists, namedTests, rowsOf } from '../helpers/titles.ts'

const NOBODY = 65_534
const onLinux = onlyIf(isLinux, 'needs Linux')
const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')
const withRoom = onlyIf(fdLimit >= 4096, 'needs ulimit -n 4,096')
const somaxconn = isLinux ? Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8')) : 0

const folder = temporaryFolder()
chmodSync(folder, 0o755) // for the other user
let names = 0
const newPath = () => join(folder, `x${names++}`)
/** A name in the abstract space, as the fixture has it in its arguments. */
const newName = () => `@fdpass-${randomUUID()}`
const addressOf = (name: string) => name.replace(/^@/, '\0')

/** Starts another user; see stranger.ts. */
function startStranger(scene: string, ...args: string[]): Fixture {
  return startFixture('stranger', [scene, ...args])
}

/** What another user says of a scene, until it ends. */
async function tell({ socket, done }: Fixture): Promise<string[]> {
  let said = ''
  for (let message = await socket.recv(); message !== null; message = await socket.recv()) said += text(message)
  await done
  socket.close()
  return said.trimEnd().split('\n')
}

/** Greets each who connects. */
async function greet(server: AsyncIterable<UnixSocket>): Promise<void> {
  for await (const connection of server) {
    await connection.send('welcome')
    connection.close()
  }
}

// Who may connect

asRoot("connecting takes the right to write to the socket's file, and to go through its folders", async (t) => {
  const inside = join(folder, 'closed')
  mkdirSync(inside, { mode: 0o700 })
  const open = join(folder, 'open')
  mkdirSync(open)
  chmodSync(open, 0o755)
  const modes = [0o666, 0o602, 0o644, 0o660, 0o600, 0]
  const servers = await Promise.all(modes.map((mode) => listen(newPath(), { mode })))
  servers.push(
    await listen(join(inside, 'socket'), { mode: 0o666 }),
    await listen(join(open, 'socket'), { mode: 0o666 })
  )
  const greeting = servers.map(greet)
  const said = await tell(startStranger('connect', ...servers.map(({ address }) => address)))
  t.deepEqual(said, ['welcome', 'welcome', 'EACCES', 'EACCES', 'EACCES', 'EACCES', 'EACCES', 'welcome'])
  for (const server of servers) server.close()
  await Promise.all(greeting)
})

asRoot('without a mode the umask decides, and the usual one lets no other user connect', async (t) => {
  const umask = process.umask(0o022)
  const server = await listen(newPath())
  process.umask(umask)
  t.is(statSync(server.address).mode & 0o777, 0o755)
  t.deepEqual(await tell(startStranger('connect', server.address)), ['EACCES'])
  server.close()
})

asRoot('every user can connect to an abstract address; allow turns them away', async (t) => {
  const [open, guarded] = [newName(), newName()]
  const asked: number[] = []
  const servers = [
    await listen(addressOf(open)),
    await listen(addressOf(guarded), { allow: ({ uid }) => asked.push(uid) > 0 && uid === 0 })
  ]
  const greeting = servers.map(greet)
  t.deepEqual(await tell(startStranger('connect', open, guarded)), ['welcome', 'turned away'])
  t.deepEqual(asked, [NOBODY])
  for (const server of servers) server.close()
  await Promise.all(greeting)
})

asRoot('an abstract address is there for its network namespace alone (needs root)', async (t) => {
  const name = newName()
  const server = await listen(addressOf(name))
  const greeting = greet(server)
  const file = await listen(newPath(), { mode: 0o666 })
  const greetings = [greeting, greet(file)]
  const apart = startProgram('unshare', [
    '--net',
    process.execPath,
    ...process.execArgv,
    fixturePath('stranger'),
    'connect',
    name,
    file.address
  ])
  t.deepEqual(await tell(apart), ['ECONNREFUSED', 'welcome'], 'a path is there for whoever sees the file')
  t.deepEqual(await tell(startStranger('connect', name)), ['welcome'])
  server.close()
  file.close()
  await Promise.all(greetings)
})

asRoot('a free abstract address is for whoever takes it: peer() tells a client who that was', async (t) => {
  const name = newName()
  const { socket, done } = startStranger('squat', name)
  t.is(text(await socket.recv()), 'listens\n')
  await t.throwsAsync(listen(addressOf(name)), { code: 'EADDRINUSE' })
  using client = await connect(addressOf(name))
  t.is(client.peer().uid, NOBODY)
  await t.throwsAsync(takeover({ path: addressOf(name) }), { code: 'EACCES', message: /user 65534/ })
  socket.close()
  await done
})

asRoot(
  'at abstract addresses anybody may use a store, within its limits, and nobody but its user takes over',
  async (t) => {
    const name = newName()
    await t.throwsAsync(serveStore({ path: addressOf(name), mode: 0o600 }), { code: 'ERR_INVALID_ARG_VALUE' })
    using _service = await serveStore({ path: addressOf(name) })
    using store = await connectStore(addressOf(name))
    const file = openFile('private')
    await store.put('private', file)
    await store.put('common', file, { mode: 0o644 })
    closeSync(file)
    t.deepEqual(await tell(startStranger('store', name)), ['common', 'EACCES', '256 EDQUOT'])
    t.is((await store.list()).length, 2 + 256)
    t.deepEqual(await tell(startStranger('takeover', `${name}.takeover`)), ['EACCES'])
  }
)

onLinux('a socket pair has no name: it cannot be opened through /proc', (t) => {
  const [a, b] = socketpair()
  const number = a.release()
  for (const flags of ['r', 'r+', constants.O_WRONLY]) {
    t.throws(() => openSync(`/proc/self/fd/${number}`, flags), { code: 'ENXIO' })
  }
  closeSync(number)
  b.close()
})

// What credentials prove

asRoot('peer() of a connection that was passed on names who connected, a message who sent it', async (t) => {
  const server = await listen(newPath(), { credentials: true, pidfd: capabilities().messagePidfd })
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const { socket, child, done } = startStranger('speak')
  await socket.sendFd(client)
  client.close()
  using message = (await connection.recv())!
  t.is(text(message), 'from a stranger')
  t.like(connection.peer(), { pid: process.pid, uid: 0 })
  t.deepEqual(message.credentials, { pid: child.pid!, uid: NOBODY, gid: NOBODY })
  socket.close()
  await done
  connection.close()
  server.close()
})

asRoot("over a connection to a broker that was passed on, its maker's rights are used", async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'inside', { mode: 0o600 })
  const server = await listen(newPath(), { mode: 0o666 })
  using _service = serveBroker(server, { roots: [root], allow: (_wish, { uid }) => uid === 0 })
  const said = startStranger('borrow', server.address)
  const client = await connect(server.address)
  await said.socket.sendFd(client)
  client.close()
  t.deepEqual(await tell(said), ['inside', 'EACCES'])
})

onlyIf(
  hasPython && capabilities().peerPidfd && process.getuid!() === 0,
  'needs root, Python 3.9, and peerPidfd() (Linux 6.5)'
)("who gets a pidfd can signal its process, another user's only as root", async (t) => {
  using server = await listen(newPath())
  const connecting =
    'import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); time.sleep(60)'
  const target = spawn('python3', ['-c', connecting, server.address], { stdio: 'inherit' })
  t.teardown(() => target.kill('SIGKILL'))
  const ended = once(target, 'exit')
  using connection = await server.accept()
  using pidfd = connection.peerPidfd()
  const signalling = `import errno, os, signal, socket, sys
s = socket.socket(fileno=3)
os.setuid(int(sys.argv[1]))
try:
    signal.pidfd_send_signal(socket.recv_fds(s, 1, 1)[1][0], signal.SIGTERM)
    print("sent")
except OSError as error:
    print(errno.errorcode[error.errno])`
  for (const [uid, said] of [
    [NOBODY, 'EPERM\n'],
    [0, 'sent\n']
  ] as const) {
    const { socket, done } = startProgram('python3', ['-c', signalling, `${uid}`])
    await socket.sendFd(pidfd)
    t.is(await done, said)
    socket.close()
  }
  t.deepEqual(await ended, [null, 'SIGTERM'])
})

asRoot('the peer of a client is who called listen, whoever accepts', async (t) => {
  const server = await listen(newPath(), { mode: 0o666 })
  const { socket, done } = startStranger('accept')
  await socket.sendFd(server)
  using client = await connect(server.address)
  t.is(text(await client.recv()), 'accepted by a stranger')
  t.like(client.peer(), { pid: process.pid, uid: 0 })
  socket.close()
  await done
  server.close()
})

// Reopening

asRoot(
  'who gets a descriptor can open its file anew for whatever the permissions of the file give, without its path',
  async (t) => {
    const hidden = join(folder, 'hidden')
    mkdirSync(hidden, { mode: 0o700 })
    const make = (mode: number, flags: string | number) => {
      const path = join(hidden, `${names++}`)
      writeFileSync(path, 'content')
      chmodSync(path, mode)
      return openSync(path, flags)
    }
    const cases: [fd: number, outcome: string][] = [
      [make(0o666, 'r'), 'content written'], // was for reading only
      [make(0o644, 'r'), 'content EACCES'],
      [make(0o600, 'r'), 'EACCES EACCES'],
      [make(0o600, 'r+'), 'EACCES EACCES'], // and the descriptor itself serves for both
      [make(0o644, 'a'), 'content EACCES'], // was for writing only
      [make(0o666, 'a'), 'content written'], // and not only at its end
      [make(0o666, constants.O_RDONLY | 0o10000000), 'content written'] // O_PATH: was for nothing
    ]
    const { socket, done } = startStranger('reopen')
    for (const [fd, outcome] of cases) {
      await socket.sendFd(fd)
      t.is(text(await socket.recv()), `${outcome}\n`)
      closeSync(fd)
    }
    socket.close()
    await done
  }
)

asRoot('memory that is sent for reading is opened anew for writing, unless it is sealed', async (t) => {
  const { socket, done } = startStranger('reopen')
  const outcomes: string[] = []
  for (const seals of [
    [],
    ['grow', 'shrink'],
    ['write'],
    ['future-write'],
    ['seal', 'shrink', 'grow', 'write']
  ] as const) {
    using memory = memfd({ data: 'content', seals })
    const forReading = openSync(`/proc/self/fd/${memory.fd}`, 'r')
    t.throws(() => writeFileSync(forReading, 'x'), { code: 'EBADF' })
    await socket.sendFd(forReading)
    closeSync(forReading)
    const outcome = text(await socket.recv())!.trim()
    const content = Buffer.from(readFileSync(`/proc/self/fd/${memory.fd}`)).toString()
    outcomes.push(`${seals.join('+')}: ${outcome}, ${content}`)
  }
  t.deepEqual(outcomes, [
    ': content written, Xontent',
    'grow+shrink: content written, Xontent',
    'write: content EPERM, content',
    'future-write: content EPERM, content',
    'seal+shrink+grow+write: content EPERM, content'
  ])
  socket.close()
  await done
})

asRoot(
  'who gets a directory has all beneath it that the permissions give, though its own folder is closed',
  async (t) => {
    const closed = join(folder, 'closed-above')
    const open = join(closed, 'open')
    mkdirSync(closed, { mode: 0o700 })
    mkdirSync(open)
    chmodSync(open, 0o755)
    writeFileSync(join(closed, 'beside'), 'beside')
    for (const [name, mode] of [
      ['public', 0o644],
      ['private', 0o600]
    ] as const) {
      writeFileSync(join(open, name), name)
      chmodSync(join(open, name), mode)
    }
    const directory = openSync(open, 'r')
    const stranger = startStranger('beneath', 'public', 'private', '../beside')
    await stranger.socket.sendFd(directory)
    closeSync(directory)
    t.deepEqual(await tell(stranger), ['public', 'EACCES', 'EACCES'])
  }
)

// Denial of service

asRoot(
  'what one peer does not read holds up what its user sends to others with descriptors, and bytes not',
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
  'connections that fill the table of a store keep new ones waiting, and those that are there are served',
  async (t) => {
    const path = newPath()
    const limited = ['-c', 'ulimit -n 64 && exec "$@"', 'sh', process.execPath, ...process.execArgv]
    const child = spawn('sh', [...limited, fixturePath('store-service'), path], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.regex(String(await once(child.stdout, 'data')), /^ready/)
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

onLinux('a client of a broker that asks and takes no answer keeps nobody else waiting', async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'content')
  const address = newPath()
  using _service = serveBroker(await listen(address), { roots: [root], allow: () => true })
  using hostile = await connect(address)
  const wish = frame(REQUEST, JSON.stringify({ operation: 'open', path: 'file', flags: 0, mode: 0 }), {
    id: 1,
    format: 1
  })
  const flood = hostile.send(Buffer.concat(Array.from({ length: 20_000 }, () => wish)))
  flood.catch(() => {})
  t.true(await isPending(flood), 'it is not even read')
  using broker = await connectBroker(address)
  for (let i = 0; i < 20; i++) {
    using file = await broker.open('file')
    t.is(readAll(file.fd), 'content')
  }
})

onLinux('a broker whose listener refuses descriptors gets none, and gives them', async (t) => {
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

// Default limits

const many = (count: number) => Array<FdSource>(count).fill(0)

withRoom('by default a channel takes 16 MiB and 1,024 descriptors with a message, and no more', async (t) => {
  const [most, mostFds] = [16 * 1024 * 1024, 1024]
  const [a, b] = openChannels<unknown>(t)
  await t.throwsAsync(a.send(new Uint8Array(most + 1)), { code: 'ERR_OUT_OF_RANGE' })
  await t.throwsAsync(a.send('', many(mostFds + 1)), { code: 'ERR_OUT_OF_RANGE' })
  const sending = a.send(new Uint8Array(most), many(mostFds))
  const message = (await b.receive())!
  await sending
  t.is((message.value as Uint8Array).length, most)
  t.is(message.fds.length, mostFds)
  message.close()
  for (const lies of [{ length: most + 1 }, { fds: mostFds + 1 }]) {
    const [channel, peer] = openBare(t)
    await peer.send(frame(MESSAGE, '', lies))
    await t.throwsAsync(channel.receive(), { code: 'EMSGSIZE' })
  }
})

test('by default 65,536 requests wait, and the next one rejects', async (t) => {
  const [channel] = openBare(t)
  const requests = Array.from({ length: 65_536 }, () => channel.request('x'))
  for (const request of requests) request.catch(() => {})
  await t.throwsAsync(channel.request('x'), { code: 'ERR_TOO_MANY_PENDING', message: /65536/ })
  channel.close()
  await Promise.allSettled(requests)
})

onlyIf(somaxconn >= 511, 'needs somaxconn of 511')(
  'by default 511 connections wait to be accepted, and the next one for room',
  async (t) => {
    const server = await listen(newPath())
    const clients = await Promise.all(Array.from({ length: 512 }, () => connect(server.address))) // listen(2): one more
    const controller = new AbortController()
    const waiting = connect(server.address, { signal: controller.signal })
    t.true(await isPending(waiting))
    controller.abort()
    await t.throwsAsync(waiting, { code: 'ABORT_ERR' })
    server.close()
    for (const client of clients) client.close()
  }
)

test('by default a store keeps 1,024 descriptors, 253 in an entry, for its own user alone', async (t) => {
  const path = newPath()
  using _service = await serveStore({ path })
  t.is(statSync(path).mode & 0o777, 0o600)
  t.is(statSync(`${path}.takeover`).mode & 0o777, 0o600)
  using store = await connectStore(path)
  await t.throwsAsync(store.put('more', many(254)), { code: 'ERR_OUT_OF_RANGE' })
  if (process.getuid!() !== 0) return // and 256 for one user
  for (let i = 0; i < 4; i++) await store.put(`entry-${i}`, many(253))
  await store.put('last', many(12))
  await t.throwsAsync(store.put('one too many', 0), { code: 'ENOSPC' })
})

test('a request to a broker has 64 KiB and one descriptor at most', async (t) => {
  const path = newPath()
  using _service = serveBroker(await listen(path), { allow: () => true })
  for (const [value, fds] of [
    ['x'.repeat(64 * 1024), []],
    ['x', [0, 0]]
  ] as const) {
    using channel = new Channel(await connect(path))
    await t.throwsAsync(channel.request(value, fds), { code: 'EMSGSIZE' })
  }
})

// The document

const document = readFileSync('SECURITY.md', 'utf8')
const model = document.slice(document.indexOf('## Threat model'))

test('each line of the threat model names a test that is there', (t) => {
  const lines = rowsOf(model)
  t.true(lines.length > 50, `${lines.length}`)
  for (const cells of lines) {
    const named = namedTests(cells.at(-1)!)
    t.true(named.length > 0 || cells.at(-1) === 'no test: it is not protected', cells[0])
    for (const one of named) t.true(exists(one), `${one.file}: ${one.title}`)
  }
})

test('the default limits in SECURITY.md are those of the reference', (t) => {
  const limits = rowsOf(model.slice(model.indexOf('### Default limits'))).filter(([, , option]) =>
    option?.startsWith('[')
  )
  t.true(limits.length > 10, `${limits.length}`)
  for (const [what, value, option] of limits) {
    const [, name, file] = /^\[`(?:\w+\.)?(\w+)`\]\((docs\/\w+\.md)/.exec(option!)!
    const described = readFileSync(file!, 'utf8')
      .split('\n')
      .filter((line) => line.includes(`\`${name}?\``))
    t.true(
      described.some((line) => line.replaceAll('`', '').replace('default: ', 'default ').includes(`default ${value}`)),
      `${what}: ${value}`
    )
  }
})
