import { randomUUID } from 'node:crypto'
import { chmodSync, closeSync, constants, mkdirSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type UnixSocket, connect, listen, memfd, socketpair } from 'fdpass'
import { connectStore, serveStore } from 'fdpass/store'
import { takeover } from 'fdpass/takeover'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath, openFile } from '../helpers/descriptors.ts'
import { fixturePath, startProgram, linesFrom, startOtherUser } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const NOBODY = 65_534

const onLinux = onlyIf(isLinux, 'needs Linux')

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')

/** A name in the abstract space, as the fixture has it in its arguments. */
const newName = () => `@fdpass-${randomUUID()}`

const addressOf = (name: string) => name.replace(/^@/, '\0')

/** Sends a greeting to each client. */
async function greet(server: AsyncIterable<UnixSocket>): Promise<void> {
  for await (const connection of server) {
    await connection.send('welcome')
    connection.close()
  }
}

asRoot("connecting takes the right to write to the socket's file, and to go through its folders [S1]", async (t) => {
  const inside = newPath('closed')
  mkdirSync(inside, { mode: 0o700 })
  const open = newPath('open')
  mkdirSync(open)
  chmodSync(open, 0o755)
  const modes = [0o666, 0o602, 0o644, 0o660, 0o600, 0]
  const servers = await Promise.all(modes.map((mode) => listen(newPath(), { mode })))
  servers.push(
    await listen(join(inside, 'socket'), { mode: 0o666 }),
    await listen(join(open, 'socket'), { mode: 0o666 })
  )
  const greeting = servers.map(greet)
  const said = await linesFrom(startOtherUser('connect', ...servers.map(({ address }) => address)))
  t.deepEqual(said, ['welcome', 'welcome', 'EACCES', 'EACCES', 'EACCES', 'EACCES', 'EACCES', 'welcome'])
  for (const server of servers) server.close()
  await Promise.all(greeting)
})

asRoot('without a mode the umask decides, and the usual one lets no other user connect [S3]', async (t) => {
  const umask = process.umask(0o022)
  const server = await listen(newPath())
  process.umask(umask)
  t.is(statSync(server.address).mode & 0o777, 0o755)
  t.deepEqual(await linesFrom(startOtherUser('connect', server.address)), ['EACCES'])
  server.close()
})

asRoot('every user can connect to an abstract address; allow turns them away [S5]', async (t) => {
  const [open, guarded] = [newName(), newName()]
  const asked: number[] = []
  const servers = [
    await listen(addressOf(open)),
    await listen(addressOf(guarded), { allow: ({ uid }) => asked.push(uid) > 0 && uid === 0 })
  ]
  const greeting = servers.map(greet)
  t.deepEqual(await linesFrom(startOtherUser('connect', open, guarded)), ['welcome', 'turned away'])
  t.deepEqual(asked, [NOBODY])
  for (const server of servers) server.close()
  await Promise.all(greeting)
})

asRoot('an abstract address is there for its network namespace alone (needs root) [F1.1] [S5]', async (t) => {
  const name = newName()
  const server = await listen(addressOf(name))
  const greeting = greet(server)
  const file = await listen(newPath(), { mode: 0o666 })
  const greetings = [greeting, greet(file)]
  const apart = startProgram('unshare', [
    '--net',
    process.execPath,
    ...process.execArgv,
    fixturePath('other-user'),
    'connect',
    name,
    file.address
  ])
  t.deepEqual(await linesFrom(apart), ['ECONNREFUSED', 'welcome'], 'a path is there for whoever sees the file')
  t.deepEqual(await linesFrom(startOtherUser('connect', name)), ['welcome'])
  server.close()
  file.close()
  await Promise.all(greetings)
})

asRoot('any process can take a free abstract address: peer() identifies it to a client [S6]', async (t) => {
  const name = newName()
  const { socket, done } = startOtherUser('squat', name)
  t.is(text(await socket.recv()), 'listens\n')
  await t.throwsAsync(listen(addressOf(name)), { code: 'EADDRINUSE' })
  using client = await connect(addressOf(name))
  t.is(client.peer().uid, NOBODY)
  await t.throwsAsync(takeover({ path: addressOf(name) }), { code: 'EACCES', message: /user 65534/ })
  socket.close()
  await done
})

asRoot(
  'at abstract addresses any user may use a store, within its limits, and only its own user takes over [S57] [S61] [S89]',
  async (t) => {
    const name = newName()
    await t.throwsAsync(serveStore({ path: addressOf(name), mode: 0o600 }), { code: 'ERR_INVALID_ARG_VALUE' })
    using _service = await serveStore({ path: addressOf(name) })
    using store = await connectStore(addressOf(name))
    const file = openFile('private')
    await store.put('private', file)
    await store.put('common', file, { mode: 0o644 })
    closeSync(file)
    t.deepEqual(await linesFrom(startOtherUser('store', name)), ['common', 'EACCES', '256 EDQUOT'])
    t.is((await store.list()).length, 2 + 256)
    t.deepEqual(await linesFrom(startOtherUser('takeover', `${name}.takeover`)), ['EACCES'])
  }
)

onLinux('a socket pair has no name: it cannot be opened through /proc [S8]', (t) => {
  const [a, b] = socketpair()
  const number = a.release()
  for (const flags of ['r', 'r+', constants.O_WRONLY]) {
    t.throws(() => openSync(`/proc/self/fd/${number}`, flags), { code: 'ENXIO' })
  }
  closeSync(number)
  b.close()
})

asRoot(
  'the receiver of a descriptor can reopen its file for all that its permissions allow, without its path [S33]',
  async (t) => {
    const hidden = newPath('hidden')
    mkdirSync(hidden, { mode: 0o700 })
    let files = 0
    const make = (mode: number, flags: string | number) => {
      const path = join(hidden, `${files++}`)
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
    const { socket, done } = startOtherUser('reopen')
    for (const [fd, outcome] of cases) {
      await socket.sendFd(fd)
      t.is(text(await socket.recv()), `${outcome}\n`)
      closeSync(fd)
    }
    socket.close()
    await done
  }
)

asRoot('memory that is sent for reading is opened anew for writing, unless it is sealed [S34]', async (t) => {
  const { socket, done } = startOtherUser('reopen')
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
  'the receiver of a directory reaches all beneath it that permissions allow, though its own folder is closed [S35]',
  async (t) => {
    const closed = newPath('closed-above')
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
    const stranger = startOtherUser('beneath', 'public', 'private', '../beside')
    await stranger.socket.sendFd(directory)
    closeSync(directory)
    t.deepEqual(await linesFrom(stranger), ['public', 'EACCES', 'EACCES'])
  }
)
