import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { type Credentials, UnixSocket, capabilities, connect, listen, UnixServer } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newPath, openPipe, newFolder } from '../helpers/descriptors.ts'
import { startPython } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { hasEnded, text, closeAtLast, takesConnections, openFirstSockets } from '../helpers/sockets.ts'
import { CLOSED, looseListen, unchanged } from '../helpers/arguments.ts'

const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

for (const kind of ['sync', 'async']) {
  test(`allow sees the credentials and decides, ${kind} [S7]`, async (t) => {
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

test('what allow throws, and what is no boolean, rejects the accept and closes the connection [S7]', async (t) => {
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

test('a connection about which allow never decides keeps no other waiting [S72]', async (t) => {
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

test('no more than 64 connections are undecided at a time [S72] [S80]', async (t) => {
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

test('descriptors: false refuses descriptors and lets bytes through [F5] [S19]', async (t) => {
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
  'where the kernel delivers descriptors that were refused, they are closed and reported [F5] [S19]',
  async (t) => {
    const server = await listen(newPath(), { descriptors: false })
    const [client, connection] = await Promise.all([connect(server.address), server.accept()])
    // Another holder of the connection switches SO_PASSRIGHTS on again; before Linux 6.16 it is never off.
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

const RETURN = 'ERR_INVALID_RETURN_VALUE'

test.before('what the first socket opens stays open', openFirstSockets)

/** That a connection was closed by the other side, which sent nothing. */
async function isRefused(t: ExecutionContext, client: UnixSocket, what: string): Promise<void> {
  t.is(await client.recv({ signal: AbortSignal.timeout(30_000) }), null, what)
  client.close()
}

const verdicts = [
  undefined,
  null,
  0,
  1,
  NaN,
  '',
  'yes',
  1n,
  Symbol('yes'),
  {},
  [],
  () => true,
  new Boolean(true),
  new Map(),
  Object.create(null)
]

/** Opens a server whose `allow` returns the given verdict, at once or later. */
async function deciding(
  folder: string,
  later: boolean
): Promise<{ server: UnixServer; decide: (verdict: () => unknown) => void; asked: Credentials[] }> {
  let next: (() => unknown) | undefined
  const asked: Credentials[] = []
  const decideLater = async () => {
    await undefined
    return next!()
  }
  const allow = (credentials: Credentials): unknown => {
    asked.push(credentials)
    return later ? decideLater() : next!()
  }
  const server = (await looseListen(join(folder, 'server'), { allow })) as UnixServer
  return { server, asked, decide: (verdict) => (next = verdict) }
}

for (const [when, later] of [
  ['at once', false],
  ['in a promise', true]
] as const) {
  test.serial(`allow that returns no boolean, ${when}: the connection is closed, and the server goes on`, async (t) => {
    const folder = newFolder()
    const { server, decide, asked } = await deciding(folder, later)
    await unchanged(t, folder, async () => {
      for (const verdict of verdicts) {
        decide(() => verdict)
        const message = /^Expected a boolean to be returned from the "options\.allow" function\. Received /
        const expected = { code: RETURN, instanceOf: TypeError, message }
        // For a connection that already waits, for one that comes later, and for an iteration.
        const waits = await connect(server.address)
        await t.throwsAsync(server.accept(), expected, inspect(verdict))
        const accept = t.throwsAsync(server.accept(), expected, inspect(verdict))
        t.true(await isPending(accept))
        const comes = await connect(server.address)
        await accept
        const iteration = t.throwsAsync(server[Symbol.asyncIterator]().next(), expected, inspect(verdict))
        const iterated = await connect(server.address)
        await iteration
        for (const client of [waits, comes, iterated]) await isRefused(t, client, inspect(verdict))
      }
    })
    t.is(asked.length, 3 * verdicts.length)
    t.deepEqual([asked[0]!.pid, asked[0]!.uid, asked[0]!.gid], [process.pid, process.getuid!(), process.getgid!()])
    decide(() => true)
    await takesConnections(t, server)
    server.close()
  })

  test.serial(
    `allow that fails, ${when}: with its error, the connection is closed, and the server goes on`,
    async (t) => {
      const folder = newFolder()
      const { server, decide } = await deciding(folder, later)
      await unchanged(t, folder, async () => {
        for (const thrown of [new Error('from allow'), new RangeError('also'), undefined, null, 'text', 5]) {
          decide(() => {
            throw thrown
          })
          const fails = async (promise: Promise<unknown>) => {
            const result = await promise.then(
              () => ['no error'],
              (error: unknown) => [error]
            )
            t.is(result[0], thrown)
          }
          const waits = await connect(server.address)
          await fails(server.accept())
          const accept = fails(server.accept())
          t.true(await isPending(accept))
          const comes = await connect(server.address)
          await accept
          const iteration = fails(server[Symbol.asyncIterator]().next())
          const iterated = await connect(server.address)
          await iteration
          for (const client of [waits, comes, iterated]) await isRefused(t, client, inspect(thrown))
        }
      })
      decide(() => true)
      await takesConnections(t, server)
      server.close()
    }
  )

  for (const waiting of [true, false]) {
    const whom = waiting ? 'while an accept waits' : 'while a connection waits'
    test.serial(`allow that closes the server, ${when}, ${whom}, leaves nothing open`, async (t) => {
      const folder = newFolder()
      for (const verdict of [true, false, undefined]) {
        await unchanged(t, folder, async () => {
          const { server, decide } = await deciding(folder, later)
          decide(() => {
            server.close()
            return verdict
          })
          const expected = { code: CLOSED }
          let accept = waiting ? t.throwsAsync(server.accept(), expected, `${verdict}`) : undefined
          const client = await connect(server.address)
          closeAtLast(t, client, server)
          accept ??= t.throwsAsync(server.accept(), expected, `${verdict}`)
          await accept
          t.true(server.closed)
          await isRefused(t, client, `${verdict}`)
        })
      }
    })
  }
}
