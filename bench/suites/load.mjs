import { join } from 'node:path'
import { bench } from '../build.mjs'
import { runForJson } from '../processes.mjs'
import { column, integer, lost } from '../table.mjs'

const ways = {
  quiet: 'nothing else happens',
  receiving: 'the process receives descriptors at full speed, by `for await`',
  sending: 'the process sends descriptors at full speed, 64 at a time'
}

export default {
  title: 'Latency under load',
  text: `Round trips of one descriptor with a second process, while another socket of the same process is busy with a third one; and how late a
timer of 10 ms is meanwhile. The scheduler is free: three processes share the CPUs.`,
  needs: {},
  tools: [],
  describe: (peer) => ways[peer],
  workloads: ['latency'],

  columns: () => [
    column('p50 µs', 'p50'),
    column('p99 µs', 'p99'),
    column('timer late by, p50 ms', 'latenessP50'),
    column('p99 ms', 'latenessP99'),
    column('at most, ms', 'latenessMost'),
    column('round trips/s', 'perSecond', integer),
    column('descriptors/s of the other socket', 'streamed', integer),
    lost
  ],

  cases: ({ seconds, quick }) =>
    Object.keys(ways).map((peer) => ({
      workload: 'latency',
      peer,
      fixed: quick ? 200 : Math.round(seconds * 2000), // milliseconds
      measure: (n) => runForJson([process.execPath, join(bench, 'peers/node/load.mjs'), peer, `${n}`])
    }))
}
