import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { ServiceOptions } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, temporaryFolder } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { turns } from '../helpers/promises.ts'
import { begin, call, children, onLoopback, pidsOf, sceneOf, where } from '../helpers/superserver.ts'

// Serial throughout: each test counts the descriptors and the children of this process before and after.
const onLinux = onlyIf(isLinux, 'needs /proc', test.serial)
const folder = temporaryFolder()
chmodSync(folder, 0o755)
const CONNECTIONS = 200

/** What the first superserver and the first client open stays open. */
async function openFirst(t: ExecutionContext): Promise<void> {
  const server = await begin(t, onLoopback('lines'))
  const client = await call(t, where(server))
  await client.ask('bye')
  await client.ended
  await server.close()
  await turns()
}

for (const handoff of ['connection', 'listener'] as const) {
  onLinux(
    `${CONNECTIONS} connections, workers that are killed, and reloads leave nothing with each ${handoff}`,
    async (t) => {
      await openFirst(t)
      const [fds, processes] = [countFds(), children()]
      const most = 3
      const listen = ['tcp:127.0.0.1:0', `unix:${join(folder, handoff)}`]
      const server = await begin(t, { ...sceneOf('lines'), listen, handoff, workers: most, drainTimeout: 2000 })
      const serving = countFds()
      const closed: Promise<string>[] = []
      let exits = 0
      server.on('exit', () => exits++)
      const ended = { end: 0, reset: 0 }
      for (let i = 0; i < CONNECTIONS; i++) {
        const client = await call(t, where(server, i % 2))
        // It may be in the backlog, or in flight, when the next worker is killed.
        client.say('bye')
        closed.push(client.ended)
        if (i % 40 === 20) process.kill(server.stats().workers.find(({ state }) => state === 'ready')!.pid, 'SIGKILL')
        if (i % 40 === 39) await server.reload()
      }
      for (const how of await Promise.all(closed)) ended[how === 'end' ? 'end' : 'reset']++
      t.log(ended)
      t.true(ended.end > CONNECTIONS / 2)
      await until(() => {
        const { workers, active } = server.stats()
        return workers.length === most && active === 0 && workers.every(({ state }) => state === 'ready')
      })
      t.deepEqual(children().toSorted(), [...processes, ...pidsOf(server)].toSorted())
      await until(() => countFds() <= serving) // this side of the clients closes in its own time
      t.is(countFds(), serving)
      const { accepted, completed, lost, refused, spawned } = server.stats()
      if (handoff === 'connection') {
        t.is(accepted, CONNECTIONS)
        t.is(completed + lost, CONNECTIONS)
        t.is(refused, 0)
      }
      t.is(spawned, exits + most)
      await server.close()
      await turns()
      t.is(countFds(), fds)
      t.deepEqual(children(), processes)
    }
  )
}

onLinux(`${CONNECTIONS} programs for a connection each leave nothing`, async (t) => {
  await openFirst(t)
  const [fds, processes] = [countFds(), children()]
  const options: ServiceOptions = { listen: 'tcp:127.0.0.1:0', command: ['/bin/cat'], maxSpawns: 1000 }
  const server = await begin(t, options)
  const serving = countFds()
  for (let i = 0; i < CONNECTIONS / 10; i++) {
    const clients = await Promise.all(Array.from({ length: 10 }, () => call(t, where(server))))
    const answers = await Promise.all(clients.map((client, index) => client.ask(`hello ${index}`)))
    t.true(answers.every((answer, index) => answer === `hello ${index}`))
    const [first, second, ...others] = pidsOf(server)
    process.kill(first!, 'SIGKILL')
    process.kill(second!, 'SIGTERM')
    if (i % 5 === 0) await server.reload()
    t.true(others.length >= 8)
    for (const client of clients) client.end()
    await Promise.all(clients.map((client) => client.ended))
  }
  await until(() => server.stats().completed === CONNECTIONS)
  t.like(server.stats(), { accepted: CONNECTIONS, active: 0, waiting: 0, workers: [] })
  await until(() => children().length === processes.length)
  await until(() => countFds() <= serving)
  t.is(countFds(), serving)
  await server.close()
  await turns()
  t.is(countFds(), fds)
  t.deepEqual(children(), processes)
})
