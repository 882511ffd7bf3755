import { spawn } from 'node:child_process'
import { onlyIf } from '../helpers/conditions.ts'
import { finish, fixturePath, fixtureSource } from '../helpers/processes.ts'
import { runs } from '../helpers/programs.ts'

/** `npm run test:load` sets a million. */
const COUNT = Number(process.env.FDPASS_MESSAGES ?? 10_000)

const seed = Number(process.env.FDPASS_SEED ?? Math.floor(Math.random() * 2 ** 31))

onlyIf(runs('python3', '-c', ''), 'needs python3')(
  `${COUNT} messages of 0 to 300 KiB with 0 to 600 descriptors arrive whole and in order, through a small buffer and past a reader that stalls (seed ${seed})`,
  async (t) => {
    t.timeout(30 * 60_000)
    const node = [process.execPath, ...process.execArgv, fixturePath('channel-load')]
    const program = [fixtureSource('small-buffer.py'), '8192', ...node, '--', `${COUNT}`, `${seed}`]
    const child = spawn('python3', program, { stdio: ['ignore', 'pipe', 'inherit'] })
    const { descriptors } = JSON.parse(await finish(child)) as { descriptors: number }
    t.log(`${descriptors} descriptors`)
    t.true(descriptors > COUNT / 10)
  }
)
