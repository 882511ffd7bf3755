import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import {
  type Credentials,
  Descriptor,
  UnixServer,
  UnixSocket,
  capabilities,
  connect,
  listen,
  sendFd,
  socketpair
} from 'fdpass'
import { fdLimit, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, statusFlags, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { finish, fixturePath, startFixture, startLimited, startPython } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'

const O_NONBLOCK = 0o4000
const onLinux = onlyIf(isLinux, 'needs Linux')
const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')
const serialWithPython = onlyIf(hasPython && fdLimit > 10_100, 'needs Python 3.9 and ulimit -n 10,100', test.serial)
const withPython = onlyIf(hasPython, 'needs Python 3.9')
// A thread-safe function hands on all reports that come while one is served, up to 1,000, before the loop turns.
const onUv = onlyIf(capabilities().backend === 'uv', 'needs the uv back end')
const types = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

const folder = temporaryFolder()

/** A path in a folder of its own, where nobody listens. */
function newPath(): string {
  return join(mkdtempSync(join(folder, 'test-')), 'socket')
}

/** What is in a path's folder. */
function besides(path: string): string[] {
  return readdirSync(join(path, '..'))
}

/** A socket's file that nobody listens behind any more. */
async function leaveStale(path: string): Promise<void> {
  const server = await listen(path)
  closeSync(server.release())
}

/** Whether the peer of a socket has closed, by its end. */
async function hasEnded(socket: UnixSocket): Promise<boolean> {
  try {
    return (await socket.recv()) === null
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ECONNRESET'
  }
}

test('the file has the mode that was asked for, or what the umask leaves [F3]', async (t) => {
  for (const mode of [0o600, 0o660, 0o666, 0o777, 0]) {
    const path = newPath()
    const server = await listen(path, { mode })
    t.is(statSync(path).mode & 0o7777, mode, mode.toString(8))
    server.close()
  }
  const path = newPath()
  const server = await listen(path)
  t.is(statSync(path).mode & 0o7777, 0o777 & ~process.umask())
  server.close()
})

test('a stale file is replaced, and nothing is left beside it [F3]', async (t) => {
  const path = newPath()
  await leaveStale(path)
  t.true(existsSync(path))
  const server = await listen(path)
  const [client, connection] = await Promise.all([connect(path), server.accept()])
  t.deepEqual(besides(path), ['socket'])
  for (const socket of [client, connection, server]) socket.close()
  t.deepEqual(besides(path), [])
})

test('the file of a process that was killed is replaced [F3]', async (t) => {
  const path = newPath()
  const child = spawn(process.execPath, [...process.execArgv, fixturePath('ends'), 'kill', path], {
    stdio: ['ignore', 'ignore', 'inherit']
  })
  t.deepEqual(await once(child, 'close'), [null, 'SIGKILL'])
  t.true(existsSync(path))
  const server = await listen(path)
  server.close()
  t.false(existsSync(path))
})

test('a path where another listens, or is only bound, is in use and stays as it is [F3]', async (t) => {
  const path = newPath()
  const server = await listen(path)
  const { ino } = statSync(path)
  for (const type of types) await t.throwsAsync(listen(path, { type }), { code: 'EADDRINUSE' })
  t.is(statSync(path).ino, ino)
  const [client, connection] = await Promise.all([connect(path), server.accept()])
  t.is(connection.remoteAddress, null, 'the attempts made no connection')
  for (const socket of [client, connection, server]) socket.close()
})

test('what is no socket is in use, and is never removed [F3]', async (t) => {
  const path = newPath()
  const stale = newPath()
  await leaveStale(stale)
  const makers: [string, () => void][] = [
    ['a file', () => writeFileSync(path, 'mine')],
    ['a link to a file', () => symlinkSync('/dev/null', path)],
    ['a link to a stale socket', () => symlinkSync(stale, path)],
    ['a link to nothing', () => symlinkSync('/nonexistent', path)]
  ]
  for (const [what, make] of makers) {
    make()
    await t.throwsAsync(listen(path), { code: 'EADDRINUSE' }, what)
    t.deepEqual(besides(path), ['socket'], what)
    rmSync(path)
  }
  t.true(existsSync(stale))
})

for (const stale of [true, false]) {
  test(`of 20 processes that race for a ${stale ? 'stale' : 'free'} path exactly one wins, and serves`, async (t) => {
    const path = newPath()
    if (stale) await leaveStale(path)
    const racers = Array.from({ length: 20 }, () => startFixture('racer', [path]))
    await Promise.all(racers.map(({ socket }) => socket.send('go')))
    const results = await Promise.all(racers.map(async ({ socket }) => text(await socket.recv())))
    t.deepEqual(results.toSorted(), [...Array<string>(19).fill('EADDRINUSE'), 'won'])
    const winner = racers[results.indexOf('won')]!
    t.deepEqual(besides(path), ['socket'])
    const client = await connect(path)
    t.is(text(await client.recv()), String(winner.child.pid))
    client.close()
    for (const { socket } of racers) socket.close()
    await Promise.all(racers.map(({ done }) => done))
    t.deepEqual(besides(path), [])
  })
}

test('closing removes the file only while it is still that file [F3]', async (t) => {
  const path = newPath()
  const replacements: [string, () => unknown][] = [
    ['a file', () => writeFileSync(path, 'mine')],
    ['another socket', () => leaveStale(path)]
  ]
  for (const [what, replace] of replacements) {
    const server = await listen(path)
    rmSync(path)
    await replace()
    const { ino } = statSync(path)
    server.close()
    t.is(statSync(path).ino, ino, what)
    rmSync(path)
  }
  const server = await listen(path)
  renameSync(path, `${path}-renamed`)
  server.close()
  t.deepEqual(besides(path), ['socket-renamed'])
})

test('a file that somebody has removed is not missed', async (t) => {
  const server = await listen(newPath())
  rmSync(server.address)
  t.notThrows(() => server.close())
})

test('a released listener works on, in blocking mode, and its file stays', async (t) => {
  const path = newPath()
  const server = await listen(path)
  const [client, connection] = await Promise.all([connect(path), server.accept()])
  const waiting = server.accept()
  const listener = server.release()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  if (isLinux) t.is(statusFlags(listener) & O_NONBLOCK, 0)
  t.true(existsSync(path))
  const another = await connect(path)
  t.true(server.closed)
  t.throws(() => server.release(), { code: 'ERR_SOCKET_CLOSED' })
  server.close()
  t.true(existsSync(path))
  closeSync(listener)
  for (const socket of [client, connection, another]) socket.close()
})

const ends: [string, string, boolean][] = [
  ['exit', 'process.exit()', true],
  ['throw', 'an uncaught exception', true],
  ['end', 'the end of its work', true],
  ['worker', "its Worker's termination", true],
  ['release', 'release and process.exit()', false]
]
for (const [how, title, removed] of ends) {
  test(`a process that ends by ${title} ${removed ? 'removes' : 'leaves'} the files that it made`, async (t) => {
    const path = newPath()
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('ends'), how, path], {
      stdio: ['ignore', 'pipe', 'ignore']
    })
    await finish(child)
    t.deepEqual(besides(path), removed ? [] : ['socket'])
  })
}

withPythonOnLinux('a process that was sent the listener does not remove the file', async (t) => {
  const path = newPath()
  const server = await listen(path)
  const [a, b] = socketpair()
  await a.sendFd(server)
  const received = (await b.recvFd())!.fd!
  received.closeSync() // of this process, but not the socket's maker
  t.true(existsSync(path))
  const { socket, done } = startPython('accept_one')
  await sendFd(socket, server, 'listener')
  const client = await connect(path)
  t.is(text(await client.recv()), 'from Python')
  await done
  t.true(existsSync(path))
  for (const each of [a, b, socket, client, server]) each.close()
  t.false(existsSync(path))
})

for (const type of types) {
  test(`connections are accepted in order, with what was sent before, type ${type} [B12]`, async (t) => {
    const server = await listen(newPath(), { type })
    t.is(server.type, type)
    const file = openFile('early')
    const clients: UnixSocket[] = []
    for (let i = 0; i < 100; i++) {
      const client = await connect(server.address, { type })
      await client.send(`${i}`, { fds: [file] })
      clients.push(client)
    }
    closeSync(file)
    const order: (string | null)[] = []
    for await (const connection of server) {
      t.is(connection.type, type)
      using message = (await connection.recv())!
      order.push(text(message))
      t.is(message.fds.length, 1)
      connection.close()
      if (order.length === 100) break
    }
    t.deepEqual(
      order,
      clients.map((_, i) => `${i}`)
    )
    for (const client of clients) client.close()
    server.close()
  })
}

for (const way of ['iteration', 'accept'] as const) {
  serialWithPython(`10,000 connections opened as fast as possible are all accepted, by ${way}`, async (t) => {
    const server = await listen(newPath())
    const { socket, done } = startPython('flood', [server.address, '10000'])
    let accepted = 0
    let turnsOfTheLoop = 0
    const beat = setInterval(() => turnsOfTheLoop++)
    const answer = async (connection: UnixSocket) => {
      await connection.send(`${accepted++}`)
      connection.close()
    }
    if (way === 'accept') {
      for (let i = 0; i < 10_000; i++) await answer(await server.accept())
    } else {
      for await (const connection of server) {
        await answer(connection)
        if (accepted === 10_000) break
      }
    }
    t.is(await done, '10000 answers, in order\n')
    t.true(turnsOfTheLoop > 0, 'a flood does not starve timers')
    clearInterval(beat)
    socket.close()
    server.close()
  })
}

for (const way of ['iteration', 'accept'] as const) {
  onUv(`a long backlog leaves the event loop its turns, by ${way}`, async (t) => {
    const server = await listen(newPath(), { backlog: 2000 })
    const clients: UnixSocket[] = []
    for (let i = 0; i < 1000; i++) clients.push(await connect(server.address))
    let [accepted, since, most, running] = [0, 0, 0, true]
    const turn = () => {
      most = Math.max(most, since)
      since = 0
      if (running) setImmediate(turn)
    }
    setImmediate(turn)
    const count = (connection: UnixSocket) => {
      connection.close()
      accepted++
      since++
    }
    if (way === 'accept') {
      for (let i = 0; i < 1000; i++) count(await server.accept())
    } else {
      for await (const connection of server) {
        count(connection)
        if (accepted === 1000) break
      }
    }
    running = false
    t.true(most > 0 && most < 300, `${most} connections between two turns`)
    for (const client of clients) client.close()
    server.close()
  })
}

withPython('a listener that another process makes blocking does not block this one', async (t) => {
  const server = await listen(newPath())
  const { socket, done } = startPython('make_blocking')
  await socket.sendFd(server)
  await done
  for (let i = 0; i < 30; i++) {
    const [client, connection] = await Promise.all([connect(server.address), server.accept()])
    client.close()
    connection.close()
  }
  const clients = [await connect(server.address), await connect(server.address)]
  for await (const connection of server) {
    connection.close()
    break
  }
  t.true(await isPending(server.accept().then((connection) => (connection.close(), server.accept()))))
  for (const each of [...clients, socket]) each.close()
  server.close()
})

test('several accepts at once each get a connection, in order', async (t) => {
  const server = await listen(newPath())
  const waiting = Array.from({ length: 10 }, () => server.accept())
  const clients: UnixSocket[] = []
  for (let i = 0; i < 10; i++) {
    clients.push(await connect(server.address))
    await clients[i]!.send(`${i}`)
  }
  const connections = await Promise.all(waiting)
  for (const [i, connection] of connections.entries()) t.is(text(await connection.recv()), `${i}`)
  for (const socket of [...clients, ...connections]) socket.close()
  server.close()
})

test('an accept that is aborted loses no connection', async (t) => {
  const server = await listen(newPath())
  const abort = new AbortController()
  const waiting = server.accept({ signal: abort.signal })
  const client = await connect(server.address)
  abort.abort()
  await t.throwsAsync(waiting, { name: 'AbortError', code: 'ABORT_ERR' })
  await t.throwsAsync(server.accept({ signal: abort.signal }), { name: 'AbortError' })
  const connection = await server.accept()
  await client.send('x')
  t.is(text(await connection.recv()), 'x')
  for (const socket of [client, connection, server]) socket.close()
})

test('what an iteration accepted ahead belongs to the server: taken by the next, closed with it', async (t) => {
  const server = await listen(newPath())
  const clients = await Promise.all(Array.from({ length: 20 }, () => connect(server.address)))
  const taken: UnixSocket[] = []
  for await (const connection of server) {
    taken.push(connection)
    if (taken.length === 2) break
  }
  t.throws(() => server.release(), { code: 'ERR_SOCKET_NOT_EMPTY', message: /18 connections/ })
  taken.push(await server.accept())
  for await (const connection of server) {
    taken.push(connection)
    if (taken.length === 10) break
  }
  server.close()
  for (const [i, connection] of taken.entries()) await connection.send(`${i}`)
  for (const [i, client] of clients.entries()) {
    if (i < 10) t.is(text(await client.recv()), `${i}`)
    else t.true(await hasEnded(client))
  }
  for (const socket of [...clients, ...taken]) socket.close()
})

test("an iteration ends with the server's close, and accepts reject", async (t) => {
  const server = await listen(newPath())
  const seen: UnixSocket[] = []
  const iterating = (async () => {
    for await (const connection of server) seen.push(connection)
  })()
  const client = await connect(server.address)
  await turns()
  const waiting = server.accept()
  server.close()
  await iterating
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.is(seen.length, 1)
  await t.throwsAsync(server.accept(), { code: 'ERR_SOCKET_CLOSED' })
  for await (const _ of server) t.fail()
  t.true(server.closed)
  t.notThrows(() => server.close())
  client.close()
  seen[0]!.close()
})

test('using and await using close a server', async (t) => {
  const path = newPath()
  {
    using server = await listen(path)
    t.true(existsSync(server.address))
  }
  t.false(existsSync(path))
  {
    await using server = await listen(path)
    t.true(existsSync(server.address))
  }
  t.false(existsSync(path))
})

test('a full descriptor table is told, the connection waits, and is accepted once there is room', async (t) => {
  const { socket, done } = startLimited(64, 'full-table', [newPath()])
  socket.close()
  t.is(await done, 'EMFILE\nEMFILE\naccepted 1\naccepted 2\n')
})

for (const kind of ['sync', 'async']) {
  test(`allow sees the credentials and decides, ${kind}`, async (t) => {
    const asked: Credentials[] = []
    let allowed = true
    const decide = (credentials: Credentials) => {
      asked.push(credentials)
      return (allowed = !allowed)
    }
    const server = await listen(newPath(), {
      allow: kind === 'sync' ? decide : (credentials) => Promise.resolve(decide(credentials))
    })
    const clients: UnixSocket[] = []
    for (let i = 0; i < 6; i++) clients.push(await connect(server.address))
    const connections: UnixSocket[] = []
    for await (const connection of server) {
      connections.push(connection)
      if (connections.length === 3) break
    }
    t.is(asked.length, 6)
    for (const { pid, uid, gid } of asked) {
      t.deepEqual([isLinux ? pid : process.pid, uid, gid], [process.pid, process.geteuid!(), process.getegid!()])
    }
    for (const connection of connections) await connection.send('welcome')
    for (const [i, client] of clients.entries()) {
      if (i % 2 === 0) t.true(await hasEnded(client), `${i}`)
      else t.is(text(await client.recv()), 'welcome', `${i}`)
    }
    for (const socket of [...clients, ...connections, server]) socket.close()
  })
}

test('an accept goes on waiting after a connection that was refused', async (t) => {
  let refuse = true
  const server = await listen(newPath(), { allow: () => !refuse })
  const waiting = server.accept()
  const refused = await connect(server.address)
  t.true(await hasEnded(refused))
  t.true(await isPending(waiting))
  refuse = false
  const client = await connect(server.address)
  const connection = await waiting
  for (const socket of [refused, client, connection, server]) socket.close()
})

test('what allow throws, and what is no boolean, rejects the accept and closes the connection', async (t) => {
  const verdicts: [unknown, object][] = [
    [new RangeError('thrown'), { instanceOf: RangeError, message: 'thrown' }],
    [() => Promise.reject(new RangeError('rejected')), { instanceOf: RangeError, message: 'rejected' }],
    ...[undefined, null, 1, 'yes', {}, Promise.resolve(1), Promise.resolve()].map(
      (value) => [value, { code: 'ERR_INVALID_RETURN_VALUE', message: /options\.allow/ }] as [unknown, object]
    )
  ]
  let verdict: unknown
  const server = await listen(newPath(), {
    allow: () => {
      if (verdict instanceof Error) throw verdict
      return (typeof verdict === 'function' ? verdict() : verdict) as boolean
    }
  })
  for (const [value, expectation] of verdicts) {
    verdict = value
    const waiting = server.accept()
    const client = await connect(server.address)
    await t.throwsAsync(waiting, expectation)
    t.true(await hasEnded(client))
    client.close()
  }
  verdict = true
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  for (const socket of [client, connection, server]) socket.close()
})

test('a connection about which allow never decides keeps no other waiting', async (t) => {
  let asked = 0
  const server = await listen(newPath(), {
    allow: () => (asked++ === 0 ? new Promise<boolean>(() => {}) : Promise.resolve(true))
  })
  const abort = new AbortController()
  const first = server.accept({ signal: abort.signal })
  const clients = [await connect(server.address)]
  while (asked < 1) await turns(1) // oxlint-disable-line no-unmodified-loop-condition -- `allow` modifies it
  clients.push(await connect(server.address))
  const connections = [await first]
  for (let i = 0; i < 3; i++) {
    clients.push(await connect(server.address))
    connections.push(await server.accept())
  }
  t.is(asked, 5)
  server.close()
  t.true(await hasEnded(clients[0]!), 'the undecided one is closed with the server')
  for (const socket of [...clients, ...connections]) socket.close()
})

test('no more than 64 connections are undecided at a time', async (t) => {
  const decide: ((verdict: boolean) => void)[] = []
  const server = await listen(newPath(), { allow: () => new Promise<boolean>((resolve) => decide.push(resolve)) })
  const clients: UnixSocket[] = []
  for (let i = 0; i < 100; i++) clients.push(await connect(server.address))
  const waiting = Array.from({ length: 100 }, () => server.accept())
  await turns(50)
  t.is(decide.length, 64)
  for (let i = 0; i < 100; i++) {
    while (decide.length <= i) await turns(1)
    decide[i]!(true)
  }
  for (const connection of await Promise.all(waiting)) connection.close()
  for (const client of clients) client.close()
  server.close()
})

test('a server that allow itself closes closes that connection, and accepts no other', async (t) => {
  for (const promised of [false, true]) {
    const server = await listen(newPath(), {
      allow: () => {
        server.close()
        return promised ? Promise.reject(new Error('heard by nobody')) : true
      }
    })
    const clients = [await connect(server.address), await connect(server.address)]
    for await (const _ of server) t.fail()
    t.true(server.closed)
    for (const client of clients) {
      t.true(await hasEnded(client))
      client.close()
    }
  }
})

test('a server that is closed while allow decides closes that connection', async (t) => {
  let asked!: (decide: (verdict: boolean) => void) => void
  const question = new Promise<(verdict: boolean) => void>((resolve) => (asked = resolve))
  const server = await listen(newPath(), { allow: () => new Promise<boolean>((resolve) => asked(resolve)) })
  const waiting = server.accept()
  const client = await connect(server.address)
  const decide = await question
  t.throws(() => server.release(), { code: 'ERR_SOCKET_NOT_EMPTY' })
  server.close()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.true(await hasEnded(client))
  decide(true)
  await turns()
  client.close()
})

test('descriptors: false refuses descriptors and lets bytes through [F5]', async (t) => {
  const server = await listen(newPath(), { descriptors: false })
  const client = await connect(server.address)
  const { read, write } = openPipe()
  const early = client.sendFd(write, 'early') // before accept
  if (capabilities().passRights) await t.throwsAsync(early, { code: 'EPERM', message: /, sendmsg$/ })
  else await early
  const connection = await server.accept()
  if (!capabilities().passRights) {
    const error = await t.throwsAsync(connection.recv(), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
    t.is(text(error as unknown as { data: Uint8Array }), 'early')
  }
  await client.send('bytes')
  t.is(text(await connection.recv()), 'bytes')
  await connection.sendFd(write, 'back') // the refusal is one-sided
  using back = (await client.recvFd())!
  t.not(back.fd, null)
  back.fd!.closeSync()
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
  for (const socket of [client, connection, server]) socket.close()
})

withPythonOnLinux(
  'where the kernel delivers descriptors that were refused, they are closed and told [F5]',
  async (t) => {
    const server = await listen(newPath(), { descriptors: false })
    const [client, connection] = await Promise.all([connect(server.address), server.accept()])
    // Somebody who has the connection too switches SO_PASSRIGHTS on again; before Linux 6.16 it is never off.
    const { socket, done } = startPython('pass_rights')
    await socket.sendFd(connection)
    await done
    const { read, write } = openPipe()
    for (const maxFds of [undefined, 0, 253]) {
      await client.sendFd(write, 'with one')
      const error = await t.throwsAsync(connection.recv({ maxFds }), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
      t.is(text(error as unknown as { data: Uint8Array }), 'with one')
    }
    await client.sendFd(write, 'with one')
    await t.throwsAsync(connection.recvFd(), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
    closeSync(write)
    t.false(hasWriter(read))
    closeSync(read)
    for (const each of [client, connection, server, socket]) each.close()
  }
)

test('a server can be sent, and is taken over as a descriptor', async (t) => {
  const server = await listen(newPath())
  const [a, b] = socketpair()
  await sendFd(a, server)
  const { fd } = (await b.recvFd())!
  t.throws(() => UnixSocket.from(fd!), { code: 'ERR_INVALID_ARG_VALUE', message: /listening/ })
  t.throws(() => UnixSocket.from(fd!.duplicate().release()), { code: 'ERR_INVALID_ARG_VALUE' })
  t.true(fd instanceof Descriptor && server instanceof UnixServer)
  fd!.closeSync()
  a.close()
  b.close()
  server.close()
})

onLinux('a listener and its connections are close-on-exec [D10]', async (t) => {
  const server = await listen(newPath())
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const child = spawn('ls', ['-l', '/proc/self/fd'], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.notRegex(await finish(child), / ([3-9]|\d\d+) -> socket:/)
  for (const socket of [client, connection, server]) socket.close()
})

test('a connection that is open is served although the server is closed', async (t) => {
  const server = await listen(newPath())
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  server.close()
  await client.send('x')
  t.is(text(await connection.recv()), 'x')
  client.close()
  connection.close()
})

onLinux('a server waits for the lock that another process holds beside the file, and not for ever', async (t) => {
  const path = newPath()
  await leaveStale(path)
  const holder = spawn('flock', [`${path}.fdpass-lock`, 'sh', '-c', 'echo locked; read _'], {
    stdio: ['pipe', 'pipe', 'inherit']
  })
  await once(holder.stdout, 'readable')
  const waiting = listen(path)
  t.true(await isPending(waiting))
  holder.stdin.end('\n')
  const server = await waiting
  server.close()
  t.deepEqual(besides(path), [])
})
