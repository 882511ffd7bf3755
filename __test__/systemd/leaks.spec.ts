import { closeSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type UnixSocket, bind } from 'fdpass'
import { barrier, listenFds, notify, removeFds, storeFds } from 'fdpass/systemd'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, openFile, temporaryFolder } from '../helpers/descriptors.ts'
import { receive } from '../helpers/programs.ts'

const serially = onlyIf(isLinux, 'counts descriptors by /proc', test.serial)
const folder = temporaryFolder()

const scenes: Record<string, (manager: UnixSocket) => Promise<unknown>> = {
  async told(manager) {
    await Promise.all([notify({ ready: true }), notify({ status: 'text' }), removeFds('name')])
    for (let i = 0; i < 3; i++) await receive(manager)
  },
  async stored(manager) {
    const fd = openFile('stored')
    await storeFds('name', [fd, fd])
    closeSync(fd)
    ;(await receive(manager)).close()
  },
  async 'a barrier that is passed'(manager) {
    const passing = barrier()
    ;(await receive(manager)).close()
    await passing
  },
  async 'a barrier that is not'(manager) {
    await Promise.allSettled([barrier({ timeout: 5 }), barrier({ signal: AbortSignal.timeout(5) })])
    for (let i = 0; i < 2; i++) (await receive(manager)).close()
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
    listenFds()
  }
}

for (const [title, scene] of Object.entries(scenes)) {
  serially(`a notification of a service manager leaves no descriptor open: ${title}`, async (t) => {
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
