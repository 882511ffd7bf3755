import test from 'ava'
import { ACK, line, next, openWatched, pair, startChild } from '../helpers/ipc.ts'
import { codesOf, isPending, turns } from '../helpers/promises.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

test('the end of the channel is seen on both sides as in Node', async (t) => {
  const one = startChild(t)
  await one.channel.send(['echo', 1])
  await one.next()
  one.channel.close()
  t.is(await one.done, 'disconnected\n')

  const two = startChild(t)
  await two.channel.send(['echo', 1]) // Node fails where it disconnects in a message that came before anybody listened
  await two.next()
  await two.channel.send(['disconnect'])
  t.is(await two.channel.receive(), null)
  t.is(await two.channel.receive(), null)
  t.is(await two.done, 'disconnected\n')
  await t.throwsAsync(two.channel.send('too late'), { code: 'EPIPE' })
  for await (const message of two.channel) t.fail(String(message))
})

test('when the peer ends, pending operations reject, and descriptors are closed', async (t) => {
  const { channel, peer } = pair(t)
  const things = Array.from({ length: 3 }, () => openWatched(t))
  const sent = things.map(({ sent: each }) => channel.send('lost', each))
  for (const { sent: each } of things) each.close()
  const receiving = channel.receive()
  ;(await receiveSoon(peer)).close()
  peer.close()
  for (const each of sent) await t.throwsAsync(each, { code: 'ECONNRESET' })
  t.is(await receiving, null)
  for (const { isClosed } of things) t.true(await isClosed())

  const half = pair(t)
  await half.peer.send('"half a mess')
  half.peer.close()
  await t.throwsAsync(half.channel.receive(), { code: 'EPROTO', message: /within a message/ })
})

test('a peer that disconnects is sent what was passed on before, and this end is closed [S265]', async (t) => {
  const { channel, peer } = pair(t)
  const receiving = channel.receive()
  const content = 'x'.repeat(2_000_000) // more than the socket takes
  const sending = channel.send(content)
  await peer.send(line('last'))
  peer.shutdown('write')
  t.is((await receiving)!.message, 'last')
  t.is(await channel.receive(), null)
  let received = ''
  for (let message = await peer.recv(); message !== null; message = await peer.recv()) received += text(message)
  t.is(received, line(content))
  await sending
  t.true(channel.closed)
  t.is(await channel.receive(), null)
  await t.throwsAsync(channel.send('too late'), { code: 'EPIPE' })
})

test('a peer that ends behind messages that are not received ends a send that it has not acknowledged [S265]', async (t) => {
  const { channel, peer } = pair(t, { maxBytes: 10_000 })
  const { sent, isClosed } = openWatched(t)
  const sending = channel.send('never acknowledged', sent)
  sent.close()
  ;(await receiveSoon(peer)).close()
  const gone = new AbortController()
  let count = 0
  const filling = (async () => {
    for (; ; count++) await peer.send(line('x'.repeat(5000)), { signal: gone.signal })
  })()
  for (let seen = -1; seen !== count; await turns(20)) seen = count // until the channel reads no more
  const code = codesOf([sending])
  gone.abort()
  await t.throwsAsync(filling, { name: 'AbortError' })
  peer.close()
  t.deepEqual(await code, ['ECONNRESET'])
  t.true(await isClosed())
  for (let i = 0; i < count; i++) t.is(((await next(channel)).message as string).length, 5000)
})

test('a child that is killed midway loses what it had, and nothing stays open here', async (t) => {
  const { channel, pid, done } = startChild(t)
  await channel.send(['echo', 'alive'])
  t.deepEqual((await next(channel)).message, { echo: 'alive' })
  process.kill(pid, 'SIGSTOP')
  const things = Array.from({ length: 20 }, () => openWatched(t))
  const sent = things.map(({ sent: each }) => channel.send(['use'], each))
  for (const { sent: each } of things) each.close()
  t.true(await isPending(sent[0]!))
  process.kill(pid, 'SIGKILL')
  for (const each of sent) await t.throwsAsync(each, { code: 'ECONNRESET' })
  for (const { isClosed } of things) t.true(await isClosed())
  await t.throwsAsync(done, { message: /SIGKILL/ })
})

test('an abort withdraws a pending operation, and loses nothing', async (t) => {
  const { channel, peer } = pair(t)
  const cause = new Error('enough')
  const ending = new AbortController()
  const [gone, waits] = [openWatched(t), openWatched(t)]
  const first = channel.send('gone', gone.sent, { signal: ending.signal })
  const second = channel.send('taken back', waits.sent, { signal: ending.signal })
  const third = channel.send('third')
  for (const { sent } of [gone, waits]) sent.close()
  const receiving = channel.receive({ signal: ending.signal })
  t.true(await isPending(receiving))
  ending.abort(cause)
  for (const each of [first, second, receiving]) {
    t.is((await t.throwsAsync(each, { name: 'AbortError', code: 'ABORT_ERR' })).cause, cause)
  }
  t.true(await waits.isClosed())
  const message = await receiveSoon(peer)
  t.is(message.fds.length, 1)
  message.close()
  await peer.send(ACK + line('not lost'))
  t.is(text(await receiveSoon(peer)), line('third')) // not what was taken back
  await third
  t.is((await next(channel)).message, 'not lost')
  t.true(await gone.isClosed())
  await t.throwsAsync(channel.receive({ signal: AbortSignal.abort() }), { name: 'AbortError' })
  t.throws(() => channel.messages({ signal: AbortSignal.abort() }), { name: 'AbortError' })
})

test('close rejects pending operations, ends an iteration, and closes descriptors not received', async (t) => {
  const { channel, peer } = pair(t)
  const [sent, came] = [openWatched(t), openWatched(t)]
  const sending = channel.send('waits', sent.sent)
  const behind = channel.send('behind it')
  sent.sent.close()
  await peer.sendFd(came.sent, line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'held' }))
  came.sent.close()
  ;(await receiveSoon(peer)).close()
  t.is(text(await receiveSoon(peer)), ACK) // the channel reads, as it waits for an acknowledgement
  channel.close()
  channel.close()
  t.true(channel.closed)
  for (const each of [sending, behind, channel.receive(), channel.send('late')]) {
    await t.throwsAsync(each, { code: 'ERR_SOCKET_CLOSED' })
  }
  t.is(await peer.recv(), null)
  for (const { isClosed } of [sent, came]) t.true(await isClosed())

  const { channel: other } = pair(t)
  const ended = (async () => {
    for await (const each of other) t.fail(String(each))
  })()
  const receiving = other.receive()
  t.true(await isPending(ended))
  other.close()
  await ended
  await t.throwsAsync(receiving, { code: 'ERR_SOCKET_CLOSED' })
})

test('a channel without a receiver reads no more than its limit [S85]', async (t) => {
  const { channel, peer } = pair(t, { maxBytes: 10_000 })
  const { sent } = openWatched(t)
  const sending = channel.send('waits', sent)
  sent.close()
  ;(await receiveSoon(peer)).close()
  const filling = (async () => {
    for (let i = 0; i < 100; i++) await peer.send(line([i, 'x'.repeat(5000)]))
    await peer.send(ACK)
  })()
  t.true(await isPending(sending))
  for (let i = 0; i < 100; i++) t.is(((await next(channel)).message as [number])[0], i)
  await filling
  await sending
})
