import { once } from 'node:events'
import { type AddressInfo, type Server, type Socket, connect as dial, createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import type { Takeover, TakeoverOptions } from 'fdpass/takeover'
import { readAllOf } from '../helpers/connections.ts'
import { begin, newPath } from '../helpers/takeovers.ts'

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
