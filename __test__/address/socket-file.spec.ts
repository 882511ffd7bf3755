import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { bind, bindListener, connect, listen, sendFd, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newFolder, statusFlags } from '../helpers/descriptors.ts'
import { finish, fixturePath, startFixture, startPython } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const O_NONBLOCK = 0o4000

const onLinux = onlyIf(isLinux, 'needs Linux')

const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

const types = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

/** A path in a folder of its own. */
const newPath = () => join(newFolder(), 'socket')

/** What is in a path's folder. */
function besides(path: string): string[] {
  return readdirSync(join(path, '..'))
}

function ownersOf(path: string): number[] {
  const { uid, gid } = statSync(path)
  return [uid, gid]
}

/** Leaves a socket's file without a listener. */
async function leaveStale(path: string): Promise<void> {
  const server = await listen(path)
  closeSync(server.release())
}

test('the file has the mode that was asked for, or what the umask leaves [F3] [S2]', async (t) => {
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

onlyIf(process.getuid?.() === 0, 'needs root')(
  'the file has the owner and the group that were asked for',
  async (t) => {
    const own = [process.getuid!(), process.getgid!()] as const
    for (const [options, ...expected] of [
      [{ owner: 'nobody' }, 65_534, own[1]],
      [{ owner: 12_345, group: 23_456, mode: 0o600 }, 12_345, 23_456],
      [{ group: 'daemon' }, own[0], 1],
      [{}, ...own]
    ] as const) {
      const [served, bound, lent] = [newPath(), newPath(), newPath()]
      using listener = bindListener({ path: lent, ...options })
      const [server, receiver] = [await listen(served, options), bind(bound, options)]
      for (const path of [served, bound, lent]) t.deepEqual(ownersOf(path), expected, JSON.stringify(options))
      t.is(listener.kind, 'unix-listener')
      server.close()
      receiver.close()
    }
  }
)

onlyIf(process.getuid?.() !== 0, 'needs a user other than root')('only root gives a file away', async (t) => {
  const path = newPath()
  const refused = { code: 'EPERM', syscall: 'chown', message: new RegExp(path) }
  await t.throwsAsync(listen(path, { owner: 0 }), refused)
  t.throws(() => bind(path, { owner: 0 }), refused)
  t.throws(() => bindListener({ path, owner: 0 }), refused)
  t.deepEqual(besides(path), [])
})

test('an owner or a group is known, and of a path [F3]', async (t) => {
  const path = newPath()
  const refused = (options: object, code: string) => {
    t.throws(() => bind(path, options), { code }, JSON.stringify(options))
    t.throws(() => bindListener({ path, ...options }), { code }, JSON.stringify(options))
    return t.throwsAsync(listen(path, options), { code }, JSON.stringify(options))
  }
  for (const name of ['owner', 'group']) {
    for (const value of [null, true, {}, []]) await refused({ [name]: value }, 'ERR_INVALID_ARG_TYPE')
    for (const value of ['', 'no such name', 'with\0nul']) await refused({ [name]: value }, 'ERR_INVALID_ARG_VALUE')
    for (const value of [-1, 1.5, 2 ** 32 - 1]) await refused({ [name]: value }, 'ERR_OUT_OF_RANGE')
    t.throws(() => bind(null, { [name]: 0 }), { code: 'ERR_INVALID_ARG_VALUE', message: /has no file/ })
  }
  t.deepEqual(besides(path), [])
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
  const child = spawn(process.execPath, [...process.execArgv, fixturePath('addresses'), 'end', 'kill', path], {
    stdio: ['ignore', 'ignore', 'inherit']
  })
  t.deepEqual(await once(child, 'close'), [null, 'SIGKILL'])
  t.true(existsSync(path))
  const server = await listen(path)
  server.close()
  t.false(existsSync(path))
})

test('a path where another listens, or is only bound, is in use and stays as it is [F3] [S4]', async (t) => {
  const path = newPath()
  const server = await listen(path)
  const { ino } = statSync(path)
  for (const type of types) await t.throwsAsync(listen(path, { type }), { code: 'EADDRINUSE' })
  t.is(statSync(path).ino, ino)
  const [client, connection] = await Promise.all([connect(path), server.accept()])
  t.is(connection.remoteAddress, null, 'the attempts made no connection')
  for (const socket of [client, connection, server]) socket.close()
})

test('what is no socket is in use, and is never removed [F3] [S4]', async (t) => {
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
    const racers = Array.from({ length: 20 }, () => startFixture('addresses', ['race', path]))
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

test('closing removes the file only while it is still that file [F3.3]', async (t) => {
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

test('a file that was removed by another process does not fail the close', async (t) => {
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
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('addresses'), 'end', how, path], {
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
