import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import test from 'ava'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { finish, fixturePath, fixtureSource } from '../helpers/processes.ts'
import { type Seen, CLIENTS, Load, assertAllAnswered, serving, startServer } from '../helpers/takeovers.ts'
import { newPath } from '../helpers/descriptors.ts'

/** `npm run test:load` sets 50,000, with 20 kills and 5 reloads. */
const COUNT = Number(process.env.FDPASS_CONNECTIONS ?? 5000)
const KILLS = Number(process.env.FDPASS_KILLS ?? 8)
const RELOADS = Number(process.env.FDPASS_RELOADS ?? 2)
const CONCURRENCY = 64

const seed = Number(process.env.FDPASS_SEED ?? Math.floor(Math.random() * 2 ** 31))

onlyIf(
  hasPython && isLinux,
  'needs Python 3.9 on Linux',
  test.serial
)(
  `${COUNT} connections, ${CONCURRENCY} at a time, while ${KILLS} workers are killed and ${RELOADS} reloads go on: none refused, each that was not lost with its worker answered once, and as many lost as are reported (seed ${seed})`,
  async (t) => {
    t.timeout(30 * 60_000)
    const args = [COUNT, KILLS, RELOADS, seed].map(String)
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('superserver'), 'load', ...args], {
      stdio: ['pipe', 'pipe', 'inherit']
    })
    t.teardown(() => child.kill('SIGKILL'))
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const port = Number((await lines.next()).value)

    const client = spawn('python3', [fixtureSource('load.py'), `${port}`, `${CONCURRENCY}`, '%', `${COUNT}`], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.teardown(() => client.kill('SIGKILL'))
    const last = (await finish(client)).trimEnd().split('\n').at(-1)!
    const seen = JSON.parse(last) as Seen
    child.stdin.end()
    const told = JSON.parse((await lines.next()).value as string) as Record<string, number>
    await once(child, 'close')
    t.log(JSON.stringify({ seen, told }))

    t.deepEqual([seen.refused, seen.odd], [0, 0])
    t.is(seen.answered + seen.reset, COUNT)
    t.deepEqual(seen.by, { '': seen.answered }, 'each answer is the question, and nothing before it')
    t.is(told.accepted, COUNT)
    t.is(told.refused, 0)
    t.is(told.lost, seen.reset)
    t.is(told.told, told.lost)
    t.is(told.completed! + told.lost!, COUNT)
    t.is(told.killed, KILLS)
    t.is(told.after, told.before)
  }
)

const onPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 on Linux', test.serial)

/** `npm run test:load` sets 30. */
const UPGRADES = Number(process.env.FDPASS_UPGRADES ?? 10)

for (const kind of ['net', 'http', 'superserver'] as const) {
  onPython(
    `${UPGRADES} upgrades in a row under ${CLIENTS} clients that connect without a pause, of a ${kind} server: none refused, none reset`,
    async (t) => {
      const path = newPath()
      let server = startServer(t, path, 'process-0', kind)
      const port = await serving(server)
      const load = new Load(t, port, kind)
      await load.answeredBy('process-0 ')
      for (let i = 1; i <= UPGRADES; i++) {
        const next = startServer(t, path, `process-${i}`, kind)
        t.is(await serving(next), port)
        t.is((await server.lines.next()).value, 'superseded')
        t.is((await server.lines.next()).value, 'ended')
        await server.exited
        server = next
        await load.answeredBy(`process-${i} `)
      }
      const seen = await load.end()
      assertAllAnswered(t, seen)
      t.is(Object.keys(seen.by).length, UPGRADES + 1)
      server.child.kill('SIGTERM')
    }
  )
}
