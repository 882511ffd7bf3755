import { closeSync, lstatSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type SystemError, UnixSocket, bind, capabilities, connect, listen, socketpair } from 'fdpass'
import { TYPE, loose, rejects, throws } from '../helpers/arguments.ts'
import {
  areConnected,
  badOptions,
  badSignals,
  CLOSED,
  looseFrom,
  naming,
  newFolder,
  rejectsBad,
  takesConnectionsAfter,
  takesDatagrams
} from '../helpers/bad-input.ts'
import { countFds, isOpen } from '../helpers/descriptors.ts'

test.before('what the first socket opens stays open', async () => {
  const server = await listen(join(newFolder(), 'first'))
  const waiting = server.accept()
  const client = await connect(server.address)
  const connection = await waiting
  for (const socket of [server, client, connection]) socket.close()
})

test.serial('a closed or released server accepts nothing, and does nothing else either', async (t) => {
  const folder = newFolder()
  for (const ending of ['close', 'release'] as const) {
    const path = join(folder, ending)
    const server = await listen(path)
    const waiting = t.throwsAsync(server.accept(), { code: CLOSED })
    const iteration = server[Symbol.asyncIterator]()
    const number = server[ending]()
    await waiting
    const open = countFds()
    await rejects(t, 'accept', CLOSED, () => server.accept())
    await rejects(t, 'accept', CLOSED, () => server.accept({}))
    await rejectsBad(t, 'accept', [...badOptions, ...badSignals], loose(server, 'accept'))
    throws(t, 'release', CLOSED, () => server.release())
    t.deepEqual(await iteration.next(), { done: true, value: undefined })
    t.deepEqual(await server[Symbol.asyncIterator]().next(), { done: true, value: undefined })
    const [a, b] = socketpair()
    await rejects(t, 'sent', CLOSED, () => a.send('x', { fds: [server] }))
    await areConnected(t, a, b)
    a.close()
    b.close()
    t.is(server.ref(), server)
    t.is(server.unref(), server)
    t.is(server.close(), undefined)
    t.is(await server[Symbol.asyncDispose](), undefined)
    t.true(server.closed)
    t.is(server.address, path)
    t.is(server.type, 'stream')
    t.is(countFds(), open)
    if (number === undefined) {
      t.false(lstatSync(path, { throwIfNoEntry: false }) !== undefined)
      continue
    }
    // What was released is the caller's, and goes on.
    t.true(isOpen(number))
    const client = await connect(path)
    client.close()
    closeSync(number)
  }
})

test.serial('the new methods of a closed or released socket', async (t) => {
  const folder = newFolder()
  const receiver = bind(join(folder, 'receiver'))
  for (const ending of ['close', 'release'] as const) {
    const path = join(folder, ending)
    const socket = bind(path)
    const number = socket[ending]()
    const open = countFds()
    for (const options of [{ to: receiver.localAddress! }, { credentials: true as const }, {}]) {
      await rejects(t, 'send', CLOSED, () => socket.send('x', options))
    }
    throws(t, 'peer', CLOSED, () => socket.peer())
    throws(t, 'peerPidfd', CLOSED, () => socket.peerPidfd())
    t.is(socket.localAddress, null)
    t.is(socket.remoteAddress, null)
    throws(t, 'from', TYPE, () => looseFrom(socket), naming('source', TYPE))
    t.is(countFds(), open)
    t.is(lstatSync(path, { throwIfNoEntry: false }) !== undefined, ending === 'release')
    if (number === undefined) continue
    const again = UnixSocket.from(number)
    t.is(again.localAddress, path)
    again.close()
  }
  await takesDatagrams(t, receiver)
  receiver.close()
})

test.serial('peer and peerPidfd of a socket without a peer', async (t) => {
  const socket = bind(join(newFolder(), 'socket'))
  const open = countFds()
  const error = t.throws<SystemError>(() => socket.peer(), { code: 'ENOTCONN' })
  t.is(error!.errno, -constants.errno.ENOTCONN)
  t.is(error!.syscall, 'getsockopt')
  const code = capabilities().peerPidfd ? 'ENODATA' : 'ENOPROTOOPT'
  const other = t.throws<SystemError>(() => socket.peerPidfd(), { code })
  t.is(other!.errno, -constants.errno[code])
  t.is(other!.syscall, 'getsockopt')
  t.is(socket.remoteAddress, null)
  t.is(countFds(), open)
  await takesDatagrams(t, socket)
  socket.close()
})

test.serial('addresses cannot be set', async (t) => {
  const path = join(newFolder(), 'socket')
  const server = await listen(path)
  const client = await connect(path)
  for (const object of [server, client]) {
    for (const name of ['address', 'localAddress', 'remoteAddress', 'type', 'closed']) {
      if (name in object) t.throws(() => Object.assign(object, { [name]: 'another' }), { instanceOf: TypeError }, name)
    }
  }
  t.is(server.address, path)
  t.is(client.remoteAddress, path)
  await takesConnectionsAfter(t, server, client)
})
