// Connections handed to one worker that answers with 64 bytes and closes: how many a second, and how much CPU the parent alone
// takes for each. In interleaved rounds: C's accept4, sendmsg, close; node:cluster; and fdpass/superserver, in both ways.
//
//   node bench/superserver.mjs [CONNECTIONS] [ROUNDS] [CONCURRENCY]
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'

const [connections = 20_000, rounds = 7, concurrency = 8] = process.argv.slice(2).map(Number)
const folder = join(dirname(fileURLToPath(import.meta.url)), 'superserver')
const built = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
process.on('exit', () => rmSync(built, { recursive: true }))
for (const name of ['parent', 'load']) {
  const { status } = spawnSync('cc', ['-O2', '-o', join(built, name), join(folder, `${name}.c`)], { stdio: 'inherit' })
  if (status !== 0) process.exit(1)
}

const node = (...args) => [process.execPath, ...args.map((arg, index) => (index === 0 ? join(folder, arg) : arg))]
const parents = {
  'C: accept4, sendmsg, close': [join(built, 'parent')],
  'cluster, SCHED_RR': node('cluster.mjs', 'rr'),
  'cluster, SCHED_NONE': node('cluster.mjs', 'none'),
  "fdpass, handoff: 'connection'": node('fdpass.mjs', 'connection'),
  "fdpass, handoff: 'listener'": node('fdpass.mjs', 'listener')
}

async function run([command, ...args]) {
  const parent = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: parent.stdout })[Symbol.asyncIterator]()
  const port = (await lines.next()).value
  const load = (count) => {
    const { stdout } = spawnSync(join(built, 'load'), [port, `${count}`, `${concurrency}`], { encoding: 'utf8' })
    return stdout.split(' ').map(Number)
  }
  load(connections / 4) // warms up
  parent.stdin.write('\n')
  const [seconds, p50, p99, answered] = load(connections)
  parent.stdin.write('\n')
  const cpu = Number((await lines.next()).value)
  parent.kill('SIGKILL')
  if (answered !== connections) console.error(`${command} ${args}: ${answered} of ${connections} answered`)
  return { perSecond: connections / seconds, p50, p99, cpu: (cpu / connections) * 1e6 }
}

const results = Object.fromEntries(Object.keys(parents).map((name) => [name, []]))
for (let round = 1; round <= rounds; round++) {
  for (const [name, command] of Object.entries(parents)) results[name].push(await run(command))
  console.error(`round ${round} of ${rounds}`)
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
const column = (name, key) => median(results[name].map((result) => result[key]))
const [c] = Object.keys(parents)
console.log('| parent | connections/s | min..max | x C | p50 µs | p99 µs | CPU of the parent, µs each | x C |')
console.log('| --- | --: | --: | --: | --: | --: | --: | --: |')
for (const name of Object.keys(parents)) {
  const rates = results[name].map(({ perSecond }) => Math.round(perSecond))
  const [rate, cpu] = [column(name, 'perSecond'), column(name, 'cpu')]
  console.log(
    `| ${name} | ${Math.round(rate)} | ${Math.min(...rates)}..${Math.max(...rates)} | ${(rate / column(c, 'perSecond')).toFixed(2)} | ` +
      `${column(name, 'p50')} | ${column(name, 'p99')} | ${cpu.toFixed(2)} | ${(cpu / column(c, 'cpu')).toFixed(2)} |`
  )
}
