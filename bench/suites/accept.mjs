import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bench, built } from '../build.mjs'
import { Conversation, pinned, run } from '../processes.mjs'
import { column, integer, ratio, spread } from '../table.mjs'

const node = (...args) => [process.execPath, join(bench, 'peers/node/accept.mjs'), ...args]

export const acceptors = {
  'c-accept': { is: 'C: accept4, close', command: [built('accept')] },
  'fdpass-iterate-server': { is: '`for await` of a UnixServer', command: node('iterate') },
  'fdpass-accept': { is: 'accept() of a UnixServer, each awaited', command: node('accept') },
  'net-server': { is: 'Node: net.Server', command: node('net') }
}

/** Starts a program that accepts N connections on a Unix domain socket and closes each, and makes them. */
export async function acceptConnections(command, n, cpu, prefix = []) {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  const path = join(folder, 'socket')
  const warmUp = Math.floor(n / 10)
  const server = new Conversation([...prefix, ...pinned([...command, path, `${warmUp}`, `${n}`], cpu)])
  try {
    await server.line()
    const connected = run(pinned([built('clients'), 'connect', path, `${warmUp + n}`], cpu))
    const answer = await server.line()
    await connected
    const [seconds, cpuSeconds] = answer.split(' ').map(Number)
    await server.ended()
    return { seconds, perSecond: n / seconds, cpuSeconds }
  } finally {
    await server.end()
    rmSync(folder, { recursive: true })
  }
}

export default {
  title: 'Accepting connections',
  text: `Connections to a Unix domain socket, which a client in C makes one after the other, and closes at once; each is accepted and
closed.`,
  baseline: 'c-accept',
  needs: {},
  tools: ['c'],
  describe: (peer) => acceptors[peer].is,
  workloads: ['accept@1', 'accept'],

  columns: () => [
    column('connections/s', 'perSecond', integer),
    spread('perSecond'),
    ratio('perSecond', '× C'),
    column('CPU µs each', 'cpuEach')
  ],

  cases({ cpu }) {
    return this.workloads.flatMap((workload) =>
      Object.entries(acceptors).map(([peer, { command }]) => ({
        workload,
        peer,
        start: 2000,
        async measure(n) {
          const { cpuSeconds, ...row } = await acceptConnections(command, n, workload.endsWith('@1') ? cpu : undefined)
          return { ...row, cpuEach: (cpuSeconds / n) * 1e6 }
        }
      }))
    )
  }
}
