import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Credentials, type SocketType, UnixSocket, bind, capabilities, connect, listen, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newPath, openFile, openPipe } from '../helpers/descriptors.ts'
import { finish, fixturePath, startProgram, pidOf, startAs } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const can = capabilities()

const isRoot = process.geteuid!() === 0

const withCredentials = onlyIf(can.messageCredentials, 'this kernel tells no credentials with a message')

const withPidfds = onlyIf(can.messagePidfd, 'needs Linux 6.5')

const onLinux = onlyIf(isLinux, 'needs Linux')

const asRootOnLinux = onlyIf(isRoot && isLinux, 'needs root, to become another user, and Linux')

const types: readonly SocketType[] =
  process.platform === 'darwin' ? ['stream', 'dgram'] : ['stream', 'seqpacket', 'dgram']

const own = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }

const NOBODY = 65_534

withCredentials(
  'peer credentials name the connecting user, message credentials the sending user [F4] [S29]',
  async (t) => {
    const users = isRoot
      ? [
          { uid: 0, gid: 0, groups: [] },
          { uid: NOBODY, gid: NOBODY, groups: [20, 27] }
        ]
      : [{ uid: own.uid, gid: own.gid, groups: process.getgroups!() }]
    const server = await listen(newPath(), { mode: 0o666, credentials: true, pidfd: can.messagePidfd })
    for (const user of users) {
      const { socket: pair, child, done } = startAs(user, server.address, 'hello')
      const connection = await server.accept()
      const pid = child.pid!
      const peer = connection.peer()
      t.deepEqual([peer.pid, peer.uid, peer.gid], [pid, user.uid, user.gid])
      t.deepEqual(peer.groups!.toSorted(), user.groups.toSorted())
      const message = (await connection.recv())!
      t.is(text(message), 'hello')
      t.deepEqual(message.credentials, { pid, uid: user.uid, gid: user.gid })
      if (can.messagePidfd) t.is(pidOf(message.pidfd!), pid)
      message.close()
      // The pair was made here: this process is the peer of both its ends, whichever process holds the other one.
      t.deepEqual([pair.peer().pid, pair.peer().uid], [process.pid, process.geteuid!()])
      connection.close()
      pair.close()
      // Root may claim anything; the kernel refuses others.
      t.is(await done, user.uid === 0 ? '' : 'EPERM: operation not permitted, sendmsg\n'.repeat(3))
    }
    server.close()
  }
)

withCredentials(
  'a socket that a child inherited: the pair names its maker, each message its sender [S28]',
  async (t) => {
    const server = await listen(newPath())
    const [ours, theirs] = socketpair({ credentials: true })
    const args = [
      ...process.execArgv,
      fixturePath('other-user'),
      'credentials',
      `${own.uid}`,
      `${own.gid}`,
      '',
      server.address,
      'x'
    ]
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit', theirs.fd] })
    theirs.close()
    const connection = await server.accept()
    const message = (await ours.recv())!
    t.is(text(message), 'over the pair')
    t.deepEqual(message.credentials, { ...own, pid: child.pid! })
    t.is(ours.peer().pid, process.pid)
    ours.close()
    await finish(child)
    connection.close()
    server.close()
  }
)

test('the client of a connection sees the credentials of its server', async (t) => {
  const server = await listen(newPath())
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  for (const socket of [client, connection]) {
    const { pid, uid, gid, groups } = socket.peer()
    t.deepEqual([pid, uid, gid], [process.pid, process.geteuid!(), process.getegid!()])
    // Node adds the effective group to the supplementary ones.
    const others = (all: readonly number[]) => all.filter((group) => group !== gid).toSorted()
    t.deepEqual(others(groups!), others(process.getgroups!()))
  }
  for (const socket of [client, connection, server]) socket.close()
})

onLinux('a datagram socket that is not half of a pair has no peer', async (t) => {
  const receiver = bind(null)
  const sender = await connect(receiver.localAddress!, { type: 'dgram' })
  for (const socket of [receiver, sender]) {
    t.throws(() => socket.peer(), { code: 'ENOTCONN', message: /getsockopt/ })
    if (can.peerPidfd) t.throws(() => socket.peerPidfd(), { code: 'ENODATA' })
  }
  const [a, b] = socketpair({ type: 'dgram' })
  t.is(a.peer().pid, process.pid)
  for (const socket of [receiver, sender, a, b]) socket.close()
  t.throws(() => a.peer(), { code: 'ERR_SOCKET_CLOSED' })
  t.throws(() => a.peerPidfd(), { code: 'ERR_SOCKET_CLOSED' })
})

for (const type of types) {
  withPidfds(
    `each message names its sender, with its descriptors, on sockets of every origin, type ${type} [B11.3] [F4.1]`,
    async (t) => {
      const receiving = { credentials: true, pidfd: true }
      const path = newPath()
      const inherited = socketpair({ type })
      const ways: [string, () => Promise<[UnixSocket, UnixSocket]> | [UnixSocket, UnixSocket]][] = [
        ['socketpair', () => socketpair({ type, ...receiving })],
        ['from', () => [inherited[0], UnixSocket.from(inherited[1].release(), receiving)]],
        [
          'connect',
          async () => {
            if (type === 'dgram') {
              // Of two sockets that are connected to each other, the first is connected later.
              const [a, b] = [newPath(), newPath()]
              const first = bind(a)
              return [first, await connect(a, { type, localAddress: b, ...receiving })]
            }
            const server = await listen(path, { type })
            const [client, connection] = await Promise.all([connect(path, { type, ...receiving }), server.accept()])
            server.close()
            return [connection, client]
          }
        ],
        [
          type === 'dgram' ? 'bind' : 'listen',
          async () => {
            if (type === 'dgram') {
              const receiver = bind(path, receiving)
              return [await connect(path, { type }), receiver]
            }
            const server = await listen(path, { type, ...receiving })
            const client = await connect(path, { type })
            await client.send('before accept')
            const connection = await server.accept()
            server.close()
            const early = (await connection.recv())!
            t.deepEqual(early.credentials, own)
            early.close()
            return [client, connection]
          }
        ]
      ]
      const file = openFile()
      for (const [way, make] of ways) {
        const [sender, receiver] = await make()
        const to = type === 'dgram' && way === 'connect' ? receiver.localAddress! : undefined
        for (const fds of [[], [file], [file, file, file]]) {
          await sender.send('x', { fds, to })
          const message = (await receiver.recv())!
          t.deepEqual(message.credentials, own, way)
          t.is(message.fds.length, fds.length, way)
          t.is(pidOf(message.pidfd!), process.pid, way)
          message.close()
          t.throws(() => message.pidfd!.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
        }
        sender.close()
        receiver.close()
      }
      closeSync(file)
    }
  )
}

test('without asking, a message has neither', async (t) => {
  const [a, b] = socketpair()
  await a.send('x', can.messageCredentials ? { credentials: true } : {})
  const message = (await b.recv())!
  t.is(message.credentials, undefined)
  t.is(message.pidfd, undefined)
  a.close()
  b.close()
})

withCredentials('data sent before the socket was adopted has no sender [S30]', async (t) => {
  const [a, b] = socketpair()
  await a.send('early')
  const c = UnixSocket.from(b.release(), { credentials: true })
  const { credentials } = (await c.recv())!
  t.deepEqual(credentials, { pid: null, uid: NOBODY, gid: NOBODY, unknownUid: true, unknownGid: true })
  await a.send('late')
  t.deepEqual((await c.recv())!.credentials, own)
  a.close()
  c.close()
})

onLinux('a process may claim its own credentials, and root those of any user [F4.3] [S29]', async (t) => {
  const [a, b] = socketpair({ credentials: true, pidfd: can.messagePidfd })
  for (const credentials of [true, { ...own, pid: null }] as const) {
    await a.send('x', { credentials })
    using message = (await b.recv())!
    t.deepEqual(message.credentials, own)
  }
  const other: Credentials = { pid: 1, uid: 4_294_967_294, gid: 2_147_483_648 }
  const lie = a.send('x', { credentials: other, fds: [0] })
  if (isRoot) {
    await lie
    const message = (await b.recv())!
    t.deepEqual(message.credentials, other)
    t.is(message.fds.length, 1)
    if (can.messagePidfd) t.is(pidOf(message.pidfd!), 1, 'the pidfd is of who is claimed to have sent it')
    message.close()
  } else {
    await t.throwsAsync(lie, { code: 'EPERM' })
  }
  a.close()
  b.close()
})

onLinux('all parts of a long message on a stream come with the claimed credentials [B11.1]', async (t) => {
  const [a, b] = socketpair({ credentials: true })
  const length = 2 * 1024 * 1024
  const said = isRoot ? { pid: 1, uid: 5, gid: 6 } : own
  const { read, write } = openPipe()
  const sending = a.send(Buffer.alloc(length, 'x'), { credentials: said, fds: [write] })
  closeSync(write)
  let [received, fds] = [0, 0]
  while (received < length) {
    const message = (await b.recv())!
    received += message.data.length
    fds += message.fds.length
    t.deepEqual(message.credentials, said)
    message.close()
  }
  await sending
  t.is(fds, 1)
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
  b.close()
})

withCredentials(
  'empty packets at the end of a seqpacket connection are distinguished from the end by their credentials',
  async (t) => {
    const [a, b] = socketpair({ type: 'seqpacket', credentials: true })
    await a.send('')
    await a.send('')
    a.close()
    t.is((await b.recv())!.data.length, 0)
    t.is((await b.recv())!.data.length, 0)
    t.is(await b.recv(), null)
    t.is(await b.recv(), null)
    b.close()
  }
)

withCredentials('the end of a stream is the end although credentials were asked for', async (t) => {
  const [a, b] = socketpair({ credentials: true })
  await a.send('last')
  a.close()
  t.is(text(await b.recv()), 'last')
  t.is(await b.recv(), null)
  b.close()
})

withCredentials('two senders on one stream are never taken for one [S31]', async (t) => {
  const [a, b] = socketpair({ credentials: true })
  const { socket, child, done } = startProgram(
    'python3',
    [
      '-c',
      "import socket; p = socket.socket(fileno=3); s = socket.socket(fileno=socket.recv_fds(p, 9, 1)[1][0]); s.send(b'B'); p.send(b'x')"
    ],
    {}
  )
  await a.send('A')
  await socket.sendFd(a)
  await socket.recv()
  await a.send('C')
  const senders: [string | null, number | null][] = []
  for (let i = 0; i < 3; i++) {
    const message = (await b.recv())!
    senders.push([text(message), message.credentials!.pid])
  }
  t.deepEqual(senders, [
    ['A', process.pid],
    ['B', child.pid!],
    ['C', process.pid]
  ])
  await done
  for (const each of [a, b, socket]) each.close()
})

asRootOnLinux('the example prints the connecting and the sending process, for two users', async (t) => {
  const path = newPath()
  const script = join(fixturePath('.'), '..', '..', '..', 'examples', 'read-cred.js')
  const example = spawn(process.execPath, [...process.execArgv, script, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const done = finish(example)
  await once(example.stdout, 'data')
  const expected = [`listening on ${path}`]
  for (const user of [
    { uid: 0, gid: 0, groups: [] },
    { uid: NOBODY, gid: 1000, groups: [20, 27] }
  ]) {
    const { socket, child, done: sent } = startAs(user, path, `I am ${user.uid}`)
    while (text(await socket.recv())?.endsWith('sent') !== true); // now it has connected and sent
    socket.close()
    await sent
    const who = `pid ${child.pid}, uid ${user.uid}, gid ${user.gid}`
    expected.push(`connected: ${who}, groups ${user.groups.join(' ') || 'none'}`, `sent by ${who}: I am ${user.uid}`)
  }
  const watcher = await connect(path) // what came before it has been printed once its own connection is
  await once(example.stdout, 'data')
  watcher.close()
  example.kill('SIGTERM')
  const lines = (await done).trim().split('\n')
  t.deepEqual(lines.slice(0, 5), expected)
})
