import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import test from 'ava'
import { type SystemError, bind, connect, listen } from 'fdpass'
import { unchanged } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newFolder } from '../helpers/descriptors.ts'
import { endWith, startFixture } from '../helpers/processes.ts'
import {
  abstractOf,
  leaveSocket,
  putOthers,
  takesConnections,
  takesDatagrams,
  openFirstSockets
} from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'Linux only', test.serial)

test.before('what the first socket opens stays open', openFirstSockets)

test.serial('what is no socket is in use, and is never removed', async (t) => {
  const folder = newFolder()
  const others = putOthers(folder)
  const server = await listen(join(folder, 'server'))
  await unchanged(t, folder, async () => {
    for (const [name, path] of Object.entries(others)) {
      const calls: [string, () => unknown][] = [
        ['listen', () => listen(path)],
        ['listen with a mode', () => listen(path, { mode: 0o600 })],
        ['bind', async () => bind(path)],
        ['bind with a mode', async () => bind(path, { mode: 0o600 })],
        ['connect', () => connect(server.address, { localAddress: path })]
      ]
      for (const [what, call] of calls) {
        const error = await t.throwsAsync<SystemError>(call() as Promise<unknown>, { code: 'EADDRINUSE' }, what + name)
        t.is(error!.errno, -constants.errno.EADDRINUSE)
        t.is(error!.syscall, 'bind')
        t.is(error!.address, path)
        t.true(error!.message.endsWith(`, bind ${inspect(path)}`), error!.message)
      }
    }
    t.is(readFileSync(others.file!, 'utf8'), 'content of the file')
  })
  await takesConnections(t, server)
  server.close()
})

test.serial('an address with a live socket of any type is in use, and the socket goes on', async (t) => {
  const folder = newFolder()
  const stream = await listen(join(folder, 'stream'))
  const receiver = bind(join(folder, 'datagram'))
  const abstract = isLinux ? [await listen(abstractOf(50))] : []
  const addresses = [stream.address, receiver.localAddress!, ...abstract.map((server) => server.address)]
  await unchanged(t, folder, async () => {
    for (const address of addresses) {
      for (const call of [
        () => listen(address),
        () => connect(stream.address, { localAddress: address }),
        // Each type has abstract names of its own.
        ...(address.startsWith('\0') ? [] : [async () => bind(address)])
      ]) {
        const error = await t.throwsAsync<SystemError>(call(), { code: 'EADDRINUSE' })
        t.is(error!.address, address)
        t.is(error!.syscall, 'bind')
      }
    }
  })
  await takesConnections(t, stream)
  await takesDatagrams(t, receiver)
  for (const socket of [stream, receiver, ...abstract]) socket.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('a folder that is missing, and one that is none', async (t) => {
  const folder = newFolder()
  writeFileSync(join(folder, 'file'), '')
  const server = await listen(join(folder, 'server'))
  const sender = bind(null)
  const cases = [
    [join(folder, 'missing', 'socket'), 'ENOENT'],
    [join(folder, 'file', 'socket'), 'ENOTDIR']
  ] as const
  await unchanged(t, folder, async () => {
    for (const [address, code] of cases) {
      const calls: [string, () => unknown][] = [
        ['bind', () => listen(address)],
        ['bind', async () => bind(address)],
        ['bind', () => connect(server.address, { localAddress: address })],
        ['connect', () => connect(address)],
        ['sendmsg', () => sender.send('x', { to: address })]
      ]
      for (const [syscall, call] of calls) {
        const error = await t.throwsAsync<SystemError>(call() as Promise<unknown>, { code })
        t.is(error!.errno, -constants.errno[code])
        t.is(error!.syscall, syscall)
        t.is(error!.address, address)
      }
    }
  })
  await takesConnections(t, server)
  server.close()
  sender.close()
})

test.serial('a failed connect leaves no local address behind', async (t) => {
  const folder = newFolder()
  const others = putOthers(folder)
  const stream = await listen(join(folder, 'stream'))
  const receiver = bind(join(folder, 'datagram'))
  const cases: [string, string, ('stream' | 'dgram')?][] = [
    [others.file!, 'ECONNREFUSED'],
    [others.folder!, 'ECONNREFUSED'],
    [others.fifo!, 'ECONNREFUSED'],
    [others.link!, 'ECONNREFUSED'],
    [others['link to a socket']!, 'ECONNREFUSED'],
    [join(folder, 'left'), 'ECONNREFUSED'],
    [join(folder, 'left'), 'ECONNREFUSED', 'dgram'],
    [others.dangling!, 'ENOENT'],
    [join(folder, 'nobody'), 'ENOENT'],
    [join(folder, 'nobody'), 'ENOENT', 'dgram'],
    [stream.address, 'EPROTOTYPE', 'dgram'],
    [receiver.localAddress!, 'EPROTOTYPE']
  ]
  if (isLinux) cases.push([abstractOf(60), 'ECONNREFUSED'], [abstractOf(60), 'ECONNREFUSED', 'dgram'])
  await unchanged(t, folder, async () => {
    for (const [address, code, type] of cases) {
      for (const rest of [{}, { localAddress: join(folder, 'local') }]) {
        const error = await t.throwsAsync<SystemError>(connect(address, { type, ...rest }), { code }, address)
        t.is(error!.errno, -(constants.errno as Record<string, number>)[code]!)
        t.is(error!.syscall, 'connect')
        t.is(error!.address, address)
        t.true(error!.message.endsWith(`, connect ${inspect(address)}`), error!.message)
      }
    }
  })
  await takesConnections(t, stream)
  await takesDatagrams(t, receiver)
  stream.close()
  receiver.close()
})

onLinux('a seqpacket socket and a stream do not connect', async (t) => {
  const folder = newFolder()
  const stream = await listen(join(folder, 'stream'))
  const packets = await listen(join(folder, 'packets'), { type: 'seqpacket' })
  await unchanged(t, folder, async () => {
    await t.throwsAsync(connect(packets.address), { code: 'EPROTOTYPE' })
    await t.throwsAsync(connect(packets.address, { type: 'dgram' }), { code: 'EPROTOTYPE' })
    await t.throwsAsync(connect(stream.address, { type: 'seqpacket' }), { code: 'EPROTOTYPE' })
  })
  await takesConnections(t, stream)
  stream.close()
  packets.close()
})

onLinux('refusals by permissions and by the kernel are reported with their codes', async (t) => {
  const folder = newFolder()
  chmodSync(folder, 0o755)
  const closed = join(folder, 'closed')
  mkdirSync(closed)
  leaveSocket(join(closed, 'stale'))
  chmodSync(join(closed, 'stale'), 0o777)
  leaveSocket(join(closed, 'unknown')) // nobody but its owner can tell whether it is stale
  chmodSync(join(closed, 'unknown'), 0o444)
  // Connecting takes the permission to write, which only root has.
  const server = await listen(join(closed, 'listening'), { mode: 0o444 })
  const receiver = bind(join(closed, 'datagram'), { mode: 0o444 })
  chmodSync(closed, 0o555)
  await unchanged(t, closed, async () => {
    const { socket, done } = startFixture('failures', ['unprivileged', closed], { timeout: 20_000 })
    socket.close()
    const { EACCES, EADDRINUSE, EPERM } = constants.errno
    const result = JSON.parse(await done)
    const to = result.outcomes.uid[3]
    t.regex(to, /^\0/)
    t.deepEqual(result, {
      outcomes: {
        listen: ['EACCES', -EACCES, 'bind', join(closed, 'new')],
        listenStale: ['EACCES', -EACCES, 'bind', join(closed, 'stale')],
        listenUnknown: ['EADDRINUSE', -EADDRINUSE, 'bind', join(closed, 'unknown')],
        bind: ['EACCES', -EACCES, 'bind', join(closed, 'new')],
        connect: ['EACCES', -EACCES, 'connect', server.address],
        localAddress: ['EACCES', -EACCES, 'bind', join(closed, 'new')],
        to: ['EACCES', -EACCES, 'sendmsg', receiver.localAddress],
        pid: ['EPERM', -EPERM, 'sendmsg', to],
        uid: ['EPERM', -EPERM, 'sendmsg', to],
        gid: ['EPERM', -EPERM, 'sendmsg', to]
      },
      open: 0,
      received: 'only this'
    })
  })
  chmodSync(closed, 0o755)
  server.close()
  receiver.close()
})

for (const [kind, code, put] of [
  ['a folder', 'EISDIR', (path: string) => mkdirSync(path)],
  ['a symlink', 'ELOOP', (path: string) => symlinkSync('elsewhere', path)],
  ['a FIFO', undefined, (path: string) => execFileSync('mkfifo', [path])]
] as const) {
  test.serial(`${kind} in the place of the lock is left there, and not waited for [S4]`, async (t) => {
    const folder = newFolder()
    const path = join(folder, 'socket')
    leaveSocket(path)
    put(`${path}.fdpass-lock`)
    await unchanged(t, folder, async () => {
      // In a process of its own, as opening a FIFO waits for a reader.
      const { socket, done } = startFixture('failures', ['lock', path], { timeout: 60_000 })
      socket.close()
      await t.notThrowsAsync(done)
      for (const [got, , syscall, address] of JSON.parse(await done)) {
        if (code === undefined) t.regex(got, /^E[A-Z]+$/)
        else t.is(got, code)
        t.is(syscall, 'bind')
        t.is(address, path)
      }
    })
  })
}

/** As another user, creates a file of each name in a folder, and locks it. */
const squat = `
import fcntl, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
made, path = [], sys.argv[1]
for name in sys.argv[2:]:
    name = path + name
    if name.endswith("-1"): os.mkdir(name)
    elif name.endswith("-2"): os.symlink("/etc/passwd", name)
    else:
        made.append(os.open(name, os.O_CREAT | os.O_RDWR, 0o666))
        fcntl.flock(made[-1], fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
`

onlyIf(
  isLinux && hasPython && process.getuid!() === 0,
  'needs root, to become another user, and Python',
  test.serial
)("in a sticky folder another user's lock does not keep a socket's file from being replaced [S221]", async (t) => {
  const names = ['', '-1', '-2', '-3'].map((suffix) => `.fdpass-lock${suffix}`)
  for (const taken of [names.slice(0, 1), names.slice(0, 3), names]) {
    const folder = newFolder()
    chmodSync(folder, 0o1777)
    const path = join(folder, 'socket')
    leaveSocket(path)
    const stranger = spawn('python3', ['-c', squat, path, ...taken], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = endWith(t, stranger)
    await once(stranger.stdout, 'data')
    const server = await listen(path)
    await takesConnections(t, server)
    server.close()
    stranger.stdin.end()
    await ended
    t.deepEqual(readdirSync(folder).toSorted(), taken.map((name) => `socket${name}`).toSorted())
  }
})

onlyIf(
  isLinux && hasPython,
  'needs Python',
  test.serial
)("in a sticky folder the locks of this process's user count [S221]", async (t) => {
  const folder = newFolder()
  chmodSync(folder, 0o1777)
  const path = join(folder, 'socket')
  leaveSocket(path)
  const own = squat.replace(/^os\.setgroups.*$/m, '')
  const holder = spawn('python3', ['-c', own, path, '.fdpass-lock'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = endWith(t, holder)
  await once(holder.stdout, 'data')
  await t.throwsAsync(listen(path), { code: 'EADDRINUSE' })
  holder.stdin.end()
  await ended
  const server = await listen(path)
  await takesConnections(t, server)
  server.close()
})
