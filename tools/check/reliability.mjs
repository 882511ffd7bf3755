// `npm run test:reliability -- [--minutes 45] [--seed S] [--no-report] [PART…]`: runs fuzzing, sanitizers, faults, soak, teardown and conformance
// one after the other, each with a share of the time. It prints the numbers of each part with the seed that repeats it, writes them to
// docs/proof/reliability.md, and names the parts that cannot run here. The last line counts the tests: `N passed, N failed`.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root, sum } from '../run.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    minutes: { type: 'string', default: '45' },
    seed: { type: 'string' },
    report: { type: 'boolean', default: true }
  }
})

const has = (...path) => existsSync(join(root, ...path))
const works = (command, ...args) => spawnSync(command, args, { cwd: root, stdio: 'ignore' }).status === 0
const last = (output, pattern) => [...output.matchAll(pattern)].at(-1)?.slice(1)
const script = (name) => (has('tools', 'check', name) ? undefined : `tools/check/${name} is not there`)
const targets = () => readdirSync(join(root, 'crates', 'core', 'fuzz', 'corpus')).length
/** Returns the numbers of the last line `N passed, N failed`. */
const lastLine = (output) => (last(output, /^(\d+) passed, (\d+) failed$/gm) ?? [0, 0]).map(Number)

/**
 * The parts. `share` is a part's share of the time, `command` its command for a number of seconds, `missing` the reason why it cannot run here,
 * and `read` reads its output. A part fails if it takes longer than twice its share and two minutes, or than `atMost` in seconds: for a part
 * whose work does not depend on its share.
 */
const parts = {
  fuzzing: {
    share: 10,
    missing: () =>
      script('fuzz.mjs') ?? (works('cargo', '+nightly', '--version') ? undefined : 'no nightly toolchain of Rust'),
    command: (seconds, seed) => [
      'npm',
      'run',
      '-s',
      'fuzz',
      '--',
      '--jobs',
      '2',
      '--seed',
      `${Math.abs(seed) % 2 ** 32 || 1}`,
      '--seconds',
      `${Math.max(1, Math.floor(seconds / Math.ceil(targets() / 2)))}`
    ],
    read: (output) => ({
      counts: ['ok', 'FAILED'].map((word) => output.split(`: ${word}, `).length - 1),
      numbers: `${sum(output, /^# \S+: \w+, (\d+) executions/gm)} executions of ${targets()} targets, ${sum(output, /^# \S+: \w+, \d+ executions, (\d+) edges/gm)} edges covered`
    })
  },
  sanitizers: {
    share: 7,
    atMost: 1800,
    missing: () => script('sanitizers.mjs'),
    command: () => ['npm', 'run', '-s', 'test:sanitizers'],
    read: (output) => ({
      counts: lastLine(output),
      numbers: `${lastLine(output)[0]} tests and runs without an error of memory or of threads`
    })
  },
  faults: {
    share: 10,
    missing: () => script('faults.mjs'),
    command: (seconds, seed) => [
      'npm',
      'run',
      '-s',
      'test:faults',
      '--',
      '--seconds',
      `${seconds}`,
      '--seed',
      `${seed}`
    ],
    read: (output) => ({
      counts: lastLine(output),
      numbers: last(output, /^(\d+ of \d+ faults: .*)$/gm)?.[0] ?? 'no faults'
    })
  },
  soak: {
    share: 8,
    missing: () => script('soak.mjs'),
    // Its processes need a minute to start and to come to rest.
    command: (seconds, seed) => [
      'npm',
      'run',
      '-s',
      'test:soak',
      '--',
      '--minutes',
      `${Math.max(0.5, (seconds - 60) / 60).toFixed(2)}`,
      '--seed',
      `${seed}`
    ]
  },
  teardown: {
    share: 6,
    missing: () => script('teardown.mjs'),
    command: (seconds, seed) => [
      'npm',
      'run',
      '-s',
      'test:teardown',
      '--',
      '--seconds',
      `${seconds}`,
      '--seed',
      `${seed}`
    ]
  },
  conformance: {
    share: 6,
    atMost: 1800,
    command: () => [process.execPath, 'node_modules/ava/entrypoints/cli.mjs', '--tap', ...conformanceTests],
    read: (output) => {
      const [pass, fail, skip] = ['pass', 'fail', 'skip'].map((word) =>
        sum(output, new RegExp(`^# ${word} (\\d+)$`, 'gm'))
      )
      return {
        counts: [pass, fail],
        numbers: `${pass} tests, ${skip} skipped`
      }
    }
  }
}

/** The folders with the tests of docs/proof, of hostile peers, and of programs that exit at any moment. */
const conformanceTests = [
  'address',
  'base',
  'descriptor',
  'event-loop',
  'native',
  'proof',
  'socket',
  'teardown',
  'broker',
  'channel',
  'handover',
  'ipc',
  'store',
  'superserver',
  'takeover'
].map((folder) => `build/__test__/${folder}/*.spec.js`)

const minutes = Number(values.minutes)
const seed = Number(values.seed ?? Math.trunc(Math.random() * 2 ** 30))
const chosen = positionals.length > 0 ? positionals : Object.keys(parts)
if (!(minutes > 0) || !Number.isSafeInteger(seed) || chosen.some((name) => !Object.hasOwn(parts, name))) {
  console.error(
    `Usage: npm run test:reliability -- [--minutes N] [--seed S] [--no-report] [${Object.keys(parts).join('|')}]…`
  )
  process.exit(2)
}
if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)

/** Runs a command, and kills it with its child processes after a time. Resolves to its exit and its output. */
function runFor(milliseconds, [command, ...args]) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
    process.stdout.write(text)
  })
  let isCut = false
  const timer = setTimeout(() => {
    isCut = true
    process.kill(-child.pid, 'SIGKILL')
  }, milliseconds)
  return new Promise((resolve) => {
    const end = (code) => {
      clearTimeout(timer)
      resolve({ code, output, isCut })
    }
    child.on('error', (error) => end(error.code))
    child.on('close', end)
  })
}

/** Returns the line `summary: key=value …` as text. */
const summarized = (output) =>
  (last(output, /^summary: (.*)$/gm)?.[0] ?? '')
    .split(' ')
    .map((pair) => pair.split('='))
    .filter(([key, value]) => value !== undefined && key !== 'seed' && key !== 'minutes')
    .map(([key, value]) => `${value} ${key.replaceAll('-', ' ')}`)
    .join(', ')

const until = performance.now() + minutes * 60_000
const rows = []
let passed = 0
let failed = 0
console.log(`# seed ${seed}, ${minutes} minutes`)
for (const [place, name] of chosen.entries()) {
  const { share, atMost, missing, command, read } = parts[name]
  const reason = missing?.()
  if (reason !== undefined) {
    console.log(`# ${name}: not run, ${reason}`)
    rows.push({ name, result: `not run: ${reason}`, time: '', numbers: '' })
    continue
  }
  const left = until - performance.now()
  const shares = chosen.slice(place).reduce((total, other) => total + parts[other].share, 0)
  const mine = Math.max(20_000, (left * share) / shares)
  console.log(`# ${name}: ${Math.round(mine / 1000)} s`)
  const started = performance.now()
  // A part that keeps to its time still has to build and to exit.
  const { code, output, isCut } = await runFor(
    atMost === undefined ? 2 * mine + 120_000 : atMost * 1000,
    command(Math.round(mine / 1000), seed)
  )
  const { counts, numbers } = read?.(output) ?? { counts: lastLine(output), numbers: summarized(output) }
  const [good, bad] = counts
  const reasons = [...output.matchAll(/^# not run: (.*)$/gm)].map(([, text]) => text)
  const isBad = bad > 0 || isCut || code !== 0 || good === 0
  passed += good
  failed += isBad ? Math.max(1, bad) : 0
  const seeds = last(output, /seed (\d+)/g) === undefined ? '' : `seed ${seed}`
  const result = [
    isCut ? 'not done in time' : isBad ? `${Math.max(1, bad)} failed` : 'passed',
    ...reasons.map((text) => `not run: ${text}`)
  ].join('; ')
  const time = `${Math.round((performance.now() - started) / 1000)} s`
  rows.push({ name, result, time, numbers: [numbers, seeds].filter(Boolean).join('; ') })
  console.log(`# ${name}: ${result}, ${time}: ${numbers}`)
}

if (values.report) writeReport()
console.table(rows)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)

function writeReport() {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const [{ model }] = cpus()
  const machine = `${cpus().length} × ${model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform} ${release()}, Node ${process.version}`
  const table = rows.map(
    ({ name, result, time, numbers }) =>
      `| ${[name, numbers, time, result].map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`
  )
  const text = `# Reliability

Results of \`npm run test:reliability -- --minutes ${minutes} --seed ${seed}\` for fdpass ${version}, on ${new Date().toISOString().slice(0, 10)}:
${machine}. ${passed} passed, ${failed} failed.

| part | what was done | time | result |
| --- | --- | --- | --- |
${table.join('\n')}

- **fuzzing**: \`npm run fuzz\` feeds the parsers of foreign input with bytes that coverage guides.
- **sanitizers**: \`npm run test:sanitizers\` runs core's tests under AddressSanitizer, ThreadSanitizer and valgrind, and the addon.
- **faults**: \`npm run test:faults\` fails one system call in each run of a scenario, and checks the outcome.
- **soak**: \`npm run test:soak\` runs a superserver, unmodified programs under another one, channels, a broker, a store and take-overs at once, under kills,
  reloads, full descriptor tables and hostile peers. Clients count their answers; descriptors, threads and memory have to stay constant.
- **teardown**: \`npm run test:teardown\` ends Workers and processes at random moments of their I/O, on each version of Node and back end.
- **conformance**: the tests of \`docs/proof\`: cases of other test suites and specifications, security promises, hostile peers, and programs
  that exit at any moment.
`
  const path = join(root, 'docs', 'proof', 'reliability.md')
  // Longer runs of single parts are recorded by hand below the table.
  const [, longer] = readFileSync(path, 'utf8').split('\n## Longer runs\n')
  writeFileSync(path, longer === undefined ? text : `${text}\n## Longer runs\n${longer}`)
  spawnSync(
    process.execPath,
    [join(root, 'node_modules', 'prettier', 'bin', 'prettier.cjs'), '--write', '--log-level', 'warn', path],
    { stdio: 'inherit' }
  )
}
