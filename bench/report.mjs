// Makes RESULTS.md and charts/ of results.json, and of NOTES.md, which is taken as it is.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bars } from './bars.mjs'
import { bench } from './build.mjs'
import { charts } from './charts.mjs'
import { suites } from './suites/index.mjs'
import { table } from './table.mjs'

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
    '`npm run bench` has measured this, and `npm run bench -- --report` has written it from results.json: change bench/NOTES.md for the text, ' +
      'and nothing here. [README.md](README.md) tells what is measured, and how.',
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
    suite.text.replaceAll('\n', ' '),
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
