import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { bind, connect, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs abstract addresses')

const large = Buffer.alloc(4 * 1024 * 1024, 'l')

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
  onLinux(`a pending operation keeps the process alive: ${scenario} [E9]`, async (t) => {
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
