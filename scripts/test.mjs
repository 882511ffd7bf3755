// Everything on the Node at hand: core's suite, then the JavaScript suite on each back end. The last line counts the
// tests: `N passed, N failed`.
import { spawn } from 'node:child_process'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const ava = ['node_modules/ava/entrypoints/cli.mjs', '--tap']
const libuv = process.versions.bun === undefined && process.versions.deno === undefined

/** Runs a command, shows what it prints, and gives its exit code and output. */
function run(command, args, env = {}) {
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
    process.stdout.write(text)
  })
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: error.code, output }))
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** Adds up a number that each matching line names. */
function sum(output, pattern) {
  return [...output.matchAll(pattern)].reduce((total, [, number]) => total + Number(number), 0)
}

const setUp = await run(process.execPath, ['scripts/setup.mjs'])
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
let failed = 0
for (const { name, command, args, env, counts } of suites) {
  console.log(`# ${name}`)
  const { code, output } = await run(command, args, env)
  const [suitePassed, suiteFailed] = counts.map((pattern) => sum(output, pattern))
  passed += suitePassed
  // A suite that ended badly without a failed test has failed as a whole.
  failed += code !== 0 && suiteFailed === 0 ? 1 : suiteFailed
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
