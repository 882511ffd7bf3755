import { closeSync, lstatSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type SystemError, UnixSocket, bind, capabilities, connect, listen, socketpair } from 'fdpass'
import {
  CLOSED,
  TYPE,
  badOptions,
  badSignals,
  loose,
  looseFrom,
  naming,
  rejects,
  rejectsBad,
  throws
} from '../helpers/arguments.ts'
import { countFds, isOpen, newFolder, openFile, readAll } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { areConnected, takesConnectionsAfter, takesDatagrams, text, openFirstSockets } from '../helpers/sockets.ts'

const connected = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

const large = Buffer.alloc(4 * 1024 * 1024, 'l')

test('every operation after close() rejects with ERR_SOCKET_CLOSED or throws it [E4]', async (t) => {
  const file = openFile('untouched')
  for (const type of connected) {
    for (const end of ['close', 'release', 'asyncDispose'] as const) {
      const [a, b] = socketpair({ type })
      if (end === 'close') a.close()
      else if (end === 'release') closeSync(a.release())
      else await a[Symbol.asyncDispose]()
      t.true(a.closed)
      t.is(a.type, type)
      const rejected = { code: 'ERR_SOCKET_CLOSED' }
      await t.throwsAsync(a.send('x'), rejected)
      await t.throwsAsync(a.send('x', { fds: [file] }), rejected)
      await t.throwsAsync(a.sendFd(file), rejected)
      await t.throwsAsync(a.recv(), rejected)
      await t.throwsAsync(a.recv({ maxBytes: 1, signal: new AbortController().signal }), rejected)
      await t.throwsAsync(a.recvFd(), rejected)
      await t.throwsAsync(b.send('x', { fds: [a] }), rejected)
      t.throws(() => a.shutdown(), rejected)
      t.throws(() => a.release(), rejected)
      for await (const _ of a) t.fail()
      t.is(a.ref(), a)
      t.is(a.unref(), a)
      t.notThrows(() => a.close())
      await t.notThrowsAsync(a[Symbol.asyncDispose]())
      t.is(await b.recv(), null)
      b.close()
    }
  }
  t.is(readAll(file), 'untouched')
  closeSync(file)
})

for (const end of ['close', 'dispose', 'asyncDispose', 'release'] as const) {
  test(`${end} settles everything that waits with ERR_SOCKET_CLOSED [E7]`, async (t) => {
    const [a, b] = socketpair()
    const iterator = a.messages()
    const rejected = [
      a.recv(),
      a.recv({ signal: new AbortController().signal }),
      a.recvFd(),
      a.send(large),
      a.send('x')
    ]
    const iteration = iterator.next()
    for (const operation of rejected) t.true(await isPending(operation))
    t.true(await isPending(iteration))
    if (end === 'close') a.close()
    else if (end === 'dispose') a[Symbol.dispose]()
    else if (end === 'asyncDispose') await a[Symbol.asyncDispose]()
    else UnixSocket.from(a.release()).close()
    for (const operation of rejected) await t.throwsAsync(operation, { code: 'ERR_SOCKET_CLOSED' })
    t.deepEqual(await iteration, { done: true, value: undefined })
    t.deepEqual(await iterator.next(), { done: true, value: undefined })
    b.close()
  })
}

test('a socket can be closed in the continuation of its own receive, with others waiting [E7]', async (t) => {
  const [a, b] = socketpair({ type: process.platform === 'darwin' ? 'stream' : 'seqpacket' })
  const first = b.recv().then((message) => {
    b.close()
    return text(message)
  })
  const others = [b.recv(), b.recv()]
  await a.send('first')
  t.is(await first, 'first')
  for (const other of others) await t.throwsAsync(other, { code: 'ERR_SOCKET_CLOSED' })
  a.close()
})

test('two sockets that become ready at once may close each other [E7]', async (t) => {
  const pairs = Array.from({ length: 8 }, () => socketpair())
  const closeAll = () => pairs.forEach(([, b]) => b.close())
  const waiting = pairs.map(([, b]) => b.recv().then(closeAll))
  t.true(await isPending(waiting[0]!))
  pairs.forEach(([a]) => void a.send('x'))
  const results = await Promise.allSettled(waiting)
  t.true(results.some(({ status }) => status === 'fulfilled'))
  for (const result of results) {
    if (result.status === 'rejected') t.is((result.reason as NodeJS.ErrnoException).code, 'ERR_SOCKET_CLOSED')
  }
  for (const [a] of pairs) a.close()
})

test('a number that is used again after close() has nothing of the socket before it [E4] [E7]', async (t) => {
  for (let i = 0; i < 100; i++) {
    const [a, b] = socketpair()
    const stale = t.throwsAsync(b.recv(), { code: 'ERR_SOCKET_CLOSED' })
    const sent = a.send('ready') // is there when b closes
    b.close()
    await sent
    a.close()
    const [c, d] = socketpair()
    const fresh = d.recv()
    const other = c.recv()
    await c.send('to d')
    await d.send('to c')
    t.is(text(await fresh), 'to d')
    t.is(text(await other), 'to c')
    await stale
    c.close()
    d.close()
  }
})

test.before('what the first socket opens stays open', openFirstSockets)

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
    throws(t, 'fd', CLOSED, () => server.fd)
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
    throws(t, 'fd', CLOSED, () => socket.fd)
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
