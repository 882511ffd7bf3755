import { closeSync, fstatSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Message, type UnixSocket, bind, memfd, socketpair } from 'fdpass'
import { barrier, listenFds, notify, removeFds, storeFds } from 'fdpass/systemd'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, openFile, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { me, openNotifySocket } from '../helpers/service-manager.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux', test.serial)
const folder = temporaryFolder()

const contentsOf = ({ fds }: Message) => fds.map(({ fd }) => readAll(fd))

onLinux('storeFds and removeFds name descriptors, which stay open here', async (t) => {
  const socket = openNotifySocket(t)
  const files = ['first', 'second'].map((content) => openFile(content))
  t.is(await storeFds('a name of % = 5', files), true)
  const stored = await receiveSoon(socket)
  t.is(text(stored), 'FDSTORE=1\nFDNAME=a name of % = 5')
  t.deepEqual(contentsOf(stored), ['first', 'second'])
  t.deepEqual(stored.credentials, me)
  stored.close()

  const [one, other] = socketpair()
  using memory = memfd({ data: 'memory' })
  await storeFds('mixed', [one, memory], { poll: false })
  const mixed = await receiveSoon(socket)
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
  const many = await receiveSoon(socket)
  t.is(text(many), 'FDSTORE=1\nFDNAME=many')
  t.is(many.fds.length, 253)
  many.close()

  t.is(await removeFds('x'.repeat(255)), true)
  t.is(text(await receiveSoon(socket)), `FDSTOREREMOVE=1\nFDNAME=${'x'.repeat(255)}`)
  for (const fd of files) closeSync(fd)
  for (const end of [one, other]) end.close()
})

onLinux('barrier waits until the manager has closed what it was sent', async (t) => {
  const socket = openNotifySocket(t)
  await notify({ ready: true })
  const waiting = barrier()
  t.is(text(await receiveSoon(socket)), 'READY=1')
  const message = await receiveSoon(socket)
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
  const socket = openNotifySocket(t)
  const error = await t.throwsAsync(barrier({ timeout: 20 }), { code: 'ETIMEDOUT' })
  t.is(error.message, 'ETIMEDOUT: no answer within 20 ms, poll')
  ;(await receiveSoon(socket)).close()
  const waiting = barrier({ signal: AbortSignal.timeout(20) })
  await t.throwsAsync(waiting, { name: 'AbortError' })
  ;(await receiveSoon(socket)).close()
  const late = barrier({ timeout: 10_000 })
  ;(await receiveSoon(socket)).close()
  t.is(await late, true)
})

onLinux(
  'the end of a barrier that was given up is not taken for that of the next one, which has its number',
  async (t) => {
    const socket = openNotifySocket(t)
    for (let i = 0; i < 50; i++) {
      const ending = new AbortController()
      const given = barrier({ signal: ending.signal })
      ;(await receiveSoon(socket)).close() // an event is on its way
      ending.abort()
      await t.throwsAsync(given, { name: 'AbortError' })
      const next = barrier({ timeout: 5 })
      const kept = await receiveSoon(socket)
      await t.throwsAsync(next, { code: 'ETIMEDOUT' })
      kept.close()
    }
  }
)

const scenes: Record<string, (manager: UnixSocket) => Promise<unknown>> = {
  async told(manager) {
    await Promise.all([notify({ ready: true }), notify({ status: 'text' }), removeFds('name')])
    for (let i = 0; i < 3; i++) await receiveSoon(manager)
  },
  async stored(manager) {
    const fd = openFile('stored')
    await storeFds('name', [fd, fd])
    closeSync(fd)
    ;(await receiveSoon(manager)).close()
  },
  async 'a barrier that is passed'(manager) {
    const passing = barrier()
    ;(await receiveSoon(manager)).close()
    await passing
  },
  async 'a barrier that is not'(manager) {
    await Promise.allSettled([barrier({ timeout: 5 }), barrier({ signal: AbortSignal.timeout(5) })])
    for (let i = 0; i < 2; i++) (await receiveSoon(manager)).close()
  },
  async refused() {
    await Promise.allSettled([
      notify({ status: 'a\nb' }),
      storeFds('a:b', [0]),
      storeFds('name', [0, 999_999]),
      barrier({ signal: AbortSignal.abort() })
    ])
  },
  async 'nobody there'(manager) {
    manager.close()
    await Promise.allSettled([notify({ ready: true }), storeFds('name', [0]), barrier()])
  },
  async 'a full queue'() {
    const signal = AbortSignal.timeout(30)
    const told = Array.from({ length: 1000 }, () => notify({ status: 'full' }, { signal }))
    await Promise.allSettled([...told, storeFds('name', [0], { signal }), barrier({ timeout: 10 })])
  },
  async 'another process'() {
    process.env.LISTEN_PID = '1'
    process.env.LISTEN_FDS = '1'
    process.env.LISTEN_PIDFDID = '1'
    listenFds()
    process.env.LISTEN_PID = `${process.pid}`
    process.env.LISTEN_FDS = '1'
    process.env.LISTEN_PIDFDID = '1'
    try {
      listenFds()
    } catch (error) {
      // Before Linux 6.9 pidfds have no numbers of their own, and this process is meant: descriptor 3 is the runtime's.
      if ((error as NodeJS.ErrnoException).syscall !== 'fcntl') throw error
    }
  }
}

for (const [title, scene] of Object.entries(scenes)) {
  onLinux(`a notification of a service manager leaves no descriptor open: ${title}`, async (t) => {
    const path = join(folder, 'manager')
    process.env.NOTIFY_SOCKET = path
    const run = async () => {
      const manager = bind(path)
      await scene(manager)
      manager.close()
    }
    await run() // opens what is open once
    const before = countFds()
    for (let i = 0; i < 10; i++) await run()
    t.is(countFds(), before)
  })
}
