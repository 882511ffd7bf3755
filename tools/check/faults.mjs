// `npm run test:faults -- [--seconds N] [--seed S] [--skip N] [--scenario X] [--call C] [--error E] [--nth N] [--times N] [--backend B] [--verbose]`:
// fails one system call of fdpass in each run of a scenario, on both back ends, and checks the outcome. `--skip` leaves out the first faults of
// each scenario, which an earlier run with the same seed has tried. The last line counts the runs: `N passed, N failed`.
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    seed: { type: 'string' },
    scenario: { type: 'string' },
    call: { type: 'string' },
    error: { type: 'string' },
    nth: { type: 'string' },
    times: { type: 'string' },
    backend: { type: 'string' },
    skip: { type: 'string', default: '0' },
    verbose: { type: 'boolean', default: false }
  }
})

if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)
process.chdir(root)
const { Runner, canInject, describe, measure, plan, scenarios, tryFault } =
  await import('../../build/__test__/faults/driver.js')
if (!canInject()) {
  console.log('# fault injection needs a C compiler and glibc')
  console.log('0 passed, 1 failed')
  process.exit(1)
}

const seed = Number(values.seed ?? Math.trunc(Math.random() * 2 ** 31))
const chosen = values.scenario === undefined ? scenarios : values.scenario.split(',')
const backends = values.backend === undefined ? ['uv', 'thread'] : [values.backend]
const until = performance.now() + Number(values.seconds) * 1000
console.log(`# seed ${seed}`)

const rows = []
const failures = []
const queues = []
for (const backend of backends) {
  for (const scenario of chosen) {
    const runner = new Runner(scenario, backend)
    const baseline = await measure(scenario, runner)
    const faults = plan(baseline, seed, values.call)
      .filter(({ error }) => values.error === undefined || error === values.error)
      .filter(({ nth }) => values.nth === undefined || nth === Number(values.nth))
      .filter(({ times }) => values.times === undefined || times === Number(values.times))
    // They are taken from the end.
    faults.splice(Math.max(0, faults.length - Number(values.skip)))
    const row = { backend, scenario, all: faults.length, run: 0, 'not reached': 0, retried: 0, reported: 0, failed: 0 }
    rows.push(row)
    queues.push({ runner, backend, baseline, faults, row })
  }
}
// The scenarios take turns, so that a run that ends early has covered a part of each.
for (let left = true; left && performance.now() < until;) {
  left = false
  for (const { runner, backend, baseline, faults, row } of queues) {
    const fault = faults.pop()
    if (fault === undefined) continue
    left = true
    const { verdict, outcome, isRepeated } = await tryFault(runner, baseline, fault)
    if (isRepeated && verdict.kind !== 'failed') console.log(`# only with more time: ${backend} ${describe(fault)}`)
    row.run++
    row[verdict.kind]++
    if (verdict.kind === 'failed') {
      failures.push(verdict)
      console.log(`not ok ${backend} ${describe(fault)} (${outcome.place}): ${verdict.why}`)
    } else if (values.verbose) {
      console.log(`ok ${backend} ${describe(fault)} (${outcome.place}): ${verdict.kind}`)
      if (verdict.kind === 'reported')
        for (const { step, error } of outcome.report.steps)
          if (error) console.log(`   ${step}: ${error.text} ${error.syscall}`)
    }
    if (performance.now() > until) break
  }
}

for (const { runner } of queues) runner.close()
console.table(rows)
const total = (kind) => rows.reduce((sum, row) => sum + row[kind], 0)
console.log(
  `${total('run')} of ${total('all')} faults: ${total('retried')} retried, ${total('reported')} reported, ${total('not reached')} not reached`
)
console.log(`${total('run') - failures.length} passed, ${failures.length} failed`)
process.exit(failures.length === 0 && total('run') > 0 ? 0 : 1)
