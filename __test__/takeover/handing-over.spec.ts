import { once } from 'node:events'
import { closeSync, existsSync } from 'node:fs'
import { type AddressInfo, type Server, type Socket, connect as dial, createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, connect } from 'fdpass'
import { type Takeover, type TakeoverOptions, takeover } from 'fdpass/takeover'
import { readAllOf } from '../helpers/connections.ts'
import { isOpen, newPath, openFile, readAll } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { begin, ask, open, portOf, saying, tcp } from '../helpers/takeovers.ts'

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

test("a successor that exits before it is ready changes nothing; the state's signal is aborted", async (t) => {
  const path = newPath()
  const signals: AbortSignal[] = []
  const options: TakeoverOptions = {
    path,
    listen: tcp,
    state(signal) {
      signals.push(signal)
      return ''
    }
  }
  const old = await begin(t, options)
  const port = portOf(old.listeners.http!)
  void old.serve(saying('old'), 'http')
  const failed = await open(t, options)
  failed.close()
  const next = await open(t, options)
  t.deepEqual(
    signals.map((signal) => signal.aborted),
    [true, false]
  )
  t.is(await ask(port), 'old')
  await next.ready()
  await old.superseded
  t.false(signals[1]!.aborted)
})

test('several that start at a time have their turn one after the other', async (t) => {
  const path = newPath()
  const first = await begin(t, { path, state: () => 'first' })
  const second = await open(t, { path, state: () => 'second' })
  const waiting = open(t, { path })
  t.true(await isPending(waiting))
  await second.ready()
  const third = await waiting
  t.is(Buffer.from(third.predecessor!.state).toString(), 'second')
  await first.superseded
  t.true(await isPending(second.superseded))
  await third.ready()
  await second.superseded
})

test('of ten that begin at a time one is first, and the others follow', async (t) => {
  const path = newPath()
  const order: string[] = []
  const all = Array.from({ length: 10 }, async (_, name) => {
    const place = await open(t, { path, listen: tcp, state: () => String(name) })
    order.push(Buffer.from(place.predecessor?.state ?? []).toString())
    await place.ready()
    return place
  })
  const places = await Promise.all(all)
  t.is(order[0], '')
  t.is(new Set(order).size, 10)
  t.is(new Set(places.map(({ listeners }) => portOf(listeners.http!))).size, 1)
})

test('a process that ends while its successor starts leaves it everything', async (t) => {
  const [path, socket] = [newPath(), newPath()]
  const listen = { unix: `unix:${socket}` }
  const old = await begin(t, { path, listen })
  const next = await open(t, { path, listen })
  old.close()
  void next.serve(saying('next'), 'unix')
  await next.ready()
  t.is(await ask(socket), 'next')
  const third = await begin(t, { path, listen })
  await next.superseded
  void third.serve(saying('third'), 'unix')
  t.is(await ask(socket), 'third')
  third.close()
  t.false(existsSync(socket))
})

test('a successor that takes too long is left out, and its ready() reports it [S63] [S93]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp, timeout: 2000 })
  void old.serve(saying('old'), 'http')
  const slow = await open(t, { path, listen: tcp })
  const next = await open(t, { path, listen: tcp, timeout: 20_000 })
  await t.throwsAsync(slow.ready(), { code: 'ETIMEDOUT', message: /not ready within 2000 ms/ })
  t.is(await ask(portOf(next.listeners.http!)), 'old')
  await next.ready()
  await old.superseded
  t.true(await isPending(slow.superseded))
})

test('a successor that was left out does not take the end of the old process for its turn', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, timeout: 2000 })
  const slow = await open(t, { path })
  const next = await open(t, { path }) // its turn begins when `slow` is left out
  next.close()
  old.close()
  await t.throwsAsync(slow.ready(), { code: 'ETIMEDOUT' })
})

test('a process waits for a busy one for no longer than its timeout', async (t) => {
  const path = newPath()
  await begin(t, { path })
  await open(t, { path })
  await t.throwsAsync(takeover({ path, timeout: 100 }), { code: 'ETIMEDOUT', message: /100 ms/ })
})

test('an abort ends the wait, and changes nothing', async (t) => {
  const path = newPath()
  await begin(t, { path })
  const busy = await open(t, { path })
  const controller = new AbortController()
  const waiting = takeover({ path, signal: controller.signal })
  t.true(await isPending(waiting))
  controller.abort('enough')
  const error = await t.throwsAsync(waiting, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is(error.cause, 'enough')
  await t.throwsAsync(takeover({ path, signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  await busy.ready()
  await begin(t, { path })
})

test('a process that requests nothing keeps no other one waiting for long [S214]', async (t) => {
  const path = newPath()
  await begin(t, { path, listen: tcp })
  using silent = await connect(path)
  const place = await begin(t, { path, listen: tcp, timeout: 30_000 })
  t.not(place.predecessor, null)
  using message = (await silent.recv())!
  t.regex(message.data.toString(), /ETIMEDOUT: the successor was not ready within 5000 ms/)
  t.is(await silent.recv(), null)
})
