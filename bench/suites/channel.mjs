import { join } from 'node:path'
import { bench } from '../build.mjs'
import { pinned, runForJson } from '../processes.mjs'
import { column, integer, lost, ratio, spread } from '../table.mjs'

const node = (way) => [process.execPath, join(bench, 'peers/node/channel.mjs'), way]

export const transports = {
  ipc: { is: 'Node: child_process, process.send', command: node('ipc') },
  net: {
    is: 'Node: net.Socket, JSON behind its length',
    command: node('net'),
    cannot: { descriptors: 'it passes none' }
  },
  channel: { is: 'fdpass, a Channel', command: node('channel') }
}

export default {
  title: 'Messages',
  text: `Small objects between two Node processes: one way, of every 64 the last one's sending awaited, without a descriptor (messages) and
with one, which the receiver closes (descriptors); and requests, each of which is answered before the next one.`,
  baseline: 'ipc',
  needs: {},
  tools: [],
  describe: (peer) => transports[peer].is,
  workloads: ['messages@1', 'messages', 'descriptors@1', 'descriptors', 'requests@1', 'requests'],

  columns: (workload) => [
    column(workload.startsWith('requests') ? 'requests/s' : 'messages/s', 'perSecond', integer),
    spread('perSecond'),
    ratio('perSecond', '× child_process'),
    ...(workload.startsWith('requests') ? [column('p50 µs', 'p50'), column('p99 µs', 'p99')] : []),
    column('CPU µs each', 'cpuEach'),
    lost
  ],

  cases({ cpu }) {
    return this.workloads.flatMap((workload) => {
      const [kind, isPinned] = [workload.replace('@1', ''), workload.endsWith('@1')]
      return Object.entries(transports).map(([peer, { command, cannot = {} }]) => ({
        workload,
        peer,
        cannot: cannot[kind],
        start: 2000,
        async measure(n) {
          const result = await runForJson(pinned([...command, kind, `${n}`], isPinned ? cpu : undefined))
          const { seconds, p50, p99, arrived, expected } = result
          return {
            seconds,
            p50,
            p99,
            perSecond: n / seconds,
            cpuEach: (result.cpu / n) * 1e6,
            lost: expected - arrived
          }
        }
      }))
    })
  }
}
