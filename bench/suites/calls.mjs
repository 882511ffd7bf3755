import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { peers } from '../peers.mjs'
import { pinned, run } from '../processes.mjs'
import { column, decimal } from '../table.mjs'
import { acceptors, acceptConnections } from './accept.mjs'
import { perMessage } from './passing.mjs'

const COUNTS = { w1: 10_000, w2: 60_000, 'w3-64': 5000, 'w3-253': 2000, accept: 10_000 }
const NAMES =
  'sendmsg recvmsg sendmmsg recvmmsg close close_range accept4 epoll_wait epoll_pwait epoll_pwait2 epoll_ctl poll ppoll read write writev ioctl ' +
  'fcntl getsockopt setsockopt getsockname getpeername newfstat futex mmap munmap madvise mprotect brk dup shutdown getpid sched_yield'
const EVENTS = ['raw_syscalls:sys_enter', ...NAMES.split(' ').map((name) => `syscalls:sys_enter_${name}`)]

/** By name, the calls of a command: from the kernel's tracepoints, or if perf may not, from strace, which changes what it counts. */
function counterOf(tool, file) {
  if (tool === 'strace') {
    return {
      command: ['strace', '-f', '-c', '-qq', '-o', file],
      read() {
        const lines = readFileSync(file, 'utf8').trim().split('\n').slice(2)
        const counts = lines.map((line) => line.trim().split(/\s+/)).filter(([first]) => /^[\d.]+$/.test(first))
        return Object.fromEntries(counts.map((cells) => [cells.at(-1), Number(cells[3])]))
      }
    }
  }
  return {
    command: ['perf', 'stat', '-x', ',', '-o', file, '-e', EVENTS.join(',')],
    read() {
      const cells = readFileSync(file, 'utf8')
        .split('\n')
        .map((line) => line.split(','))
      return Object.fromEntries(
        cells
          .filter(([number, , event]) => /^\d+$/.test(number) && event !== undefined)
          .map(([number, , event]) => [event.replace(/^.*sys_enter_?/, '') || 'total', Number(number)])
      )
    }
  }
}

async function usableTool() {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  try {
    for (const tool of ['perf', 'strace']) {
      const works = await run([...counterOf(tool, join(folder, 'counts')).command, 'true']).then(
        () => true,
        () => false
      )
      if (works) return tool
    }
    throw new Error('neither perf stat nor strace may count here')
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Runs twice, with N and with 2 N: the difference is without what starting takes. */
async function count(tool, descriptors, runWith) {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  try {
    const counts = []
    for (const times of [1, 2]) {
      const counter = counterOf(tool, join(folder, `${times}`))
      await runWith(counter.command, times)
      counts.push(counter.read())
    }
    const [once, twice] = counts
    const each = Object.entries(twice).map(([name, value]) => [name, (value - (once[name] ?? 0)) / descriptors])
    const named = each.filter(([name]) => name !== 'total')
    const total = Object.fromEntries(each).total ?? named.reduce((sum, [, value]) => sum + value, 0)
    const most = named.filter(([, value]) => value >= total / 200).toSorted(([, a], [, b]) => b - a)
    return {
      tool,
      calls: total,
      byName: Object.fromEntries(most.map(([name, value]) => [name, Number(value.toPrecision(3))]))
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

export default {
  title: 'System calls',
  text: `Of both ends and all their threads, for each round trip of w1, each descriptor of w2 and w3, and each connection that is accepted (of
the accepting process alone); both ends on one CPU. Counted in one run by the kernel's tracepoints (perf stat): what twice as many take more.`,
  baseline: 'c-blocking',
  needs: Object.fromEntries(Object.entries(peers).map(([name, { needs = 'c' }]) => [name, needs])),
  tools: ['c'],
  rounds: 1,
  describe: (peer) => (peers[peer] ?? acceptors[peer]).is,
  workloads: ['w1', 'w2', 'w3-64', 'w3-253', 'accept'],

  columns: (workload) => [
    column(workload.startsWith('w3') ? 'calls a descriptor' : 'calls each', 'calls', decimal(3)),
    ...(workload.startsWith('w3')
      ? [column('a message', 'calls', (calls) => decimal(1)(calls * perMessage(workload)))]
      : []),
    {
      head: 'of which',
      cell: ([{ byName }]) =>
        Object.entries(byName)
          .map(([name, value]) => `${name} ${value}`)
          .join(', ')
    },
    { head: 'counted by', cell: ([{ tool }]) => tool }
  ],

  cases({ cpu, quick }) {
    let tool
    return this.workloads.flatMap((workload) => {
      const n = Math.ceil(COUNTS[workload] / (quick ? 10 : 1))
      const measure = async (runWith, each) => {
        tool ??= usableTool()
        return count(await tool, (n + Math.floor(n / 10)) * each, runWith)
      }
      if (workload === 'accept') {
        return Object.entries(acceptors).map(([peer, { command }]) => ({
          workload,
          peer,
          fixed: n,
          measure: () =>
            measure(
              (counter, times) =>
                acceptConnections(command, n * times, cpu, [...counter, ...(counter[0] === 'perf' ? ['-i'] : [])]),
              1
            )
        }))
      }
      return Object.entries(peers).map(([peer, { command, cannot = {} }]) => ({
        workload,
        peer,
        cannot: cannot[workload.slice(0, 2)],
        fixed: n,
        measure: () =>
          measure(
            (counter, times) => run([...counter, ...pinned([...command, workload, `${n * times}`], cpu)]),
            perMessage(workload)
          )
      }))
    })
  }
}
