import { existsSync } from 'node:fs'
import test from 'ava'
import { connect } from 'fdpass'
import { type TakeoverOptions, takeover } from 'fdpass/takeover'
import { newPath } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { ask, begin, open, portOf, saying, tcp } from '../helpers/takeovers.ts'

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
