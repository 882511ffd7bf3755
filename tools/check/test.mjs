// Everything on the Node at hand: core's suite, then the JavaScript suite on each back end. The last line counts the
// tests: `N passed, N failed`.
import { run, sum } from '../run.mjs'
import { checkProof } from './proof.mjs'

const ava = ['node_modules/ava/entrypoints/cli.mjs', '--tap']
const libuv = process.versions.bun === undefined && process.versions.deno === undefined

const setUp = await run(process.execPath, ['tools/build/setup.mjs'])
if (setUp.code !== 0) process.exit(1)

const suites = [
  {
    name: 'cargo test',
    command: 'cargo',
    args: ['test', '--quiet', '--workspace'],
    counts: [/ (\d+) passed/g, / (\d+) failed/g]
  },
  ...(libuv ? ['uv', 'thread'] : ['thread']).map((backend) => ({
    name: `ava, back end ${backend}`,
    command: process.execPath,
    args: ava,
    env: { FDPASS_BACKEND: backend },
    counts: [/^# pass (\d+)$/gm, /^# fail (\d+)$/gm]
  }))
]

let passed = 0
let outputs = ''
let failed = 0
for (const { name, command, args, env, counts } of suites) {
  console.log(`# ${name}`)
  const { code, output } = await run(command, args, { env })
  outputs += output
  const [suitePassed, suiteFailed] = counts.map((pattern) => sum(output, pattern))
  passed += suitePassed
  // A suite that ended badly without a failed test has failed as a whole.
  failed += code !== 0 && suiteFailed === 0 ? 1 : suiteFailed
}
const { output: listed } = await run('cargo', ['test', '--quiet', '--workspace', '--', '--list'], { show: false })
const problems = checkProof(outputs + listed)
for (const problem of problems) console.log(`not ok proof: ${problem}`)
passed += problems.length === 0 ? 1 : 0
failed += problems.length
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
