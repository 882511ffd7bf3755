// Runs the fuzz targets of crates/core/fuzz, and prints what each has done:
//
//   npm run fuzz -- [TARGET…] [--seconds N] [--jobs N] [--seed S] [--keep]
//
// A target starts from its committed corpus and runs for N seconds, 60 if nothing is said; a seed repeats what it makes up. What it
// finds is thrown away, unless --keep has the smallest inputs for the same coverage put into the corpus. A crash's input is in
// crates/core/fuzz/artifacts.
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

/** The version of cargo-fuzz that is installed where there is none. */
const CARGO_FUZZ = '0.13.2'
/** The longest input that is made up. Sixty operations of the stateful targets have less. */
const LONGEST = 1024

const folder = join(root, 'crates', 'core', 'fuzz')
const built = join(root, 'target', 'fuzz')
const all = readdirSync(join(folder, 'fuzz_targets')).map((file) => basename(file, '.rs'))
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '60' },
    jobs: { type: 'string', default: '1' },
    seed: { type: 'string' },
    keep: { type: 'boolean', default: false }
  }
})
const [seconds, jobs] = [values.seconds, values.jobs].map(Number)
const targets = positionals.length > 0 ? positionals : all
const unknown = targets.filter((target) => !all.includes(target))
const seed = values.seed === undefined ? undefined : Number(values.seed)
const isSeed = seed === undefined || (Number.isInteger(seed) && seed > 0 && seed < 2 ** 32) // libFuzzer takes 0 for any
if (unknown.length > 0 || !(seconds > 0) || !(jobs > 0) || !isSeed) {
  console.error(`Usage: npm run fuzz -- [${all.join('|')}]… [--seconds N] [--jobs N] [--seed S] [--keep]`)
  process.exit(2)
}

// Sanitizers and coverage are options of the nightly compiler.
const nightly = ['+nightly', 'fuzz']
const fuzz = (command, ...args) => [...nightly, command, '--fuzz-dir', folder, '--target-dir', built, ...args]

function build() {
  if (spawnSync('cargo', [...nightly, '--version'], { stdio: 'ignore' }).status !== 0) {
    const rustup = spawnSync(
      'rustup',
      ['toolchain', 'install', 'nightly', '--profile', 'minimal', '--no-self-update'],
      {
        stdio: 'inherit'
      }
    )
    if (rustup.status !== 0) process.exit(1)
    const install = spawnSync('cargo', ['install', 'cargo-fuzz', '--locked', '--version', CARGO_FUZZ], {
      stdio: 'inherit'
    })
    if (install.status !== 0) process.exit(1)
  }
  for (const target of targets) {
    const { status } = spawnSync('cargo', fuzz('build', target), { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
    if (status !== 0) process.exit(status ?? 1)
  }
}

/** What the last match has in parentheses. */
const lastOf = (output, pattern) => [...output.matchAll(pattern)].at(-1)?.[1] ?? '?'

/** Runs one target; its last lines tell what became of it. */
function run(target) {
  const scratch = mkdtempSync(join(tmpdir(), `fdpass-fuzz-${target}-`))
  const corpus = join(folder, 'corpus', target)
  const found = join(scratch, 'corpus')
  mkdirSync(found)
  if (existsSync(corpus)) cpSync(corpus, found, { recursive: true })
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
        console.error(`${target} failed with seed ${result.seed}; all that it said is in ${log}`)
      } else if (values.keep) {
        keep(target, corpus, found)
      }
      rmSync(scratch, { recursive: true })
      resolve(result)
    })
  })
}

/** Puts the smallest inputs for what was covered into the committed corpus. */
function keep(target, corpus, found) {
  spawnSync('cargo', fuzz('cmin', target, found), { cwd: root, stdio: 'ignore' })
  rmSync(corpus, { recursive: true, force: true })
  cpSync(found, corpus, { recursive: true })
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
