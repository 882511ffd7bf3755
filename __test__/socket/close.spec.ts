import { closeSync } from 'node:fs'
import test from 'ava'
import { UnixSocket, socketpair } from 'fdpass'
import { openFile, readAll } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { isPending } from '../helpers/promises.ts'

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
