// What is aimed at, and what a release keeps.
import { median, table } from './table.mjs'

const C = 'c-blocking'

/** The median of a key, of a peer in a workload; undefined where it was not measured. */
function medianOf(results, suite, workload, peer, key) {
  const values = (results.suites[suite]?.rows ?? [])
    .filter((row) => row.workload === workload && row.peer === peer && row[key] !== undefined)
    .map((row) => row[key])
  return values.length === 0 ? undefined : median(values)
}

const toC = (workload, peer, key) => (results) =>
  medianOf(results, 'passing', workload, peer, key) / medianOf(results, 'passing', workload, C, key)

const calls = (workload, peer) => (results) => medianOf(results, 'calls', workload, peer, 'calls')

function mostLost(results) {
  const rows = Object.values(results.suites).flatMap((suite) => suite.rows)
  const ours = rows.filter(({ peer, lost }) => (peer.startsWith('fdpass') || peer === 'channel') && lost !== undefined)
  return ours.length === 0 ? NaN : Math.max(...ours.map(({ lost }) => lost))
}

const awaited = 'fdpass'
const iterated = 'fdpass-iterate'
const speed = (workload, peer, goal, floor) => ({
  what: `${workload} ${peer}: speed × C`,
  goal,
  floor,
  measure: toC(workload, peer, 'perSecond')
})
const cost = (workload, peer) => ({
  what: `${workload} ${peer}: CPU × C`,
  goal: 1.6,
  isMost: true,
  measure: toC(workload, peer, 'cpuEach')
})

/** Each is met by at least its goal, or where `isMost` is set by at most its goal. */
const BARS = [
  speed('w1@1', awaited, 0.55, 0.45),
  speed('w2@1', awaited, 0.7, 0.55),
  speed('w2@1', iterated, 0.95, 0.75),
  speed('w3-64@1', awaited, 1.25, 0.9),
  speed('w3-64@1', iterated, 1.25, 0.9),
  speed('w3-253@1', awaited, 1.25, 0.9),
  speed('w3-253@1', iterated, 1.25, 0.9),
  { what: 'w2 fdpass: system calls a descriptor', goal: 3.05, isMost: true, measure: calls('w2', awaited) },
  { what: 'w2 fdpass-iterate: system calls a descriptor', goal: 3.05, isMost: true, measure: calls('w2', iterated) },
  { what: 'w3-64 fdpass: system calls a descriptor', goal: 2, isMost: true, measure: calls('w3-64', awaited) },
  { what: 'w3-253 fdpass: system calls a descriptor', goal: 2, isMost: true, measure: calls('w3-253', awaited) },
  cost('w2@1', awaited),
  cost('w2@1', iterated),
  cost('w3-64@1', awaited),
  cost('w3-253@1', awaited),
  {
    what: 'import of the package, ms',
    goal: 15,
    isMost: true,
    measure: (results) => medianOf(results, 'imports', 'import@1', 'fdpass', 'milliseconds')
  },
  { what: 'descriptors and messages of ours lost, in all runs', goal: 0, floor: 0, isMost: true, measure: mostLost }
]

const limit = (value, isMost) => (value === undefined ? '' : `${isMost ? '≤' : '≥'} ${value}`)

/** The table of goals, floors and what was measured. */
export function bars(results) {
  const lines = BARS.map(({ what, goal, floor, isMost = false, measure }) => {
    const value = measure(results)
    if (value === undefined || Number.isNaN(value))
      return [what, limit(goal, isMost), limit(floor, isMost), '', 'not measured']
    const keeps = (bound) => bound === undefined || (isMost ? value <= bound : value >= bound)
    const met = keeps(goal) ? 'yes' : floor === undefined ? '**no**' : keeps(floor) ? 'the floor' : '**no**'
    return [what, limit(goal, isMost), limit(floor, isMost), Number(value.toFixed(2)), met]
  })
  return table(['', 'goal', 'floor', 'measured', 'met'], lines)
}
