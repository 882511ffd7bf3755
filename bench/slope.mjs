// `npm run bench:slope`: passes descriptors through one process, and says whether anything grows with them.
//
//   node --expose-gc bench/slope.mjs [DESCRIPTORS] [--snapshots FOLDER]
//
// 10,000,000 unless given: a third each with recvFd, with `for await` behind 64 sends at a time, and in messages of 64. It prints a line for each million (or tenth, if fewer), and the slopes of the second half. With --snapshots
// two heap snapshots are written, in the middle and in the end, and what has become more is printed by constructor.
import { once } from 'node:events'
import { mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { writeHeapSnapshot } from 'node:v8'
import { socketpair } from 'fdpass'
import { median, slope, decimal, integer } from './table.mjs'

const BYTE = Uint8Array.of(120)
const WINDOW = 64
/** Bytes for a million descriptors that are no slope: one object of 16 bytes that stays for each would be 16,000,000. */
const HEAP_LIMIT = 1_000_000
const RSS_LIMIT = 4_000_000 // the allocator's pages come and go
/** Below so many in the second half, what the engine compiles and keeps hides everything else. */
const ENOUGH = 1_000_000

const { values, positionals } = parseArgs({ allowPositionals: true, options: { snapshots: { type: 'string' } } })
const total = Number(positionals[0] ?? 10_000_000)
const steps = Math.max(10, Math.round(total / 1_000_000))
const perStep = Math.ceil(total / steps / 3 / WINDOW) * WINDOW * 3
if (typeof gc !== 'function') throw new Error('It needs node --expose-gc')
if (values.snapshots !== undefined) mkdirSync(values.snapshots, { recursive: true })

const [ours, theirs] = socketpair()
const listener = createServer().listen(0, '127.0.0.1')
await once(listener, 'listening')
const { fd } = listener._handle
const fds = Array.from({ length: WINDOW }, () => fd)
let lost = 0

async function passEach(count) {
  for (let i = 0; i < count; i++) {
    await ours.sendFd(fd, BYTE)
    const received = await theirs.recvFd()
    if (received.fd === null) lost++
    else received.fd.closeSync()
  }
}

async function passIterated(count) {
  const send = async () => {
    for (let i = 1; i <= count; i++) {
      const sent = ours.sendFd(fd, BYTE)
      if (i % WINDOW === 0) await sent
    }
  }
  await Promise.all([send(), take(count, 1)])
}

async function passBatches(count) {
  const send = async () => {
    for (let i = 0; i < count; i += WINDOW) await ours.send(BYTE, { fds })
  }
  await Promise.all([send(), take(count / WINDOW, WINDOW)])
}

/** Takes so many messages, which are to have so many descriptors each. */
async function take(messages, each) {
  let left = messages
  for await (const message of theirs) {
    lost += each - message.fds.length
    message.close()
    left--
    if (left === 0) break
  }
}

async function memory() {
  await delay(100) // finalizers, and what the package does some milliseconds later
  gc()
  await delay(20)
  gc()
  const [, rss] = /VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))
  return {
    heap: process.memoryUsage().heapUsed,
    rss: Number(rss) * 1024,
    open: readdirSync('/proc/self/fd').length - 1
  }
}

/** Of a heap snapshot, by constructor, how many objects there are and their bytes. */
function byConstructor(file) {
  const { snapshot, nodes, strings } = JSON.parse(readFileSync(file, 'utf8'))
  const { node_fields: fields, node_types: types } = snapshot.meta
  const [type, name, size] = ['type', 'name', 'self_size'].map((field) => fields.indexOf(field))
  const sums = new Map()
  for (let at = 0; at < nodes.length; at += fields.length) {
    const kind = types[type][nodes[at + type]]
    const key = kind === 'object' || kind === 'native' ? strings[nodes[at + name]] : `(${kind})`
    const sum = sums.get(key) ?? { count: 0, bytes: 0 }
    sums.set(key, { count: sum.count + 1, bytes: sum.bytes + nodes[at + size] })
  }
  return sums
}

function printDifference(before, after) {
  const none = { count: 0, bytes: 0 }
  const rows = [...after]
    .map(([key, { count, bytes }]) => {
      const old = before.get(key) ?? none
      return { key, count: count - old.count, bytes: bytes - old.bytes }
    })
    .filter(({ count }) => count > 0)
    .toSorted((a, b) => b.bytes - a.bytes)
  console.log('\nmore than in the middle, by constructor:')
  for (const { key, count, bytes } of rows.slice(0, 15)) {
    console.log(`${integer(count).padStart(10)} objects ${integer(bytes).padStart(12)} bytes  ${key}`)
  }
}

const seen = []
const files = []
console.log('descriptors  seconds    RSS MB   heap MB  open')
for (let step = 1; step <= steps; step++) {
  const begun = performance.now()
  for (const pass of [passEach, passIterated, passBatches]) await pass(perStep / 3)
  const seconds = (performance.now() - begun) / 1e3
  const now = await memory()
  seen.push(now)
  const cells = [
    integer(step * perStep).padStart(11),
    decimal(2)(seconds).padStart(8),
    decimal(2)(now.rss / 2 ** 20).padStart(9),
    decimal(3)(now.heap / 2 ** 20).padStart(9),
    `${now.open}`.padStart(5)
  ]
  console.log(cells.join(' '))
  if (values.snapshots !== undefined && (step === Math.floor(steps / 2) || step === steps)) {
    files.push(writeHeapSnapshot(join(values.snapshots, `fdpass-${step}.heapsnapshot`)))
  }
}
ours.close()
theirs.close()
listener.close()

const half = seen.slice(Math.floor(steps / 2) - 1)
const perMillion = (value) => (value / perStep) * 1e6
/** The line through the second half, and what most of its steps add: a leak adds in each, a larger young generation in one. */
const growth = (key) => {
  const series = half.map((one) => one[key])
  const added = series.slice(1).map((value, index) => value - series[index])
  return { line: perMillion(slope(series)), most: perMillion(median(added)) }
}
const [heap, rss] = ['heap', 'rss'].map(growth)
if (files.length === 2) printDifference(...files.map(byConstructor))
const grows = [
  ...(heap.most > HEAP_LIMIT ? ['the heap grows'] : []),
  ...(rss.most > RSS_LIMIT ? ['the process grows'] : []),
  ...(half.at(-1).open > half[0].open ? ['descriptors stay open'] : []),
  ...(lost > 0 ? ['descriptors were lost'] : [])
]
console.log('\nsecond half, for a million descriptors:')
for (const [name, { line, most }] of Object.entries({ heap, RSS: rss })) {
  console.log(`${name}: ${integer(line)} bytes by the line through it, ${integer(most)} in the median step`)
}
console.log(`open descriptors: ${half.at(-1).open - half[0].open} more; lost: ${lost}`)
const isTelling = perStep * half.length >= ENOUGH
console.log(
  grows.length === 0
    ? 'no slope'
    : `${isTelling ? 'a slope' : 'too few to tell a slope from the start'}: ${grows.join(', ')}`
)
process.exitCode = lost > 0 || (isTelling && grows.length > 0) ? 1 : 0
