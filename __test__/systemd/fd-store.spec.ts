import { closeSync, fstatSync } from 'node:fs'
import test from 'ava'
import { type Message, memfd, socketpair } from 'fdpass'
import { barrier, notify, removeFds, storeFds } from 'fdpass/systemd'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, readAll } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { manage, me } from '../helpers/notify.ts'
import { receive } from '../helpers/programs.ts'
import { isPending } from '../helpers/promises.ts'

const onLinux = onlyIf(isLinux, 'needs Linux', test.serial)

const contentsOf = ({ fds }: Message) => fds.map(({ fd }) => readAll(fd))

onLinux('storeFds and removeFds name descriptors, which stay open here', async (t) => {
  const socket = manage(t)
  const files = ['first', 'second'].map((content) => openFile(content))
  t.is(await storeFds('a name of % = 5', files), true)
  const stored = await receive(socket)
  t.is(text(stored), 'FDSTORE=1\nFDNAME=a name of % = 5')
  t.deepEqual(contentsOf(stored), ['first', 'second'])
  t.deepEqual(stored.credentials, me)
  stored.close()

  const [one, other] = socketpair()
  using memory = memfd({ data: 'memory' })
  await storeFds('mixed', [one, memory], { poll: false })
  const mixed = await receive(socket)
  t.is(text(mixed), 'FDSTORE=1\nFDNAME=mixed\nFDPOLL=0')
  t.deepEqual(
    mixed.fds.map(({ kind }) => kind),
    ['unix-stream', 'memfd']
  )
  mixed.close()
  await one.send('open')
  t.is(text(await other.recv()), 'open')

  await storeFds(
    'many',
    Array.from({ length: 253 }, () => files[0]!)
  )
  const many = await receive(socket)
  t.is(text(many), 'FDSTORE=1\nFDNAME=many')
  t.is(many.fds.length, 253)
  many.close()

  t.is(await removeFds('x'.repeat(255)), true)
  t.is(text(await receive(socket)), `FDSTOREREMOVE=1\nFDNAME=${'x'.repeat(255)}`)
  for (const fd of files) closeSync(fd)
  for (const end of [one, other]) end.close()
})

onLinux('barrier waits until the manager has closed what it was sent', async (t) => {
  const socket = manage(t)
  await notify({ ready: true })
  const waiting = barrier()
  t.is(text(await receive(socket)), 'READY=1')
  const message = await receive(socket)
  t.is(text(message), 'BARRIER=1')
  t.is(message.fds.length, 1)
  t.true(fstatSync(message.fds[0]!.fd).isFIFO())
  t.true(await isPending(waiting))
  message.close()
  t.is(await waiting, true)

  // A manager that goes closes it too.
  const last = barrier({ timeout: 10_000 })
  socket.close()
  t.is(await last, true)
})

onLinux('barrier waits no longer than it may, and no longer than its signal lets it', async (t) => {
  const socket = manage(t)
  const error = await t.throwsAsync(barrier({ timeout: 20 }), { code: 'ETIMEDOUT' })
  t.is(error.message, 'ETIMEDOUT: no answer within 20 ms, poll')
  ;(await receive(socket)).close()
  const waiting = barrier({ signal: AbortSignal.timeout(20) })
  await t.throwsAsync(waiting, { name: 'AbortError' })
  ;(await receive(socket)).close()
  const late = barrier({ timeout: 10_000 })
  ;(await receive(socket)).close()
  t.is(await late, true)
})

onLinux(
  'the end of a barrier that was given up is not taken for that of the next one, which has its number',
  async (t) => {
    const socket = manage(t)
    for (let i = 0; i < 50; i++) {
      const ending = new AbortController()
      const given = barrier({ signal: ending.signal })
      ;(await receive(socket)).close() // an event is on its way
      ending.abort()
      await t.throwsAsync(given, { name: 'AbortError' })
      const next = barrier({ timeout: 5 })
      const kept = await receive(socket)
      await t.throwsAsync(next, { code: 'ETIMEDOUT' })
      kept.close()
    }
  }
)
