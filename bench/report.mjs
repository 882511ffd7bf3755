// Makes RESULTS.md and charts/ of results.json, and of the end of README.md, which is taken as it is.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bench } from './build.mjs'
import { median, integer, table } from './table.mjs'
import accept from './suites/accept.mjs'
import calls from './suites/calls.mjs'
import channel from './suites/channel.mjs'
import idle from './suites/idle.mjs'
import imports from './suites/imports.mjs'
import load from './suites/load.mjs'
import passing, { superserver, versions, workers } from './suites/passing.mjs'
import reload from './suites/reload.mjs'

/** What is measured, in the order of the results. */
export const suites = { passing, versions, calls, superserver, workers, reload, accept, channel, load, idle, imports }

const TRIAL = '**A trial (`--quick`): the numbers say nothing.**'

/** Writes the report of the results in a folder, into the same folder. */
export function writeReport(folder) {
  const results = JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8'))
  const drawn = charts(results)
  writeFileSync(join(folder, 'RESULTS.md'), report(results, Object.keys(drawn)))
  mkdirSync(join(folder, 'charts'), { recursive: true })
  for (const [name, svg] of Object.entries(drawn)) writeFileSync(join(folder, 'charts', `${name}.svg`), svg)
}

function report(results, chartNames) {
  const notes = readFileSync(join(bench, 'README.md'), 'utf8').split('from here on. -->')[1]
  const parts = [
    '# Results of the benchmark',
    wrapped(
      '`npm run bench` has measured this, and `npm run bench -- --report` has written it from results.json: change README.md for the ' +
        'text, and nothing here. [README.md](README.md) describes what is measured, and how.'
    ),
    table(['machine', ''], Object.entries(results.machine)).replace('--:', '---'),
    notes.trim(),
    '## Goals and floors',
    'Of the medians: a ratio is to C’s (c-blocking) in the same run. A goal is what is aimed at, a floor what a release keeps.',
    ...(Object.values(results.suites).some(({ quick }) => quick) ? [TRIAL] : []),
    bars(results),
    ...chartNames.map((name) => `![${name}](charts/${name}.svg)`),
    ...Object.entries(results.suites).flatMap(([name, result]) => section(suites[name], result))
  ]
  return `${parts.join('\n\n')}\n`
}

function section(suite, result) {
  const { rows, missing, rounds, seconds, cpu, quick, date } = result
  const measured = rows.filter(({ error }) => error === undefined)
  const failed = rows.filter(({ error }) => error !== undefined)
  const how =
    `${rounds === 1 ? 'One round' : `${rounds} rounds`} of runs of about ${seconds} s, ${date.slice(0, 10)}, @1 is CPU ${cpu}.` +
    (quick ? ` ${TRIAL}` : '')
  const tables = suite.workloads.flatMap((workload) => {
    const ofWorkload = measured.filter((row) => row.workload === workload)
    if (ofWorkload.length === 0) return []
    const baseline = ofWorkload.filter(({ peer }) => peer === suite.baseline)
    const columns = suite.columns(workload)
    const peers = [...new Set(ofWorkload.map(({ peer }) => peer))]
    const lines = peers.map((peer) => {
      const own = ofWorkload.filter((row) => row.peer === peer)
      return [`${peer}`, ...columns.map(({ cell }) => cell(own, baseline))]
    })
    return [`### ${suite.title}: ${workload}`, table(['peer', ...columns.map(({ head }) => head)], lines)]
  })
  const everybody = [...new Set([...rows, ...missing].map(({ peer }) => peer))]
  return [
    `## ${suite.title}`,
    wrapped(suite.text),
    how,
    everybody.map((peer) => `- ${peer}: ${suite.describe(peer)}`).join('\n'),
    ...tables,
    ...gaps(
      'Not measured',
      missing.map(({ reason, ...one }) => ({ ...one, why: reason }))
    ),
    ...gaps(
      'Failed',
      failed.map(({ error, ...one }) => ({ ...one, why: error }))
    )
  ]
}

/** Returns a paragraph in lines of at most 140 characters. */
function wrapped(text) {
  return text
    .replaceAll(/\s+/g, ' ')
    .trim()
    .replaceAll(/(.{1,140})(?: |$)/g, '$1\n')
    .trimEnd()
}

/** A list of what is not in the tables, and why: a line for each reason of a peer. */
function gaps(title, list) {
  if (list.length === 0) return []
  const workloads = new Map()
  for (const { workload, peer, why } of list) {
    const reason = `${peer}: ${why}`
    workloads.set(reason, (workloads.get(reason) ?? new Set()).add(workload))
  }
  return [`${title}:`, [...workloads].map(([reason, names]) => `- ${[...names].join(', ')}, ${reason}`).join('\n')]
}

const WIDTH = 720
const ROW = 26
const LEFT = 150
const RIGHT = 170
const TOP = 44

const CHARTS = {
  'one-way': {
    suite: 'passing',
    workload: 'w2@1',
    title: 'Descriptors a second, one a message, both processes on one CPU'
  },
  'round-trips': {
    suite: 'passing',
    workload: 'w1@1',
    title: 'Round trips a second, a descriptor each way, both processes on one CPU'
  },
  batches: {
    suite: 'passing',
    workload: 'w3-64@1',
    title: 'Descriptors a second, 64 a message, both processes on one CPU'
  },
  connections: { suite: 'passing', workload: 'w4', title: 'TCP connections a second, handed to a worker' },
  messages: { suite: 'channel', workload: 'messages@1', title: 'Small messages a second, without a descriptor' },
  reload: {
    suite: 'reload',
    workload: 'express keep-alive',
    title: 'Failed requests at each reload of an express app (50 keep-alive clients)',
    value: 'failedEach',
    isLess: true
  }
}

/** By name, the charts of what was measured. */
function charts(results) {
  const drawn = Object.entries(CHARTS).map(
    ([name, { suite, workload, title, value = 'perSecond', isLess = false }]) => {
      const rows = (results.suites[suite]?.rows ?? []).filter(
        (row) => row.workload === workload && row[value] !== undefined
      )
      const medians = [...new Set(rows.map(({ peer }) => peer))].map((peer) => {
        const own = rows.filter((row) => row.peer === peer)
        return {
          peer,
          value: median(own.map((row) => row[value])),
          lost: Math.max(...own.map(({ lost = 0 }) => lost))
        }
      })
      return [
        name,
        medians.length === 0
          ? undefined
          : draw(
              title,
              medians.toSorted((a, b) => (isLess ? a.value - b.value : b.value - a.value))
            )
      ]
    }
  )
  return Object.fromEntries(drawn.filter(([, svg]) => svg !== undefined))
}

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')

/** Draws horizontal bars as SVG, for light and for dark pages. */
function draw(title, medians) {
  const most = Math.max(1, ...medians.map(({ value }) => value))
  const height = TOP + medians.length * ROW + 10
  const lines = medians.map(({ peer, value, lost }, index) => {
    const y = TOP + index * ROW
    const width = Math.max(1, Math.round((value / most) * (WIDTH - LEFT - RIGHT)))
    const isOurs = peer.startsWith('fdpass') || peer === 'channel'
    const label = `${integer(value)}${lost > 0 ? `, loses ${integer(lost)}` : ''}`
    return (
      `  <text x="${LEFT - 10}" y="${y + 16}" text-anchor="end"${isOurs ? ' class="ours"' : ''}>${escaped(peer)}</text>\n` +
      `  <rect x="${LEFT}" y="${y + 3}" width="${width}" height="${ROW - 8}" rx="3"${isOurs ? ' class="ours"' : ''}/>\n` +
      `  <text x="${LEFT + width + 8}" y="${y + 16}" class="value">${label}</text>`
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
  <title>${escaped(title)}</title>
  <style>
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .title { font-size: 15px; font-weight: 600; }
    .value { fill: #59636e; }
    rect { fill: #9aa4af; }
    text.ours { font-weight: 600; }
    rect.ours { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .value { fill: #9198a1; }
      rect { fill: #57606a; }
      rect.ours { fill: #4493f8; }
    }
  </style>
  <text x="10" y="24" class="title">${escaped(title)}</text>
${lines.join('\n')}
</svg>
`
}

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

/** The ratio of two medians of a workload, each of a peer and a key. */
const over = (suite, workload, one, other) => (results) =>
  medianOf(results, suite, workload, ...one) / medianOf(results, suite, workload, ...other)

const callsOf = (workload, peer) => (results) => medianOf(results, 'calls', workload, peer, 'calls')

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
  floor: 1.75,
  isMost: true,
  measure: toC(workload, peer, 'cpuEach')
})

/** Each is met by at least its goal, or where `isMost` is set by at most its goal. */
const BARS = [
  speed('w1@1', awaited, 0.55, 0.45),
  speed('w2@1', awaited, 0.7, 0.55),
  speed('w2@1', iterated, 0.75, 0.55),
  speed('w3-64@1', awaited, 1.25, 0.8),
  speed('w3-64@1', iterated, 1.25, 0.65),
  speed('w3-253@1', awaited, 1.25, 0.85),
  speed('w3-253@1', iterated, 1.25, 0.7),
  {
    what: 'w2 fdpass: system calls a descriptor',
    goal: 3.05,
    floor: 3.1,
    isMost: true,
    measure: callsOf('w2', awaited)
  },
  {
    what: 'w2 fdpass-iterate: system calls a descriptor',
    goal: 3.05,
    floor: 3.45,
    isMost: true,
    measure: callsOf('w2', iterated)
  },
  { what: 'w3-64 fdpass: system calls a descriptor', goal: 2, isMost: true, measure: callsOf('w3-64', awaited) },
  { what: 'w3-253 fdpass: system calls a descriptor', goal: 2, isMost: true, measure: callsOf('w3-253', awaited) },
  cost('w2@1', awaited),
  cost('w2@1', iterated),
  cost('w3-64@1', awaited),
  cost('w3-253@1', awaited),
  {
    what: 'w4 fdpass-connection: connections × C',
    goal: 0.6,
    floor: 0.5,
    measure: over('superserver', 'w4', ['fdpass-connection', 'perSecond'], [C, 'perSecond'])
  },
  {
    what: "w4 fdpass-connection: the parent's CPU × C",
    goal: 1.2,
    floor: 2.1,
    isMost: true,
    measure: over('superserver', 'w4', ['fdpass-connection', 'parentCpuEach'], [C, 'parentCpuEach'])
  },
  {
    what: "w4 fdpass-connection: the worker's CPU × that of a worker that accepts",
    goal: 1.2,
    floor: 1.45,
    isMost: true,
    measure: over('superserver', 'w4', ['fdpass-connection', 'workerCpuEach'], ['fdpass-listener', 'workerCpuEach'])
  },
  {
    what: '10,000 busy sockets: time of a message × net',
    goal: 1,
    floor: 1.15,
    isMost: true,
    measure: over('idle', '10000 sockets@1', ['fdpass-server', 'message'], ['net-server', 'message'])
  },
  {
    what: "10,000 busy sockets: the server's CPU of a message × net",
    goal: 1,
    floor: 1.15,
    isMost: true,
    measure: over('idle', '10000 sockets@1', ['fdpass-server', 'messageCpu'], ['net-server', 'messageCpu'])
  },
  {
    what: '10,000 idle sockets: heap of each × net',
    goal: 1,
    floor: 1.2,
    isMost: true,
    measure: over('idle', '10000 sockets@1', ['fdpass-server', 'heapEach'], ['net-server', 'heapEach'])
  },
  {
    what: 'messages@1 of a Channel with a descriptor: speed × w2@1 awaited',
    goal: 0.7,
    floor: 0.65,
    measure: (results) =>
      medianOf(results, 'channel', 'descriptors@1', 'channel', 'perSecond') /
      medianOf(results, 'passing', 'w2@1', awaited, 'perSecond')
  },
  {
    what: 'requests@1 of a Channel, one at a time: speed × child_process',
    goal: 1.3,
    floor: 1,
    measure: over('channel', 'requests@1', ['channel', 'perSecond'], ['ipc', 'perSecond'])
  },
  {
    what: 'import of the package, ms',
    goal: 8,
    floor: 10,
    isMost: true,
    measure: (results) => medianOf(results, 'imports', 'import@1', 'fdpass', 'milliseconds')
  },
  {
    what: 'fdpass --help, ms',
    goal: 10,
    floor: 12,
    isMost: true,
    measure: (results) => medianOf(results, 'imports', 'import@1', 'fdpass-command', 'milliseconds')
  },
  { what: 'descriptors and messages of ours lost, in all runs', goal: 0, floor: 0, isMost: true, measure: mostLost }
]

const limit = (value, isMost) => (value === undefined ? '' : `${isMost ? '≤' : '≥'} ${value}`)

/** The table of goals, floors and what was measured. */
function bars(results) {
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
