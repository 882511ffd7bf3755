// Runs the fuzz targets of crates/core/fuzz, and prints what each has reached:
//
//   npm run fuzz -- [TARGET…] [--seconds N] [--jobs N] [--seed S] [--keep]
//   npm run fuzz -- protocols [--seconds N] [--seed S]
//   npm run fuzz -- TARGET --add FILE        adds an input to a corpus, such as one of a crash
//
// A target starts from its committed corpus (corpus/TARGET.hex: one seed a line, in hexadecimal digits) and runs for N seconds, 60 by
// default. A seed makes a run repeatable. New inputs are dropped, unless --keep replaces the corpus with the smallest set of inputs that
// reaches the same coverage. 'protocols' are those that TypeScript parses (__test__/proof/fuzz.spec.ts). libFuzzer writes the input of a crash to crates/core/fuzz/artifacts.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

/** The version of cargo-fuzz that is installed if there is none. */
const CARGO_FUZZ = '0.13.2'
/** The longest generated input, in bytes. Sixty operations of the stateful targets need less. */
const LONGEST = 1024

const folder = join(root, 'crates', 'core', 'fuzz')
const built = join(root, 'target', 'fuzz')
const all = readdirSync(join(folder, 'corpus')).map((file) => basename(file, '.hex'))
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '60' },
    jobs: { type: 'string', default: '1' },
    seed: { type: 'string' },
    keep: { type: 'boolean', default: false },
    add: { type: 'string' }
  }
})
if (positionals[0] === 'protocols') {
  const env = { ...process.env, FDPASS_FUZZ_SECONDS: values.seconds, ...(values.seed && { FDPASS_SEED: values.seed }) }
  const command = ['tools/check/test.mjs', '__test__/proof/fuzz.spec.ts']
  process.exit(spawnSync(process.execPath, command, { cwd: root, stdio: 'inherit', env }).status ?? 1)
}
const [seconds, jobs] = [values.seconds, values.jobs].map(Number)
const targets = positionals.length > 0 ? positionals : all
const unknown = targets.filter((target) => !all.includes(target))
const seed = values.seed === undefined ? undefined : Number(values.seed)
const isSeed = seed === undefined || (Number.isInteger(seed) && seed > 0 && seed < 2 ** 32) // libFuzzer reads 0 as any
if (
  unknown.length > 0 ||
  !(seconds > 0) ||
  !(jobs > 0) ||
  !isSeed ||
  (values.add !== undefined && targets.length !== 1)
) {
  console.error(`Usage: npm run fuzz -- [${all.join('|')}]… [--seconds N] [--jobs N] [--seed S] [--keep] [--add FILE]`)
  process.exit(2)
}

// Sanitizers and coverage are options of the nightly compiler.
const nightly = ['+nightly', 'fuzz']
const fuzz = (command, ...args) => [...nightly, command, '--fuzz-dir', folder, '--target-dir', built, ...args]

const corpusOf = (target) => join(folder, 'corpus', `${target}.hex`)

/** Returns the seeds of a target's committed corpus. */
function readCorpus(target) {
  const lines = readFileSync(corpusOf(target), 'utf8').split('\n').filter(Boolean)
  return lines.map((line) => Buffer.from(line, 'hex'))
}

/** Replaces a target's committed corpus, shortest seeds first. */
function writeCorpus(target, inputs) {
  const sorted = inputs.toSorted((a, b) => a.length - b.length || Buffer.compare(a, b))
  const lines = new Set(sorted.map((input) => input.toString('hex')).filter(Boolean))
  writeFileSync(corpusOf(target), [...lines, ''].join('\n'))
}

/** Runs a command with its output shown; returns its exit code. */
function execute(command, ...args) {
  return spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] }).status
}

/** Returns whether cargo succeeds with these arguments. */
function works(...args) {
  return spawnSync('cargo', args, { stdio: 'ignore' }).status === 0
}

/** Installs cargo-fuzz if it is missing, and builds the targets. */
function build() {
  const toolchain = ['toolchain', 'install', 'nightly', '--profile', 'minimal', '--no-self-update']
  if (!works('+nightly', '--version') && execute('rustup', ...toolchain) !== 0) process.exit(1)
  const cargoFuzz = ['install', 'cargo-fuzz', '--locked', '--version', CARGO_FUZZ]
  if (!works(...nightly, '--version') && execute('cargo', ...cargoFuzz) !== 0) process.exit(1)
  for (const target of targets) {
    if (execute('cargo', ...fuzz('build', target)) !== 0) process.exit(1)
  }
}

/** Returns the first group of the last match. */
const lastOf = (output, pattern) => [...output.matchAll(pattern)].at(-1)?.[1] ?? '?'

/** Runs one target, and returns the row of its results. */
function run(target) {
  const scratch = mkdtempSync(join(tmpdir(), `fdpass-fuzz-${target}-`))
  const found = join(scratch, 'corpus')
  mkdirSync(found)
  for (const [number, input] of readCorpus(target).entries()) writeFileSync(join(found, `${number}`), input)
  const libFuzzer = [`-max_total_time=${seconds}`, `-max_len=${LONGEST}`, '-print_final_stats=1']
  if (seed !== undefined) libFuzzer.push(`-seed=${seed}`)
  const child = spawn('cargo', fuzz('run', target, found, '--', ...libFuzzer), {
    cwd: root,
    stdio: ['ignore', 'ignore', 'pipe']
  })
  let output = ''
  child.stderr.setEncoding('utf8').on('data', (text) => (output += text))
  return new Promise((resolve) => {
    child.on('close', (code) => {
      const result = {
        target,
        executions: lastOf(output, /^stat::number_of_executed_units: *(\d+)/gm),
        'executions/s': lastOf(output, /^stat::average_exec_per_sec: *(\d+)/gm),
        edges: lastOf(output, / cov: (\d+)/g),
        features: lastOf(output, / ft: (\d+)/g),
        inputs: lastOf(output, / corp: (\d+)/g),
        seed: lastOf(output, /^INFO: Seed: (\d+)/gm),
        result: code === 0 ? 'ok' : 'FAILED'
      }
      console.log(`# ${target}: ${result.result}, ${result.executions} executions, ${result.edges} edges`)
      if (code !== 0) {
        const log = join(tmpdir(), `fdpass-fuzz-${target}.log`)
        writeFileSync(log, output)
        console.error(output.split('\n').slice(-80).join('\n'))
        console.error(`${target} failed with seed ${result.seed}; its whole output is in ${log}`)
      } else if (values.keep) {
        keep(target, found)
      }
      rmSync(scratch, { recursive: true })
      resolve(result)
    })
  })
}

/** Replaces the committed corpus by the smallest set of the inputs found that reaches the same coverage. */
function keep(target, found) {
  const smallest = mkdtempSync(join(tmpdir(), `fdpass-corpus-${target}-`))
  const { status } = spawnSync('cargo', fuzz('run', target, smallest, found, '--', '-set_cover_merge=1'), {
    cwd: root,
    stdio: 'ignore'
  })
  if (status === 0) {
    const seeds = readdirSync(smallest).map((name) => readFileSync(join(smallest, name)))
    writeCorpus(target, seeds)
    console.log(`# ${target}: ${seeds.length} seeds are kept`)
  } else console.error(`${target}: libFuzzer could not merge its inputs; the corpus is unchanged`)
  rmSync(smallest, { recursive: true })
}

if (values.add !== undefined) {
  writeCorpus(targets[0], [...readCorpus(targets[0]), readFileSync(values.add)])
  process.exit(0)
}
build()
const queue = [...targets]
const results = []
await Promise.all(
  Array.from({ length: Math.min(jobs, queue.length) }, async () => {
    for (let target = queue.shift(); target !== undefined; target = queue.shift()) results.push(await run(target))
  })
)
const rows = targets.map((target) => results.find((result) => result.target === target))
const columns = Object.keys(rows[0])
const widths = columns.map((column) => Math.max(column.length, ...rows.map((row) => row[column].length)))
for (const row of [Object.fromEntries(columns.map((column) => [column, column])), ...rows]) {
  const cells = columns.map((column, index) =>
    row[column][/^\d+$/.test(row[column]) ? 'padStart' : 'padEnd'](widths[index])
  )
  console.log(`| ${cells.join(' | ')} |`)
}
process.exit(rows.every((row) => row.result === 'ok') ? 0 : 1)
