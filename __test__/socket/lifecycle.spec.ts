import { closeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { UnixSocket, bind, connect, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'

const onLinux = onlyIf(isLinux, 'needs abstract addresses')
const large = Buffer.alloc(4 * 1024 * 1024, 'l')
const connected = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

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

test('an iteration of a stream gives what came and throws ECONNRESET where the peer resets the connection [E2]', async (t) => {
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

test('half-closing a socket with sends that wait rejects them with EPIPE, although nobody reads [E10]', async (t) => {
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

test('a send waits for room, and resolves when the peer reads [E5]', async (t) => {
  for (const type of connected) {
    const [a, b] = socketpair({ type })
    const message = Buffer.alloc(32_768, 'm')
    const sends: Promise<void>[] = []
    do sends.push(a.send(message))
    while (!(await isPending(sends.at(-1)!)))
    let bytes = 0
    const reading = (async () => {
      while (bytes < sends.length * message.length) bytes += (await b.recv())!.data.length
    })()
    await Promise.all(sends)
    await reading
    t.is(bytes, sends.length * message.length)
    t.true(sends.length > 1)
    a.close()
    t.is(await b.recv(), null)
    b.close()
  }
})

test('a datagram send waits for room, and resolves when the peer reads [E5]', async (t) => {
  const [a, b] = socketpair({ type: 'dgram' })
  const sends: Promise<void>[] = []
  do sends.push(a.send(String(sends.length)))
  while (!(await isPending(sends.at(-1)!)))
  for (let i = 0; i < sends.length; i++) t.is(text(await b.recv()), String(i))
  await Promise.all(sends)
  a.close()
  b.close()
})

test('a large message arrives whole, in order, behind and before small ones [E5]', async (t) => {
  const [a, b] = socketpair()
  const content = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => i % 251))
  const sends = [a.send('before'), a.send(content), a.send('after')]
  void Promise.all(sends).then(() => a.close())
  const parts: Uint8Array[] = []
  for await (const { data } of b) parts.push(data)
  const all = Buffer.concat(parts)
  t.true(all.equals(Buffer.concat([Buffer.from('before'), content, Buffer.from('after')])))
  b.close()
})

test('concurrent receives resolve in order, each message once [E6]', async (t) => {
  const types = [...connected, 'dgram'] as const
  for (const type of types) {
    const [a, b] = socketpair({ type })
    const order: number[] = []
    const waiting = Array.from({ length: 20 }, async (_, i) => {
      const message = await b.recv({ maxBytes: 2 })
      order.push(i)
      return text(message)
    })
    for (let i = 10; i < 30; i++) await a.send(String(i))
    t.deepEqual(
      await Promise.all(waiting),
      Array.from({ length: 20 }, (_, i) => String(i + 10))
    )
    t.deepEqual(
      order,
      Array.from({ length: 20 }, (_, i) => i)
    )
    a.close()
    b.close()
  }
})

test('receives of different kinds take turns in the order of their calls [E6]', async (t) => {
  const file = openFile('mixed')
  const [a, b] = socketpair()
  const waiting = [b.recv(), b.recvFd(), b.messages().next(), b.recv()] as const
  for (let i = 0; i < 4; i++) await a.sendFd(file, String(i))
  closeSync(file)
  const [first, second, third, fourth] = await Promise.all(waiting)
  t.deepEqual([first, second, third.value, fourth].map(text), ['0', '1', '2', '3'])
  t.is(readAll(second!.fd!.fd), 'mixed')
  first!.close()
  second![Symbol.dispose]()
  third.value!.close()
  fourth!.close()
  a.close()
  b.close()
})

test('concurrent sends go out in the order of their calls [E6]', async (t) => {
  const [a, b] = socketpair({ type: process.platform === 'darwin' ? 'stream' : 'seqpacket' })
  const order: number[] = []
  const sends = Array.from({ length: 1000 }, (_, i) => a.send(String(i).padStart(4)).then(() => order.push(i)))
  for (let i = 0; i < 1000; i++) t.is(Number(text(await b.recv({ maxBytes: 4 }))), i)
  await Promise.all(sends)
  t.deepEqual(
    order,
    Array.from({ length: 1000 }, (_, i) => i)
  )
  a.close()
  b.close()
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

test('a number that is used again after close() has nothing of the socket before it [E7]', async (t) => {
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

const kept = 'received\nnothing left\nexit\n'
const ended = 'nothing left\nexit\n'

for (const scenario of ['receiving', 'referencedAgain'] as const) {
  test(`a receive that waits keeps the process alive: ${scenario} [E9]`, async (t) => {
    const { socket, done } = startFixture('exits', [scenario])
    t.is(text(await socket.recv()), 'ready')
    await socket.send('x')
    t.is(await done, kept)
    socket.close()
  })
}

onLinux('an accept that only waits for allow keeps the process alive [E9]', async (t) => {
  const { socket, done } = startFixture('exits', ['deciding'])
  t.is(await done, 'accepted\nnothing left\nexit\n')
  socket.close()
})

for (const type of ['stream', 'seqpacket', 'dgram'] as const) {
  onLinux(
    `a ${type} socket whose reading half was shut down is at its end, and does not keep the loop busy`,
    async (t) => {
      for (const how of ['read', 'both'] as const) {
        const [a, b] = socketpair({ type })
        const waiting = b.recv()
        t.true(await isPending(waiting))
        b.shutdown(how)
        t.is(await waiting, null)
        t.is(await b.recv(), null)
        for await (const _ of b) t.fail()
        a.close()
        b.close()
      }
      const socket = type === 'dgram' ? bind(null) : undefined
      socket?.shutdown('read')
      t.is((await socket?.recv()) ?? null, null)
      socket?.close()
    }
  )
}

for (const scenario of ['accepting', 'connecting', 'sendingTo'] as const) {
  onLinux(`what waits keeps the process alive: ${scenario} [E9]`, async (t) => {
    const { socket, child, done } = startFixture('exits', [scenario])
    t.is(text(await socket.recv()), 'ready')
    await delay(100) // longer than any pause between two attempts
    t.is(child.exitCode, null)
    if (scenario === 'accepting') {
      ;(await connect(`\0fdpass-exits-${child.pid}`)).close()
      t.is(await done, 'accepted\nnothing left\nexit\n')
    } else {
      child.kill()
      await t.throwsAsync(done, { message: /SIGTERM/ })
    }
    socket.close()
  })
}

test('an iteration keeps the process alive until the end of the connection [E9]', async (t) => {
  const { socket, done } = startFixture('exits', ['iterating'])
  t.is(text(await socket.recv()), 'ready')
  await socket.send('xx')
  socket.close()
  t.is(await done, 'received 2\nend\nnothing left\nexit\n')
})

test('a send that waits keeps the process alive [E9]', async (t) => {
  const { socket, done } = startFixture('exits', ['sending'])
  let bytes = 0
  for await (const { data } of socket) bytes += data.length
  t.is(bytes, large.length)
  t.is(await done, 'sent\nnothing left\nexit\n')
  socket.close()
})

const exits: Record<string, string> = {
  idle: ended,
  receivingUnreferenced: ended,
  unreferencedWhileReceiving: ended,
  iteratingUnreferenced: ended,
  sendingUnreferenced: ended,
  aborted: `AbortError\n${ended}`,
  closed: `ERR_SOCKET_CLOSED\n${ended}`,
  released: `ERR_SOCKET_CLOSED\n${ended}`,
  processExit: 'exit\n',
  ...(isLinux && {
    listening: ended,
    acceptingUnreferenced: ended,
    accepted: `stream\n${ended}`,
    acceptAborted: `AbortError\n${ended}`,
    acceptClosed: `ERR_SOCKET_CLOSED\n${ended}`,
    sendingToUnreferenced: ended
  })
}
for (const [scenario, output] of Object.entries(exits)) {
  test(`a process ends by itself with an open socket that nothing holds: ${scenario} [E9]`, async (t) => {
    const { socket, done } = startFixture('exits', [scenario])
    t.is(await done, output)
    socket.close()
  })
}

test('a process ends by itself after its last receive, whose socket the event loop may still watch [E9]', async (t) => {
  const { socket, done } = startFixture('exits', ['received'])
  t.is(text(await socket.recv()), 'ready')
  await socket.send('x')
  t.is(await done, kept)
  socket.close()
})

test('ref() and unref() change nothing about what is received [E9]', async (t) => {
  const [a, b] = socketpair()
  b.unref()
  const waiting = b.recv()
  b.ref()
  b.unref().ref()
  await a.send('x')
  t.is(text(await waiting), 'x')
  a.close()
  b.close()
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
