import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bench, built } from '../build.mjs'
import { Conversation, cpuOf, pinned, statusOf } from '../processes.mjs'
import { column, decimal, integer, ratio } from '../table.mjs'

const COUNTS = [1, 100, 1000, 10_000]
/** The fewest messages over each socket: in the first ones V8 still compiles. */
const ROUNDS = 20
/** What a process has beside its sockets. */
const OTHERS = 100

const servers = {
  'net-server': 'Node: net.Server and its sockets',
  'fdpass-server': 'a UnixServer and its sockets'
}

/** A command that may open as many files as it is allowed to. */
const unlimited = (command) => ['sh', '-c', 'ulimit -n "$(ulimit -H -n)" && exec "$0" "$@"', ...command]
const hardLimit = () => Number(execFileSync('sh', ['-c', 'ulimit -H -n'], { encoding: 'utf8' })) || Infinity

async function measureSockets(way, count, cpu, messages) {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  const path = join(folder, 'socket')
  const command = [process.execPath, '--expose-gc', join(bench, 'peers/node/crowd.mjs'), way, path, `${count}`]
  const server = new Conversation(unlimited(pinned(command, cpu)))
  let clients
  try {
    const heapBefore = Number(await server.line())
    const rssBefore = statusOf(server.pid, 'VmRSS')
    clients = new Conversation(unlimited(pinned([built('clients'), 'hold', path, `${count}`], cpu)))
    const [heap] = await Promise.all([server.line(), clients.line()])
    const heapEach = (Number(heap) - heapBefore) / count
    const rssEach = ((statusOf(server.pid, 'VmRSS') - rssBefore) * 1024) / count

    await clients.ask(`one ${Math.ceil(messages / 4)}`)
    const before = cpuOf(server.pid)
    const [seconds, p50, p99] = (await clients.ask(`one ${messages}`)).split(' ').map(Number)
    const wakeCpu = ((cpuOf(server.pid) - before) / messages) * 1e6

    const rounds = Math.max(ROUNDS, Math.ceil(messages / count))
    await clients.ask(`all ${Math.ceil(rounds / 4)}`)
    const beforeAll = cpuOf(server.pid)
    const [secondsOfAll] = (await clients.ask(`all ${rounds}`)).split(' ').map(Number)
    const messageCpu = ((cpuOf(server.pid) - beforeAll) / (rounds * count)) * 1e6
    return {
      seconds: seconds + secondsOfAll,
      wake: (seconds / messages) * 1e6,
      wakeCpu,
      p50,
      p99,
      message: (secondsOfAll / (rounds * count)) * 1e6,
      messageCpu,
      heapEach,
      nativeEach: rssEach - heapEach
    }
  } finally {
    await server.end()
    await clients?.end()
    rmSync(folder, { recursive: true })
  }
}

export default {
  title: 'Many sockets',
  text: `A server with so many connections, each of which waits for a byte and answers it; the clients are in another process, in C. A round
trip over one of them while all others are idle, and of how much of the server's CPU; then all are busy: a byte over each, and its answer.
Memory of the server for each connection: what V8 counts, and what the process has grown by beside that. Both on one CPU.`,
  baseline: 'net-server',
  needs: {},
  tools: ['c'],
  describe: (peer) => servers[peer],
  workloads: COUNTS.map((count) => `${count} sockets@1`),

  columns: () => [
    column('round trip over one, µs', 'wake'),
    ratio('wake', '× net'),
    column('p99 µs', 'p99'),
    column("server's CPU µs", 'wakeCpu'),
    column('a message of all, µs', 'message'),
    ratio('message', '× net'),
    column("server's CPU µs", 'messageCpu'),
    column('heap each, bytes', 'heapEach', integer),
    column('other memory each, kB', 'nativeEach', (bytes) => decimal(1)(bytes / 1024))
  ],

  cases({ cpu, quick }) {
    return COUNTS.filter((count) => !quick || count <= 100).flatMap((count) =>
      Object.keys(servers).map((peer) => ({
        workload: `${count} sockets@1`,
        peer,
        cannot: count + OTHERS > hardLimit() ? `the hard limit of descriptors is ${hardLimit()}` : undefined,
        fixed: quick ? 200 : 20_000,
        measure: (n) => measureSockets(peer, count, cpu, n)
      }))
    )
  }
}
