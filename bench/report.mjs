// Makes RESULTS.md and charts/ of results.json, and of NOTES.md, which is taken as it is.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bars } from './bars.mjs'
import { bench } from './build.mjs'
import { median, integer, table } from './table.mjs'
import { suites } from './suites/index.mjs'

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
  const notes = join(bench, 'NOTES.md')
  const parts = [
    '# Results of the benchmark',
    wrapped(
      '`npm run bench` has measured this, and `npm run bench -- --report` has written it from results.json: change bench/NOTES.md for the ' +
        'text, and nothing here. [README.md](README.md) describes what is measured, and how.'
    ),
    table(['machine', ''], Object.entries(results.machine)).replace('--:', '---'),
    ...(existsSync(notes) ? [readFileSync(notes, 'utf8').trim()] : []),
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
    title: 'Requests that fail at each reload of an express app, two workers, 50 clients with keep-alive',
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
