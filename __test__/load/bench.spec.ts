import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { ExecutionContext } from 'ava'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { runs } from '../helpers/processes.ts'

const execute = promisify(execFile)

interface Row {
  readonly workload: string
  readonly peer: string
  readonly error?: string
  readonly lost?: number
  readonly perSecond?: number
}

interface Results {
  readonly suites: Record<string, { readonly rows: Row[]; readonly missing: { peer: string; reason: string }[] }>
}

const OURS = [
  'fdpass',
  'fdpass-iterate',
  'fdpass-connection',
  'fdpass-reuse-port',
  'fdpass-accept',
  'fdpass-server',
  'channel',
  'receiving'
]
const OTHERS = ['c-blocking', 'c-accept']
const hasTools = runs('cc', '--version') && spawnSync('taskset', ['-c', '0', 'true']).status === 0
const committed = join('bench', 'results.json')

function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-test-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

async function bench(...args: string[]): Promise<void> {
  await execute(process.execPath, [join('bench', 'run.mjs'), ...args])
}

const withTools = onlyIf(isLinux && hasTools, 'needs cc and taskset')

withTools('every suite of the benchmark measures something, and nothing of ours is lost', async (t) => {
  t.timeout(300_000) // 20 s on a quiet machine
  const folder = temporaryFolder(t)
  await bench('--quick', '--only', [...OURS, ...OTHERS].join(), '--out', folder)
  const { suites } = JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8')) as Results

  const names = 'passing versions calls superserver workers reload accept channel load idle imports'.split(' ')
  t.deepEqual(Object.keys(suites), names)
  const rows = Object.values(suites).flatMap((suite) => suite.rows)
  const canCount = runs('perf', 'stat', '-e', 'raw_syscalls:sys_enter', 'true') || runs('strace', '-c', 'true')
  const failed = rows.filter(({ error }) => error !== undefined && (canCount || !error.includes('perf')))
  t.deepEqual(failed, [])
  for (const peer of [...OURS, ...OTHERS])
    t.true(
      rows.some((row) => row.peer === peer),
      peer
    )
  for (const { workload, peer, perSecond } of rows) t.true((perSecond ?? 1) > 0, `${peer} ${workload}`)
  t.deepEqual(
    rows.filter(({ lost }) => lost !== undefined && lost !== 0),
    []
  )
  t.deepEqual(
    suites['passing']?.missing.map(({ peer }) => peer).filter((peer) => peer !== 'fdpass-iterate'),
    []
  )

  const report = readFileSync(join(folder, 'RESULTS.md'), 'utf8')
  t.true(report.includes('## Goals and floors'))
  t.false(/NaN|undefined/.test(report))
  const charts = readdirSync(join(folder, 'charts'))
  t.true(charts.includes('one-way.svg'))
  for (const chart of charts) t.true(report.includes(`charts/${chart}`), chart)
})

onlyIf(existsSync(committed), 'no results are committed')(
  'RESULTS.md and the charts are made of results.json',
  async (t) => {
    const folder = temporaryFolder(t)
    await cp(committed, join(folder, 'results.json'))
    await bench('--report', '--out', folder)
    for (const file of ['RESULTS.md', ...readdirSync(join(folder, 'charts')).map((chart) => join('charts', chart))]) {
      t.is(readFileSync(join('bench', file), 'utf8'), readFileSync(join(folder, file), 'utf8'), file)
    }
  }
)
