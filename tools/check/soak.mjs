// `npm run test:soak -- [--minutes 20] [--seed S] [PART…]`: runs a superserver, unmodified programs of npm under another one, channels, a
// broker, a store and servers that take over (__test__/soak) at once, under kills, reloads, full descriptor tables, limits and hostile peers.
// Clients count their answers. The memory and descriptors of the long-lived processes have to be constant at the end. It prints the counters
// each minute, and `N passed, N failed`.
import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'
import { folderOf, prepare } from './server-programs.mjs'

/** The parts: each is a long-lived process. Some have a limit of descriptors that they reach. */
const parts = {
  superserver: { limit: 200 },
  programs: {},
  channels: { limit: 400 },
  broker: { limit: 400 },
  store: {},
  takeover: {}
}

/** How much a process may grow in the second half of the time. Allocators take memory in large pieces, and return it late. */
const GROWTH = { rss: 8 * 1024, heap: 2 * 1024 } // KiB

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { minutes: { type: 'string', default: '20' }, seed: { type: 'string' } }
})
const minutes = Number(values.minutes)
const seed = Number(values.seed ?? Math.trunc(Math.random() * 2 ** 31))
let chosen = positionals.length > 0 ? positionals : Object.keys(parts)
if (!(minutes > 0) || !Number.isSafeInteger(seed) || chosen.some((name) => !Object.hasOwn(parts, name))) {
  console.error(`Usage: npm run test:soak -- [--minutes N] [--seed S] [${Object.keys(parts).join('|')}]…`)
  process.exit(2)
}
if (process.platform !== 'linux') {
  console.log('summary: reason="needs Linux"\n0 passed, 0 failed')
  process.exit(0)
}
if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)

if (chosen.includes('programs')) {
  try {
    for (const name of ['express', 'ws']) prepare('small', name)
  } catch {
    console.log('# not run: programs: npm cannot install them')
    chosen = chosen.filter((name) => name !== 'programs')
  }
}

/** Starts a part, and collects its reports. */
function start(name, place) {
  const node = [
    process.execPath,
    '--expose-gc',
    '--max-semi-space-size=2', // V8's young generation would grow for minutes, by more than a leak does
    '--trace-warnings',
    join(root, 'build', '__test__', 'soak', `${name}.js`),
    `${seed + place}`,
    ...(name === 'programs' ? [folderOf('small')] : [])
  ]
  const { limit = '' } = parts[name]
  const child = spawn('sh', ['-c', '[ -z "$0" ] || ulimit -n "$0"; exec "$@"', `${limit}`, ...node], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc']
  })
  const part = { name, child, samples: [], counts: {}, problems: [], baseline: undefined, end: undefined }
  child.on('message', (message) => {
    for (const problem of message.problems?.slice(part.problems.length) ?? []) console.log(`# ${name}: ${problem}`)
    Object.assign(part, { counts: message.counts ?? part.counts, problems: message.problems ?? part.problems })
    if (message.kind === 'baseline') part.baseline = message.state
    else if (message.kind === 'end') part.end = message.state
    else part.samples.push({ at: performance.now(), ...message.state })
  })
  part.ready = new Promise((resolve) => {
    child.on('message', resolve)
    child.on('exit', resolve)
  })
  part.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)))
  return part
}

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length

/** Returns how much a value changes per minute: the slope of a least-squares line. */
function slope(samples, what) {
  const [at, of] = [mean(samples.map((sample) => sample.at)), mean(samples.map((sample) => sample[what]))]
  const spread = samples.reduce((sum, sample) => sum + (sample.at - at) ** 2, 0)
  return (samples.reduce((sum, sample) => sum + (sample.at - at) * (sample[what] - of), 0) / spread) * 60_000
}

/** Returns the sums of the counters of all parts. */
function total() {
  const all = {}
  for (const { counts } of running)
    for (const [what, count] of Object.entries(counts)) all[what] = (all[what] ?? 0) + count
  return all
}

const shown = [
  'transfers',
  'connections',
  'requests',
  'opens',
  'calls',
  'answered',
  'lost and reported',
  'kills',
  'take-overs',
  'reloads',
  'hostile peers',
  'hostile clients',
  'hostile workers',
  'problems'
]
const line = (counts) => shown.map((what) => `${counts[what] ?? 0} ${what}`).join(', ')

console.log(`# seed ${seed}, ${minutes} minutes: ${chosen.join(', ')}`)
const running = chosen.map(start)
await Promise.all(running.map(({ ready }) => ready))
const started = performance.now()
const progress = setInterval(() => {
  console.log(`# ${Math.round((performance.now() - started) / 60_000)} min: ${line(total())}`)
  console.log(
    `#   RSS in MiB: ${running.map(({ name, samples }) => `${name} ${(samples.at(-1)?.rss ?? 0) >> 10}`).join(', ')}`
  )
}, 60_000)
await Promise.race([
  new Promise((resolve) => setTimeout(resolve, minutes * 60_000)),
  // A part that has exited has crashed.
  ...running.map(({ ended }) => ended)
])
clearInterval(progress)
for (const { child } of running) if (child.connected) child.send('stop')
const patience = setTimeout(() => running.forEach(({ child }) => child.kill('SIGKILL')), 150_000)
const endings = await Promise.all(running.map(({ ended }) => ended))
clearTimeout(patience)

let passed = 0
let failed = 0
const rows = []
running.forEach((part, index) => {
  const { name, samples, baseline, end, problems, counts } = part
  const why = [...problems]
  if (endings[index] !== 0 || end === undefined) why.push(`${name} ended with ${endings[index]}`)
  const half = samples.slice(Math.floor(samples.length / 2))
  const row = { part: name }
  if (baseline !== undefined && end !== undefined) {
    row.descriptors = `${baseline.fds} → ${end.fds}`
    row.threads = `${baseline.threads} → ${end.threads}`
    row['RSS, MiB'] = `${baseline.rss >> 10} → ${end.rss >> 10}`
  }
  for (const what of ['rss', 'heap']) {
    if (half.length < 6) continue
    const grown = slope(half, what)
    row[`${what}, KiB/min`] = Math.round(grown)
    const all = (grown * (half.at(-1).at - half[0].at)) / 60_000
    if (all > GROWTH[what])
      why.push(`${what} has grown by ${Math.round(all)} KiB in the second half, ${Math.round(grown)} KiB/min`)
  }
  row.problems = why.length
  rows.push(row)
  if (why.length === 0) passed++
  else failed++
  console.log(`${why.length === 0 ? 'ok' : 'not ok'} ${name}: ${JSON.stringify(counts)}`)
  for (const problem of why) console.log(`  ${problem.replaceAll('\n', '\n  ')}`)
})
console.table(rows)
const counts = total()
console.log(
  `# reported errors: ${JSON.stringify(Object.fromEntries(Object.entries(counts).filter(([what]) => what.includes(': '))))}`
)
console.log(
  `summary: minutes=${minutes} seed=${seed} ${shown.map((what) => `${what.replaceAll(' ', '-')}=${counts[what] ?? 0}`).join(' ')}`
)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
