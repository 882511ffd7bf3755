// `npm run test:teardown -- [--workers 1000] [--seed S] [--backend uv|thread] [RUNTIME…]`: Workers that are created, and ended at random moments of
// their I/O in every way, on each Node (installed from npm by name) and each back end; and processes that end so (__test__/fixtures/teardown.ts).
// Nothing may be left of them, and nothing be said. Prints `N passed, N failed`, a test being one process.
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { installRuntime } from './install.mjs'
import { root } from './run.mjs'

/** So many Workers are one process's, which a seed repeats. */
const BATCH = 100
const known = ['node@20', 'node@22', 'node@24', 'node@26']

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { workers: { type: 'string', default: '1000' }, seed: { type: 'string' }, backend: { type: 'string' } }
})
const workers = Number(values.workers)
const seed = Number(values.seed ?? Math.trunc(Math.random() * 2 ** 30))
if (
  !(workers > 0) ||
  !Number.isSafeInteger(seed) ||
  positionals.some((name) => name !== 'node' && !known.includes(name))
) {
  console.error(
    `Usage: npm run test:teardown -- [--workers N] [--seed S] [--backend uv|thread] [node|${known.join('|')}]…`
  )
  process.exit(2)
}

const { endProcess, endWorkers, exitWithWorkers } = await import('../build/__test__/helpers/teardown.js')

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

for (const name of positionals.length > 0 ? positionals : known) {
  const node = name === 'node' ? process.execPath : installRuntime(name, 'node')
  const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim()
  for (const backend of values.backend === undefined ? ['uv', 'thread'] : [values.backend]) {
    const runtime = { node, backend }
    const [before, started] = [{ passed, failed }, performance.now()]
    const how = {}
    let here = 0
    for (let i = 0; here < workers; i++) {
      const count = Math.min(BATCH, workers - here)
      here += count
      await attempt(`${version} ${backend}, ${count} Workers, --seed ${seed + i}`, async () => {
        const { workers: _, seed: __, ...ways } = await endWorkers(count, seed + i, runtime)
        for (const [way, times] of Object.entries(ways)) how[way] = (how[way] ?? 0) + times
      })
    }
    ended += here
    for (let i = 0; i < Math.ceil(workers / 50); i++) {
      await attempt(`${version} ${backend}, process.exit() with Workers, seed ${seed + i}`, () =>
        exitWithWorkers(seed + i, runtime)
      )
      for (const way of ['exit', 'throw', 'throw-in-io', 'reject', 'end']) {
        await attempt(`${version} ${backend}, a process that ends by ${way}, seed ${seed + i}`, () =>
          endProcess(way, seed + i, runtime)
        )
      }
    }
    const seconds = Math.round((performance.now() - started) / 1000)
    console.log(
      `# ${version}, back end ${backend}: ${here} Workers (${JSON.stringify(how)}), ${passed - before.passed} processes passed, ${failed - before.failed} failed, ${seconds} s`
    )
  }
}
console.log(`summary: workers=${ended} processes=${passed + failed} seed=${seed}`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
