import { closeSync } from 'node:fs'
import { Server } from 'node:net'
import { join } from 'node:path'
import { inspect } from 'node:util'
import test from 'ava'
import { UnixServer, UnixSocket, connect, listen, recvFd, sendFd, socketpair } from 'fdpass'
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
  unchanged
} from '../helpers/arguments.ts'
import { countFds, newFolder, openFile, readAll } from '../helpers/descriptors.ts'
import { areConnected, closeAtLast, takesConnections, openFirstSockets } from '../helpers/sockets.ts'

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
