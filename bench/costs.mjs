// `npm run bench:costs -- [--base REVISION] [--only WORKLOADS]`: what a message costs, counted and not timed, so that the load of a machine
// changes nothing: machine instructions by valgrind, those of the native binary among them, system calls by strace, and bytes that JavaScript
// allocates. V8 interprets the code: what it compiles, and when, would differ between two runs.
//
// Each workload runs in one process, twice, with N and with more messages: the difference is without what starting takes. With --base, those of
// another revision of this repository are counted too, with the same Node, and a cost that is more than 3 % higher is an error.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const BYTE = Uint8Array.of(120)
const BATCH = 64
/** By how much a cost may exceed that of the base. */
const TOLERANCE = 1.03
/** The numbers of messages of the two runs that are compared. */
const RUNS = { instructions: [3200, 9600], calls: [6400, 19_200], bytes: [8000, 24_000] }
/** V8 does the same in each run, on one thread, and has room for all that is allocated, so that it collects nothing. */
const STEADY = ['--jitless', '--single-threaded', '--predictable', '--hash-seed=1', '--random-seed=1']
STEADY.push('--min-semi-space-size=512', '--max-semi-space-size=512')
/** The system calls of V8's memory and threads, whose number depends on the moment. */
const UNSTEADY = ['brk', 'futex', 'madvise', 'mmap', 'mprotect', 'munmap', 'sched_yield']

/** The workloads whose messages take longer, with the factor by which they pass fewer. */
const PER = { batch: 32, request: 4, channel: 2 }

/** The workloads: messages of one descriptor, each awaited; the same, iterated; messages of 64; requests over a channel, and messages with a descriptor. */
const workloads = {
  awaited: async ({ socketpair }, count) => {
    const [ours, theirs] = socketpair()
    const fd = openSync('/dev/null')
    for (let i = 0; i < count; i++) {
      const received = theirs.recvFd()
      await ours.sendFd(fd, BYTE)
      ;(await received).fd.closeSync()
    }
  },
  iterated: async ({ socketpair }, count) => {
    const [ours, theirs] = socketpair()
    const fd = openSync('/dev/null')
    const messages = theirs[Symbol.asyncIterator]()
    for (let i = 0; i < count; i += BATCH) {
      const sent = Array.from({ length: BATCH }, () => ours.sendFd(fd, BYTE))
      for (let j = 0; j < BATCH; j++) (await messages.next()).value.close()
      await Promise.all(sent)
    }
  },
  batch: async ({ socketpair }, count) => {
    const [ours, theirs] = socketpair()
    const fd = openSync('/dev/null')
    const fds = Array.from({ length: BATCH }, () => fd)
    for (let i = 0; i < count / PER.batch; i++) {
      const received = theirs.recv({ maxFds: BATCH })
      await ours.send(BYTE, { fds })
      ;(await received).close()
    }
  },
  request: async ({ Channel, socketpair }, count) => {
    const [ours, theirs] = socketpair().map((socket) => new Channel(socket))
    theirs.onRequest(({ value }) => ({ value }))
    for (let i = 0; i < count / PER.request; i++) await ours.request({ n: i })
  },
  channel: async ({ Channel, memfd, socketpair }, count) => {
    const [ours, theirs] = socketpair().map((socket) => new Channel(socket))
    const file = memfd()
    for (let i = 0; i < count / PER.channel; i += BATCH) {
      const sent = Array.from({ length: BATCH }, (_, j) => ours.send({ n: i + j }, [file]))
      for (let j = 0; j < BATCH; j++) (await theirs.receive()).close()
      await Promise.all(sent)
    }
  }
}

const { values } = parseArgs({
  options: {
    base: { type: 'string' },
    only: { type: 'string' },
    help: { type: 'boolean' },
    // For its own processes:
    run: { type: 'string' },
    count: { type: 'string' },
    package: { type: 'string' }
  }
})
const root = fileURLToPath(new URL('..', import.meta.url))

/** Passes messages, and prints the number of bytes that this has allocated. */
async function pass(folder, workload, count) {
  const fdpass = await import(pathToFileURL(join(folder, 'dist/index.js')))
  await workloads[workload](fdpass, 1000)
  const before = process.memoryUsage().heapUsed
  await workloads[workload](fdpass, count)
  console.log(process.memoryUsage().heapUsed - before)
  process.exit()
}

function child(command, folder, workload, count, flags) {
  const args = [...flags, fileURLToPath(import.meta.url), '--run', workload, '--count', `${count}`, '--package', folder]
  const [file, ...rest] = [...command, process.execPath, ...args]
  const { status, error, stdout, stderr } = spawnSync(file, rest, { encoding: 'utf8' })
  if (error !== undefined || status !== 0) throw new Error(`${file}: ${error?.message ?? stderr}`)
  return { stdout, stderr }
}

/** Runs a command that writes its counts into a file, and returns what `read` finds there. */
function counted(command, folder, workload, count, read) {
  const output = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  try {
    const file = join(output, 'counts')
    child(command(file), folder, workload, count, STEADY)
    return read(readFileSync(file, 'utf8'))
  } finally {
    rmSync(output, { recursive: true })
  }
}

/** Sums what callgrind has counted, in all and in our binary. A cost behind `calls=` is that of a called function, which is counted there. */
function instructionsIn(text) {
  const own = new Set()
  let [all, native, isOwn, isCalled] = [0, 0, false, false]
  for (const line of text.split('\n')) {
    const object = /^ob=(\(\d+\))(?: (.*))?$/.exec(line)
    if (object !== null) {
      const [, id, path] = object
      if (path?.endsWith('.node')) own.add(id)
      isOwn = own.has(id)
    } else if (line.startsWith('cob=')) {
      const [, id, path] = /^cob=(\(\d+\))(?: (.*))?$/.exec(line)
      if (path?.endsWith('.node')) own.add(id)
    } else if (line.startsWith('calls=')) isCalled = true
    else if (/^[+*\d-]/.test(line)) {
      const cost = isCalled ? 0 : Number(line.split(' ')[1])
      isCalled = false
      all += cost
      if (isOwn) native += cost
    }
  }
  return { instructions: all, 'of which native': native }
}

/** Each returns numbers of a run, by what they count. */
const counters = {
  instructions: (...run) =>
    counted((file) => ['valgrind', '--tool=callgrind', `--callgrind-out-file=${file}`], ...run, instructionsIn),
  calls: (...run) =>
    counted(
      (file) => ['strace', '-f', '-c', '-qq', '-o', file],
      ...run,
      (text) => {
        const rows = text.split('\n').map((line) => line.trim().split(/\s+/))
        const counts = rows.filter((cells) => /^\d/.test(cells[0]) && !['total', ...UNSTEADY].includes(cells.at(-1)))
        return { 'system calls': counts.reduce((sum, cells) => sum + Number(cells[3]), 0) }
      }
    ),
  bytes: (...run) => ({ bytes: Number(child([], ...run, STEADY).stdout) })
}

/** Returns what a message of a workload costs, by name. */
function costsOf(folder, workload) {
  const costs = Object.entries(counters).flatMap(([counter, count]) => {
    const [few, many] = RUNS[counter]
    const [less, more] = [few, many].map((messages) => count(folder, workload, messages))
    return Object.keys(more).map((name) => [name, ((more[name] - less[name]) / (many - few)) * (PER[workload] ?? 1)])
  })
  return Object.fromEntries(costs)
}

/** Builds a revision in a folder. */
function checkOut(revision, folder) {
  const commands = [
    ['git', 'worktree', 'add', '--detach', folder, revision],
    ['npm', 'run', '--prefix', folder, 'setup']
  ]
  for (const [file, ...args] of commands) {
    const { status } = spawnSync(file, args, { cwd: root, stdio: ['ignore', 2, 2] })
    if (status !== 0) throw new Error(`${file} ${args.join(' ')}: code ${status}`)
  }
}

const round = (value) => Number(value.toPrecision(5))

function compare(base) {
  const names = values.only?.split(',') ?? Object.keys(workloads)
  const rows = {}
  let worse = 0
  for (const workload of names) {
    const [costs, baseCosts] = [root, base].map((folder) => folder && costsOf(folder, workload))
    const isWorse = (name) => costs[name] > (baseCosts?.[name] ?? Infinity) * TOLERANCE
    // The event loop's turns depend on the clock, so a cost that is too high is counted again.
    if (Object.keys(costs).some(isWorse)) {
      const again = [root, base].map((folder) => costsOf(folder, workload))
      for (const name of Object.keys(costs)) {
        costs[name] = Math.min(costs[name], again[0][name])
        baseCosts[name] = Math.max(baseCosts[name], again[1][name])
      }
    }
    for (const [name, here] of Object.entries(costs)) {
      const there = baseCosts?.[name]
      if (isWorse(name)) worse++
      rows[`${workload}: ${name}`] = {
        here: round(here),
        ...(there !== undefined && { base: round(there), ratio: round(here / there) })
      }
    }
  }
  console.table(rows)
  if (worse > 0) throw new Error(`${worse} costs are more than 3 % above those of ${values.base}`)
}

if (values.run !== undefined) await pass(values.package, values.run, Number(values.count))
else if (values.help) console.log('usage: npm run bench:costs -- [--base REVISION] [--only WORKLOAD,…]')
else if (values.base === undefined) compare()
else {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-base-'))
  try {
    checkOut(values.base, folder)
    compare(folder)
  } finally {
    spawnSync('git', ['worktree', 'remove', '--force', folder], { cwd: root, stdio: 'ignore' })
  }
}
