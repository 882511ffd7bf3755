import test from 'ava'
import { ACK, line, next, pair, startChild, thing } from '../helpers/ipc.ts'
import { text } from '../helpers/messages.ts'
import { receive } from '../helpers/programs.ts'
import { isPending } from '../helpers/promises.ts'

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
  const things = Array.from({ length: 3 }, () => thing(t))
  const sent = things.map(({ sent: each }) => channel.send('lost', each))
  for (const { sent: each } of things) each.close()
  const receiving = channel.receive()
  ;(await receive(peer)).close()
  peer.close()
  for (const each of sent) await t.throwsAsync(each, { code: 'ECONNRESET' })
  t.is(await receiving, null)
  for (const { isClosed } of things) t.true(await isClosed())

  const half = pair(t)
  await half.peer.send('"half a mess')
  half.peer.close()
  await t.throwsAsync(half.channel.receive(), { code: 'EPROTO', message: /within a message/ })
})

test('a child that is killed midway loses what it had, and nothing stays open here', async (t) => {
  const { channel, pid, done } = startChild(t)
  await channel.send(['echo', 'alive'])
  t.deepEqual((await next(channel)).message, { echo: 'alive' })
  process.kill(pid, 'SIGSTOP')
  const things = Array.from({ length: 20 }, () => thing(t))
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
  const [gone, waits] = [thing(t), thing(t)]
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
  const message = await receive(peer)
  t.is(message.fds.length, 1)
  message.close()
  await peer.send(ACK + line('not lost'))
  t.is(text(await receive(peer)), line('third')) // not what was taken back
  await third
  t.is((await next(channel)).message, 'not lost')
  t.true(await gone.isClosed())
  await t.throwsAsync(channel.receive({ signal: AbortSignal.abort() }), { name: 'AbortError' })
  t.throws(() => channel.messages({ signal: AbortSignal.abort() }), { name: 'AbortError' })
})

test('close rejects pending operations, ends an iteration, and closes descriptors not received', async (t) => {
  const { channel, peer } = pair(t)
  const [sent, came] = [thing(t), thing(t)]
  const sending = channel.send('waits', sent.sent)
  const behind = channel.send('behind it')
  sent.sent.close()
  await peer.sendFd(came.sent, line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'held' }))
  came.sent.close()
  ;(await receive(peer)).close()
  t.is(text(await receive(peer)), ACK) // the channel reads, as it waits for an acknowledgement
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
  const { sent } = thing(t)
  const sending = channel.send('waits', sent)
  sent.close()
  ;(await receive(peer)).close()
  const filling = (async () => {
    for (let i = 0; i < 100; i++) await peer.send(line([i, 'x'.repeat(5000)]))
    await peer.send(ACK)
  })()
  t.true(await isPending(sending))
  for (let i = 0; i < 100; i++) t.is(((await next(channel)).message as [number])[0], i)
  await filling
  await sending
})
