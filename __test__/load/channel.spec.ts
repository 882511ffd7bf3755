import { spawn } from 'node:child_process'
import { openSmall } from '../helpers/channels.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { finish, fixturePath } from '../helpers/processes.ts'

/** `npm run test:load` sets a million. */
const COUNT = Number(process.env.FDPASS_MESSAGES ?? 10_000)

const seed = Number(process.env.FDPASS_SEED ?? Math.floor(Math.random() * 2 ** 31))

onlyIf(hasPython, 'needs Python 3.9')(
  `${COUNT} messages of 0 to 300 KiB with 0 to 600 descriptors arrive whole and in order, through a small buffer and past a reader that stalls (seed ${seed})`,
  async (t) => {
    t.timeout(30 * 60_000)
    const ends = await openSmall(t, 8192)
    const programs = ['send', 'receive'].map((role, i) => {
      const end = ends[i]!
      const program = [...process.execArgv, fixturePath('channel-load'), role, `${COUNT}`, `${seed}`]
      const child = spawn(process.execPath, program, { stdio: ['ignore', 'pipe', 'inherit', end.fd] })
      end.close() // only the child holds that end from now on
      return finish(child)
    })
    const [, output] = await Promise.all(programs)
    const { descriptors } = JSON.parse(output!) as { descriptors: number }
    t.log(`${descriptors} descriptors`)
    t.true(descriptors > COUNT / 10)
  }
)
