import { closeSync } from 'node:fs'
import test from 'ava'
import { Descriptor } from 'fdpass'
import { takeover } from 'fdpass/takeover'
import { isOpen, openFile, readAll } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { begin, newPath } from '../helpers/takeovers.ts'

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
