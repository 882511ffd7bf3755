// `npm run bench`: measures fdpass and its peers, and writes results.json, RESULTS.md and charts/. See README.md.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { bench, build } from './build.mjs'
import { suites, writeReport } from './report.mjs'

const USAGE = `usage: npm run bench -- [options]
  --rounds N       rounds, in each of which every peer runs once: 7
  --suite NAMES    of ${Object.keys(suites).join(', ')}
  --only PEERS     these alone, by their names in the results
  --workload NAMES these alone, for instance w2@1,w3-64@1
  --seconds S      how long a run is to take: 1
  --cpu N          the CPU of what is pinned to one: 0
  --quick          one round of very short runs, to see whether all works
  --out FOLDER     where to write: this folder
  --report         only write RESULTS.md and charts/ again, from results.json`

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string' },
    suite: { type: 'string' },
    only: { type: 'string' },
    workload: { type: 'string' },
    seconds: { type: 'string' },
    cpu: { type: 'string', default: '0' },
    quick: { type: 'boolean', default: false },
    out: { type: 'string', default: bench },
    report: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})

/** What is going on, on standard error: on one line of a terminal, and otherwise a line for every suite and workload. */
class Progress {
  #last = ''

  show(text) {
    if (process.stderr.isTTY) {
      process.stderr.write(`\r\u001B[K${text}`)
      return
    }
    const coarse = text.replace(/^\d+\/\d+ /, '').replace(/ \S+(, [^,]* left)?$/, '')
    if (coarse !== this.#last) console.error(text)
    this.#last = coarse
  }

  end() {
    if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
  }
}

/** A run is long enough to tell the next one's count if it takes this part of the time. */
const TELLING = 0.2

const out = resolve(options.out)
const file = join(out, 'results.json')
async function measure() {
  if (process.platform !== 'linux')
    throw new Error('The benchmark measures by /proc, taskset and perf: it runs on Linux')
  const names = options.suite?.split(',') ?? Object.keys(suites)
  const unknown = names.find((name) => suites[name] === undefined)
  if (unknown !== undefined) throw new Error(`There is no suite ${unknown}.\n${USAGE}`)
  const context = {
    cpu: Number(options.cpu),
    quick: options.quick,
    seconds: Number(options.seconds ?? (options.quick ? 0.03 : 1))
  }
  const rounds = Number(options.rounds ?? (options.quick ? 1 : 7))
  const [peers, workloads] = [options.only, options.workload].map((value) => value?.split(','))
  const selected = ({ peer, workload }) =>
    (peers === undefined || peers.includes(peer)) && (workloads === undefined || workloads.includes(workload))

  const cases = names.flatMap((suite) =>
    suites[suite]
      .cases(context)
      .filter(selected)
      .map((one) => ({ suite, ...one }))
  )
  if (cases.length === 0) throw new Error(`${names.join(', ')}: nothing of that`)
  const needed = cases.map(({ suite, peer }) => suites[suite].needs[peer]).filter((need) => need !== undefined)
  const reasons = await build([...names.flatMap((name) => suites[name].tools), ...needed])

  const results = Object.fromEntries(
    names.map((name) => [
      name,
      { date: new Date().toISOString(), rounds: suites[name].rounds ?? rounds, ...context, rows: [], missing: [] }
    ])
  )
  const possible = []
  for (const one of cases) {
    const need = [suites[one.suite].needs[one.peer], ...suites[one.suite].tools].find(
      (name) => reasons[name] !== undefined
    )
    const reason = one.cannot ?? (need === undefined ? undefined : `it could not be built: ${reasons[need]}`)
    if (reason === undefined) possible.push(one)
    else results[one.suite].missing.push({ workload: one.workload, peer: one.peer, reason })
  }

  const progress = new Progress()
  for (const [index, one] of possible.entries()) {
    progress.show(`${index + 1}/${possible.length} how many in ${context.seconds} s: ${nameOf(one)}`)
    await calibrate(one, context.seconds)
  }
  const turns = Array.from({ length: rounds }, (_, round) =>
    possible
      .filter(({ suite, failed }) => !failed && round < (suites[suite].rounds ?? rounds))
      .map((one) => ({ one, round }))
  ).flat()
  let left = turns.reduce((sum, { one }) => sum + one.took, 0)
  for (const { one, round } of turns) {
    progress.show(`round ${round + 1} of ${rounds}, ${nameOf(one)}, ${remaining(left)} left`)
    left -= one.took
    const row = await attempt(one, one.count)
    results[one.suite].rows.push({ workload: one.workload, peer: one.peer, round, ...row })
    if (one === turns.findLast((turn) => turn.round === round).one) save(results) // what is known, should it be interrupted
  }
  for (const { suite, workload, peer, failed } of possible.filter((one) => one.failed)) {
    results[suite].rows.push({ workload, peer, round: 0, error: failed })
  }
  progress.end()
  save(results)
  writeReport(out)
  const errors = Object.values(results).flatMap(({ rows }) => rows.filter(({ error }) => error !== undefined))
  for (const { workload, peer, error } of errors) console.error(`${peer} ${workload}: ${error}`)
  console.error(`${join(out, 'RESULTS.md')} has the results`)
}

const nameOf = ({ suite, workload, peer }) => `${suite} ${workload} ${peer}`

const remaining = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`)

/** Runs once; resolves to what was measured, or the error. */
async function attempt(one, count) {
  const begun = performance.now()
  try {
    const row = { n: count, ...(await one.measure(count)) }
    for (const [key, value] of Object.entries(row)) {
      if (typeof value === 'number') row[key] = Number(value.toPrecision(7))
    }
    return row
  } catch (error) {
    return { n: count, error: error.message }
  } finally {
    one.took = (performance.now() - begun) / 1e3
  }
}

/** Finds out how many take about as long as a run is to be. */
async function calibrate(one, seconds) {
  if (one.fixed !== undefined) {
    one.count = one.fixed
    one.took = seconds // roughly
    return
  }
  one.count = one.start
  for (let tries = 0; tries < 5; tries++) {
    const row = await attempt(one, one.count)
    if (row.error !== undefined) {
      one.failed = row.error
      return
    }
    const factor = seconds / row.seconds
    const isTelling = row.seconds > seconds * TELLING
    one.count = Math.max(20, Math.round(one.count * Math.min(factor, isTelling ? 5 : 20)))
    one.took += seconds - row.seconds
    if (isTelling) return
  }
}

/** A row on each line: readable, and half of what JSON.stringify makes with its indents. */
function list(rows) {
  return rows.length === 0 ? '[]' : `[\n${rows.map((row) => `        ${JSON.stringify(row)}`).join(',\n')}\n      ]`
}

/** The results of the suites that did not run stay, if they are of the same machine. */
function save(results) {
  const here = machine()
  const before = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : { machine: here, suites: {} }
  const kept = before.machine.CPU === here.CPU && before.machine.Node === here.Node ? before.suites : {}
  const all = { ...kept, ...results }
  mkdirSync(out, { recursive: true })
  const texts = Object.keys(suites)
    .filter((name) => all[name] !== undefined)
    .map((name) => {
      const { rows, missing, ...rest } = all[name]
      const facts = JSON.stringify(rest).slice(1, -1)
      return `    "${name}": { ${facts},\n      "missing": ${list(missing)},\n      "rows": ${list(rows)} }`
    })
  writeFileSync(file, `{\n  "machine": ${JSON.stringify(here)},\n  "suites": {\n${texts.join(',\n')}\n  }\n}\n`)
}

/** The first line that a command prints, or why it cannot be run. */
function firstLine(...commands) {
  for (const [command, ...args] of commands) {
    try {
      return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n')[0]
    } catch {
      // the next one
    }
  }
  return 'none'
}

/** What was measured on: for the results. */
function machine() {
  const { version } = JSON.parse(readFileSync(join(bench, '../package.json'), 'utf8'))
  return {
    CPU: `${cpus()[0].model.trim()}, ${cpus().length} logical cores`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: `Linux ${release()}`,
    fdpass: `${version}, commit ${firstLine(['git', '-C', bench, 'describe', '--always', '--dirty'])}`,
    Node: `${process.version}, libuv ${process.versions.uv}, V8 ${process.versions.v8}`,
    C: firstLine(['cc', '--version']),
    Rust: firstLine(['rustc', '--version']),
    Go: firstLine(['go', 'version']),
    Python: firstLine(['python3', '--version'])
  }
}

if (options.help) console.log(USAGE)
else if (options.report) writeReport(out)
else await measure()
