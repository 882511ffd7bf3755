import { join } from 'node:path'
import { VERSIONS, bench, built } from '../build.mjs'
import { peers, superservers } from '../peers.mjs'
import { Conversation, childrenOf, cpuOf, openDescriptorsOf, pinned, run, runForJson, statusOf } from '../processes.mjs'
import { column, integer, lost, memory, ratio, spread } from '../table.mjs'

const BATCHES = { 'w3-64': 64, 'w3-253': 253 }
/** Messages, round trips or connections of the first, short run. */
const START = { w1: 2000, w2: 10_000, 'w3-64': 500, 'w3-253': 200, w4: 500 }
const CONCURRENCY = 8

/** How many descriptors a message of a workload has. */
export const perMessage = (workload) => BATCHES[workload.replace('@1', '')] ?? 1

/** Runs a peer that passes N messages. */
export async function measurePassing(command, workload, n, cpu) {
  const result = await runForJson(pinned([...command, workload, `${n}`], cpu))
  const { sent, received, seconds, ...rest } = result
  const descriptors = n * perMessage(workload) - (sent - received)
  return {
    ...rest,
    seconds,
    lost: sent - received,
    perSecond: descriptors / seconds,
    cpuEach: (result.cpu / (n * perMessage(workload))) * 1e6
  }
}

/** Has a peer hand N connections to its worker: what it costs is looked at from outside. */
async function measureConnections(command, n, workload = 'w4') {
  const parent = new Conversation([...command, workload, '0'])
  try {
    const port = await parent.line()
    const load = async (count) => {
      const output = await run([
        built('clients'),
        'load',
        port,
        `${count}`,
        `${workload === 'w4' ? CONCURRENCY : CONCURRENCY * 8}`
      ])
      const [seconds, p50, p99, answered] = output.split(' ').map(Number)
      return { seconds, p50, p99, lost: count - answered }
    }
    const workers = childrenOf(parent.pid)
    const [worker] = workers
    const firstRss = statusOf(worker, 'VmRSS')
    const warmUp = await load(Math.ceil(n / 10))
    const pids = [parent.pid, ...workers]
    const before = pids.map(cpuOf)
    const result = await load(n)
    const [parentCpu, ...workerCpus] = pids.map((pid, index) => cpuOf(pid) - before[index])
    const workerCpu = workerCpus.reduce((sum, cpu) => sum + cpu, 0)
    return {
      ...result,
      lost: result.lost + warmUp.lost,
      perSecond: n / result.seconds,
      cpuEach: ((parentCpu + workerCpu) / n) * 1e6,
      parentCpuEach: (parentCpu / n) * 1e6,
      workerCpuEach: (workerCpu / n) * 1e6,
      firstRss,
      peakRss: statusOf(worker, 'VmHWM'),
      open: openDescriptorsOf(worker)
    }
  } finally {
    await parent.end()
  }
}

export default {
  title: 'Passing descriptors',
  text: `A loopback listener is sent, again and again, with one byte a message, over a Unix domain stream between two processes.
w1: a round trip of one descriptor each way, both ends close what they receive. w2: one descriptor a message, one way. w3-64, w3-253: so
many a message. w4: TCP connections, at most ${CONCURRENCY} at a time, each accepted by one process and passed to another one, which answers
with 64 bytes and closes it. With @1 both ends are on one CPU, which measures the cost of an operation; without it the scheduler is
free, and round trips depend on whether it wakes an idle CPU. CPU is of both ends; memory and open descriptors are the receiver's.`,
  baseline: 'c-blocking',
  needs: Object.fromEntries(Object.entries(peers).map(([name, { needs = 'c' }]) => [name, needs])),
  tools: ['c'],
  describe: (peer) => peers[peer].is,
  workloads: ['w1@1', 'w1', 'w2@1', 'w2', 'w3-64@1', 'w3-64', 'w3-253@1', 'w3-253', 'w4'],

  columns(workload) {
    const unit = workload.startsWith('w1') ? 'round trips' : workload === 'w4' ? 'connections' : 'descriptors'
    const latency =
      workload.startsWith('w1') || workload === 'w4' ? [column('p50 µs', 'p50'), column('p99 µs', 'p99')] : []
    return [
      column(`${unit}/s`, 'perSecond', integer),
      spread('perSecond'),
      ratio('perSecond', '× C'),
      ...latency,
      column('CPU µs each', 'cpuEach'),
      ratio('cpuEach', '× C'),
      ...memory,
      lost
    ]
  },

  cases({ cpu }) {
    return this.workloads.flatMap((workload) => {
      const [kind, isPinned] = [workload.replace('@1', ''), workload.endsWith('@1')]
      return Object.entries(peers).map(([peer, { command, cannot = {} }]) => ({
        workload,
        peer,
        cannot: cannot[kind.slice(0, 2)],
        start: START[kind],
        measure: (n) =>
          kind === 'w4' ? measureConnections(command, n) : measurePassing(command, kind, n, isPinned ? cpu : undefined)
      }))
    })
  }
}

const versioned = Object.fromEntries(
  VERSIONS.flatMap((version) => {
    const node = join(bench, `../node_modules/.fdpass/runtimes/node-${version}/node_modules/.bin/node`)
    const command = [node, join(bench, 'peers/node/fdpass.mjs')]
    return [
      [`fdpass-node-${version}`, { is: `Node ${version}: each call awaited`, command: [...command, 'await'] }],
      [
        `fdpass-iterate-node-${version}`,
        { is: `Node ${version}: 64 sends at a time, \`for await\``, command: [...command, 'iterate'], cannot: ['w1@1'] }
      ]
    ]
  })
)

/** The same on each version of Node. */
export const versions = {
  title: 'Versions of Node',
  text: 'w1, w2 and w3 on one CPU, with both processes on one version of Node. The other tables are of the version that ran the benchmark.',
  baseline: 'c-blocking',
  needs: Object.fromEntries(Object.keys(versioned).map((peer) => [peer, 'nodes'])),
  tools: ['c'],
  describe: (peer) => versioned[peer]?.is ?? peers[peer].is,
  workloads: ['w1@1', 'w2@1', 'w3-64@1', 'w3-253@1'],

  columns: (workload) => [
    column(workload === 'w1@1' ? 'round trips/s' : 'descriptors/s', 'perSecond', integer),
    spread('perSecond'),
    ratio('perSecond', '× C'),
    column('CPU µs each', 'cpuEach'),
    ratio('cpuEach', '× C'),
    lost
  ],

  cases({ cpu }) {
    const compared = { 'c-blocking': peers['c-blocking'], ...versioned }
    return this.workloads.flatMap((workload) => {
      const kind = workload.replace('@1', '')
      return Object.entries(compared).map(([peer, { command, cannot }]) => ({
        workload,
        peer,
        cannot: Array.isArray(cannot) && cannot.includes(workload) ? 'the same as awaited' : undefined,
        start: START[kind],
        measure: (n) => measurePassing(command, kind, n, cpu)
      }))
    })
  }
}

/** w4 with what is made for handing connections to a worker. */
export const superserver = {
  title: 'A superserver',
  text: `w4 with what is made for it: connections handed to one worker, which answers with 64 bytes and closes. The CPU of the parent
alone is what a superserver costs beside its workers; fdpass/superserver also waits for the worker's acknowledgement, so that none is
lost with a worker that dies.`,
  baseline: 'c-blocking',
  needs: {},
  tools: ['c'],
  describe: (peer) => superservers[peer].is,
  workloads: ['w4'],

  columns: () => [
    column('connections/s', 'perSecond', integer),
    spread('perSecond'),
    ratio('perSecond', '× C'),
    column('p50 µs', 'p50'),
    column('p99 µs', 'p99'),
    column("parent's CPU µs each", 'parentCpuEach'),
    ratio('parentCpuEach', '× C'),
    column("worker's CPU µs each", 'workerCpuEach'),
    lost
  ],

  cases: () =>
    Object.entries(superservers).map(([peer, { command, cannot = {} }]) => ({
      workload: 'w4',
      peer,
      cannot: cannot.w4,
      start: 500,
      measure: (n) => measureConnections(command, n)
    }))
}

/** w5: connections handed to two workers. */
export const workers = {
  title: 'Two workers',
  text: `w5 is w4 with two workers, and at most ${CONCURRENCY * 8} connections at a time. CPU is of the parent and both workers.`,
  baseline: 'cluster-none',
  needs: {},
  tools: ['c'],
  describe: (peer) => superservers[peer].is,
  workloads: ['w5'],

  columns: () => [
    column('connections/s', 'perSecond', integer),
    spread('perSecond'),
    ratio('perSecond', '× SCHED_NONE'),
    column('p50 µs', 'p50'),
    column('p99 µs', 'p99'),
    column('CPU µs each', 'cpuEach'),
    ratio('cpuEach', '× SCHED_NONE'),
    lost
  ],

  cases: () =>
    Object.entries(superservers).flatMap(([peer, { command, cannot = {} }]) =>
      peer === 'c-blocking'
        ? []
        : [
            {
              workload: 'w5',
              peer,
              cannot: cannot.w5,
              start: 500,
              measure: (n) => measureConnections(command, n, 'w5')
            }
          ]
    )
}
