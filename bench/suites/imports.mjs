import { spawnSync } from 'node:child_process'
import { bench, built } from '../build.mjs'
import { pinned } from '../processes.mjs'
import { median, column, decimal, spread } from '../table.mjs'

const PAIRS = 25

const imported = {
  fdpass: {
    is: "import 'fdpass', from the package that npm installs",
    args: ['--input-type=module', '-e', "import 'fdpass'"],
    cwd: built('package')
  },
  'fdpass-command': {
    is: 'fdpass --help',
    args: ['node_modules/fdpass/dist/lib/cli/main.js', '--help'],
    cwd: built('package')
  },
  'fdpass-module': {
    is: 'an empty module: what is Node’s own of it',
    args: ['--input-type=module', '-e', ''],
    cwd: bench
  },
  usocket: { is: "require('usocket')", args: ['-e', "require('usocket')"], cwd: built('usocket') }
}

function milliseconds(args, cwd, cpu) {
  const [command, ...rest] = pinned([process.execPath, ...args], cpu)
  const begun = process.hrtime.bigint()
  const { status } = spawnSync(command, rest, { cwd, stdio: 'ignore' })
  if (status !== 0) throw new Error(`${args.join(' ')}: code ${status}`)
  return Number(process.hrtime.bigint() - begun) / 1e6
}

export default {
  title: 'Importing',
  text: `How much longer a new process takes that imports the package than \`node -e 0\`: from its start to its end, on one CPU, with the
files in the page cache; the median of ${PAIRS} in a round, one of each in turn.`,
  needs: { fdpass: 'package', 'fdpass-command': 'package', usocket: 'usocket' },
  tools: [],
  describe: (peer) => imported[peer].is,
  workloads: ['import@1'],

  columns: () => [
    column('ms more', 'milliseconds'),
    spread('milliseconds', decimal(2)),
    column('ms of node -e 0', 'bare')
  ],

  cases({ cpu, quick }) {
    return Object.entries(imported).map(([peer, { args, cwd }]) => ({
      workload: 'import@1',
      peer,
      fixed: quick ? 3 : PAIRS,
      async measure(n) {
        const bare = []
        const importing = []
        for (let turn = 0; turn < n; turn++) {
          bare.push(milliseconds(['-e', '0'], cwd, cpu))
          importing.push(milliseconds(args, cwd, cpu))
        }
        return { milliseconds: median(importing) - median(bare), bare: median(bare) }
      }
    }))
  }
}
