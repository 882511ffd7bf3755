import { closeSync } from 'node:fs'
import { Server, Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import test from 'ava'
import { handOver, receiveConnection } from 'fdpass'
import { type Loose, TYPE, VALUE, notSignals, rejects } from '../helpers/arguments.ts'
import { openFile } from '../helpers/descriptors.ts'
import { assertWorks, next, open, openChannel } from '../helpers/hand-overs.ts'
import { isPending } from '../helpers/promises.ts'

test('what message does wrong leaves the connection here', async (t) => {
  const [a, b] = openChannel(t)
  const failures: [() => unknown, object][] = [
    [
      () => {
        throw new RangeError('no message')
      },
      { instanceOf: RangeError, message: 'no message' }
    ],
    ...[undefined, null, 5, {}, '', new Uint8Array(), [1], new ArrayBuffer(1)].map((wrong): [() => unknown, object] => [
      () => wrong,
      { code: 'ERR_INVALID_RETURN_VALUE' }
    ])
  ]
  const pair = await open(t, 'head, ')
  for (const [message, expectation] of failures) {
    await t.throwsAsync(handOver(a, pair.connection, message as () => string), expectation)
    t.is(pair.connection.readableLength, 6)
  }
  await assertWorks(t, pair, 'head, ')
  t.true(await isPending(b.recv()))
})

test('an empty message goes where packets are kept apart', async (t) => {
  const [a, b] = openChannel(t, 'dgram')
  const { client, connection } = await open(t)
  await handOver(a, connection, () => '')
  const { data, fds } = (await b.recv())!
  t.is(data.length, 0)
  fds[0]!.toSocket().end('arrived')
  t.is(await next(client), 'arrived')
})

test('what message closes, ends or sends meanwhile is noticed', async (t) => {
  const [a, b] = openChannel(t)
  const destroyed = await open(t, 'head')
  const destroy = () => {
    destroyed.connection.destroy()
    return 'x'
  }
  await t.throwsAsync(handOver(a, destroyed.connection, destroy), { code: 'ERR_SOCKET_CLOSED' })

  const sending = await open(t, 'head, ')
  let other: Promise<void> | undefined
  const send = () => {
    const file = openFile('sent by message')
    other ??= a.sendFd(file, 'y').finally(() => closeSync(file))
    return 'x'
  }
  await handOver(a, sending.connection, send)
  await other
  const arrived = [(await b.recvFd())!, (await b.recvFd())!]
  t.deepEqual(
    arrived.map(({ fd, data }) => [String(Buffer.from(data)), fd!.kind]),
    [
      ['x', 'tcp'],
      ['y', 'file']
    ]
  )
  arrived.forEach(({ fd }) => fd!.closeSync())

  const abort = new AbortController()
  const aborting = await open(t, 'head, ')
  const { signal } = abort
  const stop = () => {
    abort.abort()
    return 'x'
  }
  await t.throwsAsync(handOver(a, aborting.connection, stop, { signal }), { code: 'ABORT_ERR' })
  await assertWorks(t, aborting, 'head, ')

  const closing = await open(t, 'head, ')
  const close = () => {
    a.close()
    return 'x'
  }
  await t.throwsAsync(handOver(a, closing.connection, close), { code: 'ERR_SOCKET_CLOSED' })
  await assertWorks(t, closing, 'head, ')
  t.is(await b.recv(), null)
})

test('handOver refuses what cannot be handed over, and reports why', async (t) => {
  const [a] = openChannel(t)
  const { connection } = await open(t, 'head')
  const refusals: [string, Socket, RegExp][] = [
    ['TLS', new TLSSocket(connection), /TLSSocket: its keys would stay behind/],
    ['new', new Socket(), /has no descriptor/],
    ['encoding', (await open(t)).connection.setEncoding('utf8'), /has an encoding/],
    ['destroyed', (await open(t)).connection.destroy(), /is destroyed/]
  ]
  for (const [what, socket, message] of refusals) await rejects(t, what, VALUE, () => handOver(a, socket), message)
})

test('wrong arguments reject, and the connection stays as it was', async (t) => {
  const [a] = openChannel(t)
  const pair = await open(t, 'head, ')
  const hand = handOver as unknown as Loose
  const take = receiveConnection as unknown as Loose
  for (const wrong of [undefined, null, 3, {}, pair.connection, Object.create(Object.getPrototypeOf(a))]) {
    await rejects(t, 'channel', TYPE, () => hand(wrong, pair.connection), /"channel" argument/)
    await rejects(t, 'channel', TYPE, () => take(wrong), /"channel" argument/)
  }
  for (const wrong of [undefined, null, 3, {}, a, new Server()]) {
    await rejects(t, 'socket', TYPE, () => hand(a, wrong), /"socket" argument must be an instance of net.Socket/)
  }
  for (const wrong of [null, 3, 'message', {}]) {
    await rejects(t, 'message', TYPE, () => hand(a, pair.connection, wrong), /"message" argument/)
  }
  for (const signal of notSignals) {
    await rejects(t, 'signal', TYPE, () => hand(a, pair.connection, undefined, { signal }))
    await rejects(t, 'signal', TYPE, () => take(a, { signal }))
  }
  for (const allowHalfOpen of [null, 0, 'yes', {}]) {
    await rejects(t, 'allowHalfOpen', TYPE, () => take(a, { allowHalfOpen }))
  }
  const [closed] = openChannel(t)
  closed.close()
  await rejects(t, 'closed', 'ERR_SOCKET_CLOSED', () => handOver(closed, pair.connection))
  await rejects(t, 'closed', 'ERR_SOCKET_CLOSED', () => receiveConnection(closed))
  await assertWorks(t, pair, 'head, ')
})
