// `.ci/run [PART…]`: runs `npm test` and the heavy suites one after the other, as many as fit in 40 minutes on two cores. It prints the
// time of each part, and adds up their tests in the last line: `N passed, N failed`. A part fails if it takes three times its usual time.
import { spawn, spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { root, sum } from '../run.mjs'

/** The time for everything, in minutes. */
const TOTAL = 40

const works = (command, ...args) => spawnSync(command, args, { cwd: root, stdio: 'ignore' }).status === 0
const npm = (script, ...args) => ['npm', 'run', '--silent', script, ...(args.length > 0 ? ['--', ...args] : [])]

/** Returns the counts of the last line of a suite's output: `N passed, N failed`. */
function countsOfLastLine(output) {
  const [, passed, failed] = [...output.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1) ?? [null, 0, 0]
  return [Number(passed), Number(failed)]
}

/** Installs cargo-fuzz, which `npm run fuzz` needs. Returns the reason if it is missing. */
function fuzzerMissing() {
  if (!works('cargo', '+nightly', '--version')) return 'the nightly toolchain of Rust is missing'
  const install = ['install', 'cargo-fuzz', '--locked', '--version', '0.13.2']
  if (works('cargo', '+nightly', 'fuzz', '--version') || works('cargo', ...install)) return undefined
  return 'cargo-fuzz could not be installed'
}

/**
 * The parts, in the order of their importance. `minutes` is what a part takes on two cores: it is left out if less time remains. `counts` reads
 * the numbers of passed and failed tests from its output. `missing` returns the reason if it cannot run on this machine.
 */
const parts = {
  setup: { minutes: 5, command: npm('setup'), counts: () => [0, 0] },
  test: { minutes: 8, command: npm('test'), counts: countsOfLastLine },
  rest: { minutes: 12, command: npm('test', '--rest'), counts: countsOfLastLine },
  lint: { minutes: 3, command: npm('lint'), counts: () => [1, 0] },
  package: {
    minutes: 6,
    missing: () => (process.platform === 'linux' && process.arch === 'x64' ? undefined : 'it needs Linux on x64'),
    command: npm('test:package'),
    counts: (output) => [sum(output, /^ℹ pass (\d+)$/gm), sum(output, /^ℹ fail (\d+)$/gm)]
  },
  faults: {
    minutes: 5,
    missing: () => (process.platform === 'linux' ? undefined : 'it needs Linux'),
    command: npm('test:faults', '--seconds', '180', '--seed', '1'),
    counts: countsOfLastLine
  },
  teardown: {
    minutes: 3,
    command: npm('test:teardown', '--workers', '200', '--seed', '1', 'node'),
    counts: countsOfLastLine
  },
  fuzz: {
    minutes: 8,
    missing: fuzzerMissing,
    command: npm('fuzz', '--seconds', '20', '--jobs', '2', '--seed', '1'),
    counts: (output) => ['ok', 'FAILED'].map((word) => output.split(`: ${word}, `).length - 1)
  },
  load: { minutes: 14, command: npm('test:load'), counts: countsOfAva }
}

/** Returns the counts of ava's own report. */
function countsOfAva(output) {
  return [sum(output, /^ *(\d+) tests? passed$/gm), sum(output, /^ *(\d+) tests? failed$/gm)]
}

/** Returns the lines of a suite's output that report failures, each with what follows it, at most 60 lines in all. */
function reportsOfFailures(output) {
  const lines = output.split('\n')
  const failed = lines.flatMap((line, at) => (/^(not ok|FAILED)\b|^\s*(✘|✖)|: FAILED, /.test(line) ? [at] : []))
  return failed.flatMap((at) => lines.slice(at, at + 12)).slice(0, 60)
}

/** Runs a command with its output shown, and ends it after a time in milliseconds. */
function run([command, ...args], timeout) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
    process.stdout.write(text)
  })
  const timer = setTimeout(() => process.kill(-child.pid, 'SIGKILL'), timeout)
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, output })
    })
  })
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { elapsed: { type: 'string', default: '0' } }
})
const unknown = positionals.filter((name) => !Object.hasOwn(parts, name))
if (unknown.length > 0) {
  console.error(`Usage: .ci/run [${Object.keys(parts).join('|')}]…`)
  process.exit(2)
}

const end = performance.now() + (TOTAL * 60 - Number(values.elapsed)) * 1000
let passed = 0
let failed = 0
const times = []
const reports = []
for (const [name, { minutes, missing = () => undefined, command, counts }] of Object.entries(parts)) {
  if (positionals.length > 0 && name !== 'setup' && !positionals.includes(name)) continue
  const started = performance.now()
  const reason = end - started < minutes * 60_000 ? `${minutes} minutes do not remain` : missing()
  if (reason !== undefined) {
    times.push(`# ${name}: left out, because ${reason}`)
    continue
  }
  console.log(`# ${name}`)
  const { code, signal, output } = await run(command, Math.min(end - started, 3 * minutes * 60_000))
  const [partPassed, partFailed] = code === 0 || name !== 'lint' ? counts(output) : [0, 1]
  passed += partPassed
  // A part that ends badly without a failed test has failed as a whole.
  failed += code !== 0 && partFailed === 0 ? 1 : partFailed
  if (code !== 0) reports.push(`# what failed in ${name}:`, ...reportsOfFailures(output))
  const seconds = Math.round((performance.now() - started) / 1000)
  times.push(`# ${name}: ${partPassed} passed, ${partFailed} failed, ${signal ?? `exit ${code}`}, ${seconds} s`)
  if (name === 'setup' && code !== 0) break
}
for (const line of [...reports, ...times]) console.log(line)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
