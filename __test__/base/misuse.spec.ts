import { closeSync, readdirSync } from 'node:fs'
import { Server } from 'node:net'
import { join } from 'node:path'
import { inspect } from 'node:util'
import test from 'ava'
import { UnixServer, UnixSocket, connect, listen, recvFd, sendFd, socketpair, bind } from 'fdpass'
import { Broker } from 'fdpass/broker'
import { Store } from 'fdpass/store'
import { Superserver } from 'fdpass/superserver'
import { Takeover } from 'fdpass/takeover'
import {
  type Loose,
  TYPE,
  VALUE,
  badOptions,
  badSignals,
  loose,
  naming,
  rejects,
  rejectsBad,
  throws,
  unchanged,
  CLOSED
} from '../helpers/arguments.ts'
import { countFds, newFolder, openFile, readAll } from '../helpers/descriptors.ts'
import { areConnected, closeAtLast, takesConnections, openFirstSockets, takesDatagrams } from '../helpers/sockets.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'

/** Objects that are no server or socket of ours, though some look like one. */
function impostors(constructor: typeof UnixServer | typeof UnixSocket, others: readonly object[]): object[] {
  return [Object.create(constructor.prototype), Object.create(null), {}, new Map(), () => {}, new Server(), ...others]
}

const primitives = [undefined, null, 5, 'server', true, 5n, Symbol('server')]

test.before('what the first socket opens stays open', openFirstSockets)

test.serial('accept refuses what is no signal, and loses no connection', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const open = countFds()
  await rejectsBad(t, 'accept', [...badOptions, ...badSignals], loose(server, 'accept'))
  t.is(countFds(), open)
  await takesConnections(t, server)
  // Also while a connection waits.
  const client = await connect(server.address)
  await rejectsBad(t, 'accept', [...badOptions, ...badSignals], loose(server, 'accept'))
  const connection = await server.accept()
  await areConnected(t, client, connection)
  for (const socket of [client, connection, server]) socket.close()
})

test.serial('the methods of a server are of a UnixServer', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const [a, b] = socketpair()
  const prototype = UnixServer.prototype as unknown as Record<string | symbol, Loose>
  const getters = Object.getOwnPropertyDescriptors(UnixServer.prototype)
  await unchanged(t, folder, async () => {
    for (const other of impostors(UnixServer, [a, Object.create(UnixSocket.prototype)])) {
      const what = `on ${inspect(other)}`
      const message = naming('server', TYPE)
      await rejects(t, `accept ${what}`, TYPE, () => Reflect.apply(prototype.accept!, other, []), message)
      throws(t, `release ${what}`, TYPE, () => Reflect.apply(prototype.release!, other, []), message)
      await rejects(t, `sent ${what}`, TYPE, () => a.send('x', { fds: [Object.create(UnixServer.prototype)] }))
    }
    for (const other of [...primitives, ...impostors(UnixServer, [a])]) {
      const what = `on ${inspect(other)}`
      await rejects(t, `accept ${what}`, undefined, () => Reflect.apply(prototype.accept!, other, []))
      await rejects(t, what, undefined, () => Reflect.apply(prototype[Symbol.asyncDispose]!, other, []))
      for (const name of ['ref', 'unref', 'release', 'close', Symbol.asyncIterator]) {
        t.throws(() => Reflect.apply(prototype[name]!, other, []), { instanceOf: TypeError }, `${String(name)} ${what}`)
      }
      for (const name of ['address', 'type', 'closed'] as const) {
        t.throws(() => Reflect.apply(getters[name].get!, other, []), { instanceOf: TypeError }, `${name} ${what}`)
      }
    }
  })
  t.false(a.closed)
  await areConnected(t, a, b)
  await takesConnections(t, server)
  for (const socket of [a, b, server]) socket.close()
})

test.serial('the methods of a socket are of a UnixSocket, not of a server', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const prototype = UnixSocket.prototype as unknown as Record<string | symbol, Loose>
  const getters = Object.getOwnPropertyDescriptors(UnixSocket.prototype)
  await unchanged(t, folder, async () => {
    for (const other of impostors(UnixSocket, [server, Object.create(UnixServer.prototype)])) {
      const what = `on ${inspect(other)}`
      const message = naming('socket', TYPE)
      for (const [name, ...args] of [
        ['send', 'x'],
        ['send', 'x', { to: server.address }],
        ['send', 'x', { credentials: true }],
        ['sendFd', 0],
        ['recv'],
        ['recvFd'],
        ['recvExactly', 1]
      ] as const) {
        await rejects(t, `${name} ${what}`, TYPE, () => Reflect.apply(prototype[name]!, other, args), message)
      }
      for (const name of ['peer', 'peerPidfd', 'release', 'shutdown', 'toStream']) {
        throws(t, `${name} ${what}`, TYPE, () => Reflect.apply(prototype[name]!, other, []), message)
      }
      await rejects(t, `sendFd ${what}`, TYPE, () => sendFd(other as UnixSocket, 0))
      await rejects(t, `recvFd ${what}`, TYPE, () => recvFd(other as UnixSocket))
    }
    for (const other of [...primitives, ...impostors(UnixSocket, [server])]) {
      const what = `on ${inspect(other)}`
      await rejects(t, `send ${what}`, undefined, () => Reflect.apply(prototype.send!, other, ['x']))
      await rejects(t, what, undefined, () => Reflect.apply(prototype[Symbol.asyncDispose]!, other, []))
      for (const name of ['peer', 'peerPidfd', 'ref', 'unref', 'close', 'messages']) {
        t.throws(() => Reflect.apply(prototype[name]!, other, []), { instanceOf: TypeError }, `${String(name)} ${what}`)
      }
      for (const name of ['localAddress', 'remoteAddress', 'type', 'closed'] as const) {
        t.throws(() => Reflect.apply(getters[name].get!, other, []), { instanceOf: TypeError }, `${name} ${what}`)
      }
    }
  })
  t.false(server.closed)
  await takesConnections(t, server)
  server.close()
})

test.serial('an iteration called on something else rejects', async (t) => {
  const server = await listen(join(newFolder(), 'server'))
  closeAtLast(t, server)
  const iteration = server[Symbol.asyncIterator]()
  for (const other of [undefined, null, {}, server, Object.create(Object.getPrototypeOf(iteration))]) {
    for (const name of ['next', 'return'] as const) {
      await rejects(t, `${name} on ${inspect(other)}`, undefined, () => Reflect.apply(iteration[name]!, other, []))
    }
  }
  await takesConnections(t, server)
  server.close()
})

test.serial('the constructor of a server is private', async (t) => {
  const file = openFile('mine')
  for (const args of [[], [file], [file, 0, 'address', true, undefined, Symbol('made')]]) {
    const error = t.throws(() => Reflect.construct(UnixServer, args), { code: VALUE })
    t.regex(error!.message, /^The "key" argument .*listen\(\)/)
  }
  t.is(readAll(file), 'mine')
  closeSync(file)
})

for (const [constructor, makers] of [
  [Broker, 'startBroker() or connectBroker()'],
  [Store, 'connectStore()'],
  [Superserver, 'superserve()'],
  [Takeover, 'takeover()']
] as const) {
  test(`the constructor of ${constructor.name} is private`, (t) => {
    t.throws(() => Reflect.construct(constructor, []), {
      code: VALUE,
      message: `The "key" argument is private: use ${makers}`
    })
  })
}

const onLinux = onlyIf(isLinux, 'Linux only', test.serial)

test.serial('a signal that has been aborted ends an operation before it begins', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'datagram'))
  const sender = bind(null)
  const reason = new Error('the reason')
  const signal = AbortSignal.abort(reason)
  await unchanged(t, folder, async () => {
    for (const call of [
      () => connect(server.address, { signal }),
      () => connect(server.address, { signal, localAddress: join(folder, 'local') }),
      () => server.accept({ signal }),
      () => sender.send('x', { signal, to: receiver.localAddress! })
    ]) {
      const error = await t.throwsAsync(call(), { name: 'AbortError', code: 'ABORT_ERR' })
      t.is(error!.cause, reason)
    }
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  for (const socket of [server, receiver, sender]) socket.close()
})

onLinux('connect that is ended while it waits for room leaves no local address behind', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'), { backlog: 0 })
  const first = await connect(server.address)
  await unchanged(t, folder, async () => {
    const controller = new AbortController()
    const waiting = connect(server.address, { signal: controller.signal, localAddress: join(folder, 'local') })
    t.true(await isPending(waiting))
    t.true(readdirSync(folder).includes('local'))
    controller.abort()
    await t.throwsAsync(waiting, { name: 'AbortError' })
  })
  ;(await server.accept()).close()
  await takesConnections(t, server)
  first.close()
  server.close()
})

onLinux('what only looks like a signal is refused where it would be listened to', async (t) => {
  const { socket, done } = startFixture('failures', ['signal', join(newFolder(), 'socket')], { timeout: 20_000 })
  socket.close()
  await t.notThrowsAsync(async () => t.is(JSON.parse(await done)[0], TYPE))
})

test.serial('what only looks like a signal leaves no duplicates of descriptors behind', async (t) => {
  const [a, b] = socketpair()
  const file = openFile()
  t.teardown(() => a.close()) // or what waits would keep the process alive after a failure
  const filler = t.throwsAsync(a.send(Buffer.alloc(4 * 1024 * 1024)), { code: CLOSED })
  t.true(await isPending(filler))
  const open = countFds()
  const signal = { aborted: false, addEventListener: 5 }
  await rejects(t, 'send', undefined, () => loose(a, 'send')('x', { fds: [file, file], signal }))
  t.is(countFds(), open)
  a.close()
  await filler
  b.close()
  closeSync(file)
})

test.serial('what an option throws when it is read is what comes of it', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'datagram'))
  const thrown = new Error('thrown by an option')
  const failing = (name: string) =>
    Object.defineProperty({}, name, {
      get: () => {
        throw thrown
      }
    })
  await unchanged(t, folder, async () => {
    for (const name of ['type', 'mode', 'backlog', 'descriptors', 'allow', 'credentials', 'pidfd']) {
      t.is(await t.throwsAsync(listen(path, failing(name))), thrown, name)
    }
    for (const name of ['type', 'localAddress', 'credentials', 'pidfd', 'signal']) {
      t.is(await t.throwsAsync(connect(server.address, failing(name))), thrown, name)
    }
    for (const name of ['mode', 'credentials', 'pidfd']) t.throws(() => bind(path, failing(name)), { is: thrown }, name)
    for (const name of ['type', 'credentials', 'pidfd']) t.throws(() => socketpair(failing(name)), { is: thrown }, name)
    for (const name of ['to', 'credentials', 'signal', 'fds']) {
      t.is(await t.throwsAsync(receiver.send('x', failing(name))), thrown, name)
    }
    for (const name of ['pid', 'uid', 'gid']) {
      const credentials = Object.defineProperties(
        { pid: 1, uid: 0, gid: 0 },
        Object.getOwnPropertyDescriptors(failing(name))
      )
      t.is(await t.throwsAsync(receiver.send('x', { to: receiver.localAddress!, credentials })), thrown, name)
    }
    t.is(await t.throwsAsync(server.accept(failing('signal'))), thrown)
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  server.close()
  receiver.close()
})

for (const name of ['to', 'credentials', 'fds', 'signal']) {
  test.serial(
    `a socket that is closed while options.${name} is read sends nothing, nor does its number's next owner`,
    async (t) => {
      const [a, b] = socketpair({ type: 'dgram' })
      let others: UnixSocket[] = []
      const closing = Object.defineProperty({}, name, {
        get: () => {
          a.close()
          others = socketpair({ type: 'dgram' })
          closeAtLast(t, ...others)
          return undefined
        }
      })
      closeAtLast(t, a, b)
      await rejects(t, name, CLOSED, () => a.send('not to be sent', closing))
      await areConnected(t, others[0]!, others[1]!)
    }
  )
}
