import { closeSync } from 'node:fs'
import test from 'ava'
import { socketpair } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const connected = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

const large = Buffer.alloc(4 * 1024 * 1024, 'l')

for (const type of connected) {
  test(`the end of a ${type} connection is null, as often as it is asked for [E1]`, async (t) => {
    const file = openFile('sent before the end')
    const [a, b] = socketpair({ type })
    await a.send('last', { fds: [file] })
    closeSync(file)
    a.close()
    const message = (await b.recv())!
    t.is(text(message), 'last')
    t.is(readAll(message.fds[0]!.fd), 'sent before the end')
    message.close()
    for (let i = 0; i < 100; i++) t.is(await b.recv(), null)
    t.is(await b.recvFd(), null)
    for await (const _ of b) t.fail()
    t.deepEqual(await Promise.all([b.recv(), b.recvFd(), b.messages().next()]), [
      null,
      null,
      { done: true, value: undefined }
    ])
    b.close()
  })

  test(`every ${type} receive that waits is given the end [E1]`, async (t) => {
    const [a, b] = socketpair({ type })
    const waiting = [b.recv(), b.recv(), b.recvFd(), b.recv()]
    t.true(await isPending(waiting[0]!))
    a.close()
    t.deepEqual(await Promise.all(waiting), [null, null, null, null])
    b.close()
  })

  test(`a ${type} receive that waits when the peer resets the connection rejects with ECONNRESET [E2]`, async (t) => {
    const [a, b] = socketpair({ type })
    await a.send('never read')
    const waiting = a.recv()
    const next = a.recv()
    t.true(await isPending(waiting))
    b.close()
    await t.throwsAsync(waiting, { code: 'ECONNRESET' })
    t.is(await next, null)
    a.close()
  })

  test(`a ${type} send to a closed peer rejects with EPIPE, and its descriptors stay the caller's [E3]`, async (t) => {
    const file = openFile('mine')
    const [a, b] = socketpair({ type })
    b.close()
    for (let i = 0; i < 3; i++) {
      const error = await t.throwsAsync(a.send('x', { fds: [file] }), { code: 'EPIPE' })
      t.like(error, { syscall: 'sendmsg', message: 'EPIPE: broken pipe, sendmsg' })
      t.true((error as NodeJS.ErrnoException).errno! < 0)
    }
    await t.throwsAsync(a.sendFd(file), { code: 'EPIPE' })
    t.is(readAll(file), 'mine')
    closeSync(file)
    t.is(await a.recv(), null)
    a.close()
  })

  test(`a half-closed ${type} socket still receives, descriptors too [E10]`, async (t) => {
    const file = openFile('answer')
    const [a, b] = socketpair({ type })
    await a.send('question')
    a.shutdown('write')
    t.is(text(await b.recv()), 'question')
    t.is(await b.recv(), null)
    await t.throwsAsync(a.send('more'), { code: 'EPIPE' })
    await b.sendFd(file, 'the answer')
    closeSync(file)
    b.close()
    const message = (await a.recv())!
    t.is(text(message), 'the answer')
    t.is(readAll(message.fds[0]!.fd), 'answer')
    message.close()
    t.is(await a.recv(), null)
    a.close()
  })

  test(`half-closing a ${type} socket ends a receive that waits at the peer [E10]`, async (t) => {
    const [a, b] = socketpair({ type })
    const [both, other] = socketpair({ type })
    const waiting = b.recv()
    const otherWaiting = other.recv()
    const ownWaiting = both.recv()
    t.true(await isPending(waiting))
    a.shutdown('write')
    both.shutdown()
    t.is(await waiting, null)
    t.is(await otherWaiting, null)
    t.is(await ownWaiting, null)
    t.false(a.closed)
    await t.throwsAsync(other.send('x'), { code: 'EPIPE' })
    for (const socket of [a, b, both, other]) socket.close()
  })

  test(`shutting down the reading of a ${type} socket ends its receives and loses no descriptor for good [E11]`, async (t) => {
    const { read, write } = openPipe()
    const [a, b] = socketpair({ type })
    await a.send('queued', { fds: [write] })
    closeSync(write)
    b.shutdown('read')
    await t.throwsAsync(a.send('too late'), { code: 'EPIPE' })
    // What was queued may still be delivered: Linux does.
    for (let message = await b.recv(); message !== null; message = await b.recv()) message.close()
    t.is(await b.recv(), null)
    b.close()
    t.false(hasWriter(read))
    closeSync(read)
    a.close()
  })

  test(`shutting down the reading of a ${type} socket with descriptors queued and closing it drops them [E11]`, (t) => {
    const { read, write } = openPipe()
    const [a, b] = socketpair({ type })
    void a.send('queued', { fds: [write] })
    closeSync(write)
    b.shutdown('read')
    b.close()
    t.false(hasWriter(read))
    closeSync(read)
    a.close()
  })
}

test('a stream peer that closes with unread data: its last message, then ECONNRESET, then the end [E2]', async (t) => {
  const file = openFile('before the reset')
  const [a, b] = socketpair()
  await a.send('never read')
  await b.send('x', { fds: [file] })
  closeSync(file)
  b.close()
  const message = (await a.recv())!
  t.is(text(message), 'x')
  t.is(readAll(message.fds[0]!.fd), 'before the reset')
  message.close()
  const error = await t.throwsAsync(a.recv(), { code: 'ECONNRESET', message: /^ECONNRESET: .+, recvmsg$/ })
  t.like(error, { syscall: 'recvmsg' })
  t.is(await a.recv(), null)
  a.close()
})

test('an iteration of a stream yields what arrived and throws ECONNRESET where the peer resets the connection [E2]', async (t) => {
  const [a, b] = socketpair()
  await a.send('never read')
  const seen: (string | null)[] = []
  const iteration = (async () => {
    for await (const message of a) seen.push(text(message))
  })()
  await b.send('one')
  await b.send('two')
  b.close()
  await t.throwsAsync(iteration, { code: 'ECONNRESET' })
  t.is(seen.join(''), 'onetwo')
  for await (const _ of a) t.fail()
  a.close()
})

const withSeqpacket = onlyIf(process.platform !== 'darwin', 'macOS has no seqpacket')

withSeqpacket(
  'a seqpacket peer that closes with unread data: ECONNRESET, and its last messages are not lost [E2]',
  async (t) => {
    // Linux reports the error of a packet socket before what is queued.
    const file = openFile('before the reset')
    const [a, b] = socketpair({ type: 'seqpacket' })
    await a.send('never read')
    await b.send('one', { fds: [file] })
    await b.send('two')
    closeSync(file)
    b.close()
    const seen: (string | null)[] = []
    const iterate = async () => {
      for await (const message of a) {
        seen.push(text(message), ...message.fds.map(({ fd }) => readAll(fd)))
        message.close()
      }
    }
    await t.throwsAsync(iterate(), { code: 'ECONNRESET' })
    await iterate()
    t.deepEqual(seen, ['one', 'before the reset', 'two'])
    a.close()
  }
)

test('half-closing a socket with sends that wait rejects them with EPIPE, although the peer does not read [E10]', async (t) => {
  for (const how of ['write', 'both'] as const) {
    const { read, write } = openPipe()
    const [a, b] = socketpair()
    const sends = [a.send(large), a.sendFd(write)]
    closeSync(write)
    t.true(await isPending(sends[0]!))
    a.shutdown(how)
    const rejected = sends.map((send) => t.throwsAsync(send, { code: 'EPIPE' }))
    t.false(await isPending(sends[0]!))
    t.false(await isPending(sends[1]!))
    while ((await b.recv()) !== null);
    await Promise.all(rejected)
    t.false(hasWriter(read))
    closeSync(read)
    a.close()
    b.close()
  }
})

test('a datagram socket has no end, and a send to a closed peer rejects with ECONNREFUSED [E1]', async (t) => {
  const [a, b] = socketpair({ type: 'dgram' })
  await a.send('last')
  await a.send('')
  a.close()
  t.is(text(await b.recv()), 'last')
  t.is(text(await b.recv()), '')
  const waiting = b.recv()
  t.true(await isPending(waiting))
  await t.throwsAsync(b.send('x'), { code: 'ECONNREFUSED' })
  b.close()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
})

test('sending to a closed peer raises no SIGPIPE [E3]', async (t) => {
  const { socket, done } = startFixture('exits', ['sigpipe'])
  socket.close()
  t.is(await done, 'EPIPE\nEPIPE\nEPIPE\nnothing left\nexit\n')
})

test('a send that waits when the peer closes rejects with EPIPE, and so do those behind it [E3]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const sends = [a.send(large), a.sendFd(write), a.send('x')]
  t.true(await isPending(sends[0]!))
  b.close()
  for (const send of sends) await t.throwsAsync(send, { code: 'EPIPE' })
  t.true(hasWriter(read))
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
})

test('pairs are of the type that was asked for [E14]', async (t) => {
  const [one, other] = socketpair()
  t.is(one.type, 'stream')
  one.close()
  other.close()
  for (const type of [...connected, 'dgram'] as const) {
    const [a, b] = socketpair({ type })
    t.is(a.type, type)
    t.is(b.type, type)
    await a.send('one')
    await a.send('two')
    t.is(text(await b.recv()), type === 'stream' ? 'onetwo' : 'one')
    a.close()
    b.close()
  }
  if (process.platform === 'darwin') {
    t.throws(() => socketpair({ type: 'seqpacket' }), { code: 'EPROTONOSUPPORT' })
  }
})
