import { superservers } from '../peers.mjs'
import { column, integer, lost, ratio, spread } from '../table.mjs'
import { measureConnections } from './passing.mjs'

export default {
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
    lost
  ],

  cases: () =>
    Object.entries(superservers).map(([peer, { command }]) => ({
      workload: 'w4',
      peer,
      start: 500,
      measure: (n) => measureConnections(command, n)
    }))
}
