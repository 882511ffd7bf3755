// `npm run test:teardown -- [--workers 1000] [--seconds N] [--seed S] [--backend uv|thread] [RUNTIME…]`: ends Workers and processes at random
// moments of their I/O, in every way (__test__/fixtures/teardown.ts), on each version of Node (installed from npm) and each back end. They may
// leave no descriptor, file or process behind, and print nothing. The last line counts the processes: `N passed, N failed`.
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { installRuntime } from './install.mjs'
import { root } from '../run.mjs'

/** The number of Workers in one process. A seed repeats them. */
const BATCH = 100
const known = ['node@20', 'node@22', 'node@24', 'node@26']

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    workers: { type: 'string', default: '1000' },
    seed: { type: 'string' },
    backend: { type: 'string' },
    seconds: { type: 'string' }
  }
})
const workers = Number(values.workers)
const seed = Number(values.seed ?? Math.trunc(Math.random() * 2 ** 30))
if (
  !(workers > 0) ||
  !Number.isSafeInteger(seed) ||
  positionals.some((name) => name !== 'node' && !known.includes(name))
) {
  console.error(
    `Usage: npm run test:teardown -- [--workers N] [--seconds N] [--seed S] [--backend uv|thread] [node|${known.join('|')}]…`
  )
  process.exit(2)
}
if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)
const { endProcess, endWorkers, exitWithWorkers } = await import('../../build/__test__/helpers/teardown.js')

console.log(`# seed ${seed}`)
let passed = 0
let failed = 0
let ended = 0
async function attempt(name, task) {
  try {
    await task()
    passed++
  } catch (error) {
    failed++
    console.log(`not ok ${name}: ${error.message}`)
  }
}

/** Each version of Node with each back end, and how often Workers ended in each way. */
const runtimes = (positionals.length > 0 ? positionals : known).flatMap((name) => {
  const node = name === 'node' ? process.execPath : installRuntime(name, 'node')
  const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim()
  return (values.backend === undefined ? ['uv', 'thread'] : [values.backend]).map((backend) => {
    return { node, backend, what: `${version}, back end ${backend}`, workers: 0, how: {} }
  })
})
const until = performance.now() + (values.seconds === undefined ? Infinity : Number(values.seconds) * 1000)
// The runtimes take turns, so that a run that ends early has covered a part of each.
for (let i = 0; i * BATCH < workers && performance.now() < until; i++) {
  for (const runtime of runtimes) {
    if (performance.now() > until) break
    const { what, how } = runtime
    const count = Math.min(BATCH, workers - i * BATCH)
    await attempt(`${what}: ${count} Workers, --workers ${count} --seed ${seed + i}`, async () => {
      const { workers: _, seed: __, ...ways } = await endWorkers(count, seed + i, runtime)
      for (const [way, times] of Object.entries(ways)) how[way] = (how[way] ?? 0) + times
    })
    runtime.workers += count
    ended += count
    for (const one of [seed + 2 * i, seed + 2 * i + 1]) {
      await attempt(`${what}: process.exit() with Workers, seed ${one}`, () => exitWithWorkers(one, runtime))
      for (const way of ['exit', 'throw', 'throw-in-io', 'reject', 'end']) {
        await attempt(`${what}: a process that ends by ${way}, seed ${one}`, () => endProcess(way, one, runtime))
      }
    }
  }
}
for (const { what, workers: count, how } of runtimes) console.log(`# ${what}: ${count} Workers, ${JSON.stringify(how)}`)
console.log(`summary: workers=${ended} processes=${passed + failed} seed=${seed}`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
