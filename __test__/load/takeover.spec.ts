import test from 'ava'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { CLIENTS, Load, assertAllAnswered, serving, startServer } from '../helpers/takeovers.ts'

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
