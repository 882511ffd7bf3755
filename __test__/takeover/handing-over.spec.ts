import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { type AddressInfo, type Server, type Socket, connect as dial, createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { Descriptor } from 'fdpass'
import { type Takeover, type TakeoverOptions, takeover } from 'fdpass/takeover'
import { readAllOf } from '../helpers/connections.ts'
import { isOpen, newPath, openFile, readAll } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { begin } from '../helpers/takeovers.ts'

test.serial('bytes and descriptors are left to the successor; a Descriptor is given away', async (t) => {
  const path = newPath()
  const given = Descriptor.from(openFile('given'))
  const lent = openFile('lent')
  await begin(t, { path, state: () => ({ data: 'counters: 3', fds: [given, lent] }) })
  const { predecessor } = await begin(t, { path })
  const { state, fds } = predecessor!
  t.is(Buffer.from(state).toString(), 'counters: 3')
  t.deepEqual(
    fds.map((fd) => readAll(fd.fd)),
    ['given', 'lent']
  )
  t.throws(() => given.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.true(isOpen(lent))
  closeSync(lent)
  for (const fd of fds) fd.closeSync()
})

test('state may be bytes alone, a promise, or nothing [S65]', async (t) => {
  const path = newPath()
  await begin(t, { path, state: () => Promise.resolve(Buffer.from([1, 0, 255])) })
  const second = await begin(t, { path, state: () => 'text' })
  t.deepEqual([...second.predecessor!.state], [1, 0, 255])
  const third = await begin(t, { path })
  t.is(Buffer.from(third.predecessor!.state).toString(), 'text')
  const fourth = await begin(t, { path })
  t.is(fourth.predecessor!.state.length, 0)
  t.deepEqual(fourth.predecessor!.fds, [])
})

test('16 MiB of state arrive whole', async (t) => {
  const path = newPath()
  const state = Buffer.alloc(16 * 2 ** 20 + 5, 'state')
  await begin(t, { path, state: () => state })
  const next = await begin(t, { path })
  t.true(state.equals(next.predecessor!.state))
})

test("what the state function throws is the successor's error, and the old process serves on", async (t) => {
  const path = newPath()
  let fails = true
  const old = await begin(t, {
    path,
    state() {
      if (fails) throw Object.assign(new Error('not now'), { code: 'EBUSY' })
      return 'now'
    }
  })
  await t.throwsAsync(takeover({ path }), { code: 'EBUSY', message: 'not now' })
  fails = false
  t.true(await isPending(old.superseded))
  t.is(Buffer.from((await begin(t, { path })).predecessor!.state).toString(), 'now')
})

test('a state function may fail with an error that reads as if the process had gone', async (t) => {
  for (const code of ['ECONNRESET', 'EPIPE']) {
    const path = newPath()
    const old = await begin(t, {
      path,
      state() {
        throw Object.assign(new Error('the upstream has gone'), { code })
      }
    })
    const since = performance.now()
    await t.throwsAsync(takeover({ path, timeout: 5000 }), { code, message: 'the upstream has gone' })
    t.true(performance.now() - since < 4000) // and not by being tried until the time is up
    t.true(await isPending(old.superseded))
  }
})

test('an invalid state is reported to the successor', async (t) => {
  const path = newPath()
  await begin(t, { path, state: (() => 5) as never })
  await t.throwsAsync(takeover({ path }), { code: 'ERR_INVALID_RETURN_VALUE' })
})

async function openPair(t: ExecutionContext, options: Partial<TakeoverOptions> = {}): Promise<[Takeover, Takeover]> {
  const path = newPath()
  const old = await begin(t, { path })
  return [old, await begin(t, { path, ...options })]
}

/** A connection to hand over, and its client. */
async function openLive(t: ExecutionContext): Promise<{ client: Socket; ours: Socket }> {
  const server: Server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = dial({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => void client.destroy())
  const [[ours]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[Socket], unknown]
  server.close()
  return { client, ours }
}

test('live connections go to the successor, with what was read, a name and a state', async (t) => {
  const [old, next] = await openPair(t, { connections: true })
  const successor = await old.superseded
  t.true(successor.takesConnections)
  const { client, ours } = await openLive(t)
  client.write('read by the old process, ')
  await once(ours, 'readable')
  await successor.handOver(ours, { name: '/chat', state: 'user 5' })
  t.true(ours.destroyed)
  for await (const { socket, name, state } of next.predecessor!.connections({ allowHalfOpen: true })) {
    t.is(name, '/chat')
    t.is(Buffer.from(state).toString(), 'user 5')
    client.end('and by the new one')
    t.is((await readAllOf(socket)).toString(), 'read by the old process, and by the new one')
    socket.end('answered')
    break
  }
  t.is((await readAllOf(client)).toString(), 'answered')
})

test('100 connections with states of any bytes arrive in order; the iteration ends with the old process', async (t) => {
  const [old, next] = await openPair(t, { connections: true })
  const successor = await old.superseded
  const sent = (async () => {
    for (let i = 0; i < 100; i++) {
      const { ours } = await openLive(t)
      await successor.handOver(ours, { name: 'ü'.repeat(i), state: Buffer.alloc(i * 1000, i) })
    }
    old.close()
  })()
  let count = 0
  for await (const { socket, name, state } of next.predecessor!.connections()) {
    t.is(name, 'ü'.repeat(count))
    t.true(Buffer.alloc(count * 1000, count).equals(state))
    socket.destroy()
    count++
  }
  await sent
  t.is(count, 100)
})

test('a successor that asks for no connections gets none', async (t) => {
  const [old, next] = await openPair(t)
  const successor = await old.superseded
  t.false(successor.takesConnections)
  const { client, ours } = await openLive(t)
  await t.throwsAsync(successor.handOver(ours), { code: 'ERR_INVALID_STATE' })
  ours.end('here')
  t.is((await readAllOf(client)).toString(), 'here')
  t.throws(() => next.predecessor!.connections(), { code: 'ERR_INVALID_STATE' })
})

test('connections are not lost where the successor has gone', async (t) => {
  const [old, next] = await openPair(t, { connections: true })
  const successor = await old.superseded
  next.close()
  const { client, ours } = await openLive(t)
  await t.throwsAsync(successor.handOver(ours, { name: 'x' }), { code: 'EPIPE' })
  ours.end('still here')
  t.is((await readAllOf(client)).toString(), 'still here')
})
