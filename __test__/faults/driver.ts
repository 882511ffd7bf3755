import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Report, Step } from './scenario.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { errnoOf, errorsOf, passing } from './errors.ts'
import { generator } from '../helpers/random.ts'

/** A system call of a scenario, and how it fails. */
export interface Fault {
  readonly scenario: string
  readonly call: string
  /** Which of the calls, from 1 on, and how many in a row. */
  readonly nth: number
  readonly times: number
  readonly error: string
}

/** The kinds of outcome: the call was not made in this run; it was retried; its error was reported; or neither. */
export type Verdict =
  { readonly kind: 'not reached' | 'retried' | 'reported' } | { readonly kind: 'failed'; readonly why: string }

/** The scenarios that run.ts knows. */
export const scenarios = [
  'pairs',
  'full',
  'connections',
  'descriptors',
  'casts',
  'channel',
  'hand-over',
  'broker',
  'helper',
  'store',
  'takeover',
  'workers',
  'programs',
  'systemd',
  'stream'
] as const

/** Scenarios in which another process meets the fault too. */
const services: ReadonlySet<string> = new Set(['broker', 'helper', 'store', 'takeover', 'workers'])

/** How long a scenario may take, in milliseconds. */
const PATIENCE = 30_000

// The layout of `struct table` in injector.c.
const MOST_CALLS = 128
const NAME = 32
const COUNTS = 48
const NAMES = COUNTS + 4 * MOST_CALLS

const folder = temporaryFolder()
let library: string | undefined
let names: readonly string[] = []
let runs = 0

/** Whether there is a C compiler, and the C library is glibc: the injector is written for it. */
export function canInject(): boolean {
  try {
    if (process.platform !== 'linux') return false
    const program = '#include <features.h>\n#ifndef __GLIBC__\n#error\n#endif\n'
    execFileSync('cc', ['-x', 'c', '-fsyntax-only', '-'], { input: program, stdio: ['pipe', 'ignore', 'ignore'] })
    return true
  } catch {
    return false
  }
}

function compiled(): string {
  if (library === undefined) {
    library = join(folder, 'injector.so')
    execFileSync('cc', ['-O2', '-shared', '-fPIC', '-o', library, '__test__/faults/injector.c', '-ldl'])
  }
  return library
}

/** What one run of a scenario has given. */
export interface Outcome {
  readonly report: Report | undefined
  /** How the process ended, unless with code 0, and what it printed. */
  readonly ending: string | undefined
  /** The standard error of the process and its children. */
  readonly errors: string
  /** How many calls have failed. */
  readonly injected: number
  /** In how many processes fdpass was found. */
  readonly processes: number
  /** In how many of them the system calls are caught that it makes without the C library. */
  readonly trapping: number
  readonly counts: ReadonlyMap<string, number>
  /** Where in the binary the first call that failed was made, and of which descriptor. */
  readonly place: string
}

/** A process that runs a scenario again and again, each time with another fault; the next one, where it has ended. */
export class Runner {
  readonly #scenario: string
  readonly #backend: string
  #process: ChildProcess | undefined
  #ended = false
  #table = ''
  #output = ''
  #errors = ''
  /** Resolves when the process has printed something, or has exited. */
  #wake: () => void = () => {}

  constructor(scenario: string, backend: string) {
    this.#scenario = scenario
    this.#backend = backend
  }

  /** Runs the scenario, with a fault or without. `pace` extends its times. */
  async run(fault?: Fault, pace = 1): Promise<Outcome> {
    // What is opened once in a process is not opened again.
    if (fault !== undefined && opening.has(fault.call)) this.close()
    else if (this.#process === undefined && fault !== undefined) await this.#once()
    return this.#once(fault, pace)
  }

  async #once(fault?: Fault, pace = 1): Promise<Outcome> {
    const own = join(folder, `run-${runs++}`)
    mkdirSync(own)
    const child = this.#process ?? this.#start()
    const index = fault === undefined ? -1 : names.indexOf(fault.call)
    const table = Buffer.alloc(NAMES)
    table.writeUInt32LE(index < 0 ? MOST_CALLS : index, 0)
    table.writeUInt32LE(fault?.nth ?? 0, 4)
    table.writeUInt32LE(fault?.times ?? 0, 8)
    table.writeInt32LE(fault === undefined || fault.error === 'SHORT' ? 0 : errnoOf(fault.error)!, 12)
    // Not what the process writes when it starts: in how many fdpass was found, and how many calls there are.
    const file = openSync(this.#table, 'r+')
    for (const [from, to] of [
      [0, 20],
      [28, 44],
      [COUNTS, NAMES]
    ] as const)
      writeSync(file, table, from, to - from, from)
    closeSync(file)
    this.#output = this.#errors = ''
    child.stdin!.write(`${pace} ${own}\n`)
    const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE * pace)
    while (!this.#output.includes('\n') && !this.#ended) await new Promise<void>((resolve) => (this.#wake = resolve))
    let report: Report | undefined
    try {
      report = JSON.parse(this.#output) as Report
    } catch {}
    // One in which something went wrong is not used again.
    let ending: string | undefined
    const hasWarned = this.#errors.includes('FDPASS_SERVICE_FAILED') // which it does once
    if (
      report === undefined ||
      report.broken.length > 0 ||
      hasWarned ||
      (fault !== undefined && report.left.length > 0)
    ) {
      child.stdin!.end()
      if (report !== undefined) child.kill('SIGKILL')
      if (!this.#ended) await once(child, 'exit')
      this.#process = undefined
      if (report === undefined) ending = `${child.signalCode ?? `code ${child.exitCode}`}: ${this.#errors}`
    }
    clearTimeout(timer)
    rmSync(own, { recursive: true, force: true })
    return this.#outcome(report, ending)
  }

  #start(): ChildProcess {
    this.#table = join(folder, `table-${runs}`)
    writeFileSync(this.#table, Buffer.alloc(NAMES + NAME * MOST_CALLS))
    const args = [...process.execArgv, fileURLToPath(new URL('run.js', import.meta.url)), this.#scenario]
    const environment = {
      LD_PRELOAD: compiled(),
      FAULT_FILE: this.#table,
      FDPASS_BACKEND: this.#backend,
      MALLOC_PERTURB_: '165', // memory that is used after it was freed ends the process: mallopt(3)
      NODE_OPTIONS: ''
    }
    const child = spawn(process.execPath, args, { env: { ...process.env, ...environment }, stdio: 'pipe' })
    child.stdin.on('error', () => {}) // it has ended
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text
      this.#wake()
    })
    this.#ended = false
    child.once('exit', () => {
      if (this.#process === child) this.#ended = true
      this.#wake()
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#errors += text))
    this.#process = child
    return child
  }

  #outcome(report: Report | undefined, ending: string | undefined): Outcome {
    const after = readFileSync(this.#table)
    const count = after.readUInt32LE(44)
    if (count > 0) {
      names = Array.from({ length: count }, (_, i) => {
        const from = NAMES + i * NAME
        return after.subarray(from, after.indexOf(0, from)).toString()
      })
    }
    return {
      report,
      ending,
      errors: this.#errors,
      injected: after.readUInt32LE(16),
      processes: after.readUInt32LE(20),
      trapping: after.readUInt32LE(24),
      counts: new Map(names.map((name, i) => [name, after.readUInt32LE(COUNTS + 4 * i)])),
      place: `0x${after.readBigUInt64LE(32).toString(16)} of descriptor ${after.readInt32LE(40)}`
    }
  }

  /** Ends the process. */
  close(): void {
    this.#process?.kill('SIGKILL')
    this.#process = undefined
  }
}

/** Steps that only report. */
const asking: ReadonlySet<string> = new Set([
  'getsockopt',
  'getsockname',
  'getpeername',
  'readlink',
  'fcntl(F_GET_SEALS)'
])

/** What is called when fdpass begins in a process, and not again. */
const opening: ReadonlySet<string> = new Set([
  'pthread_create',
  'uv_async_init',
  'epoll_create1',
  'eventfd',
  'timerfd_create'
])

/** What a scenario does where nothing fails: any of these, as some of it depends on time. */
export interface Baseline {
  readonly scenario: string
  readonly traces: ReadonlySet<string>
  readonly left: readonly string[]
  /** How often each call is made. */
  readonly counts: ReadonlyMap<string, number>
}

const shown = ({ step, value, error }: Step) => JSON.stringify([step, error === undefined ? value : error.code])
const traceOf = (report: Report, steps = report.steps) => steps.map(shown).toSorted().join('\n')

/** The same, where a superserver has replaced a worker and reported it. */
const withoutExits = (report: Report) =>
  traceOf(
    report,
    report.steps.filter(({ step }) => step !== 'exit event')
  )

/** Finds out what a scenario does, and how often it makes each call. */
export async function measure(scenario: string, runner: Runner, times = 3): Promise<Baseline> {
  const traces = new Set<string>()
  const counts = new Map<string, number>()
  let left: readonly string[] = []
  for (let i = 0; i < times; i++) {
    const outcome = await runner.run()
    const { report } = outcome
    if (report === undefined) throw new Error(`${scenario} ends by ${outcome.ending}`)
    if (report.broken.length > 0) throw new Error(`${scenario}: ${report.broken.join('; ')}`)
    if (outcome.processes === 0) throw new Error(`fdpass was not found in a process of ${scenario}`)
    if (outcome.trapping < outcome.processes) throw new Error(`the kernel traps no system calls of ${scenario}`)
    traces.add(traceOf(report))
    if (report.left.length > left.length) ({ left } = report)
    for (const [call, count] of outcome.counts) counts.set(call, Math.max(counts.get(call) ?? 0, count))
  }
  return { scenario, traces, left, counts }
}

/** How many of the calls fail, of those that a scenario makes often. */
const SAMPLE = 24

/** All faults of a scenario, in an order that a seed repeats; of calls that are made often, a sample. */
export function plan({ scenario, counts }: Baseline, seed: number, only?: string): Fault[] {
  const random = generator(seed)
  const faults: Fault[] = []
  for (const [call, count] of counts) {
    if (count === 0 || (only !== undefined && call !== only)) continue
    const listed = errorsOf[call]
    if (listed === undefined) throw new Error(`errors.ts knows no errors of ${call}`)
    for (const error of listed.split(' ')) {
      // An end that is none: the other side waits for an answer, as it is still there.
      const answers = services.has(scenario) || scenario === 'channel'
      if (call === 'sendmsg' && answers && (error === 'EPIPE' || error === 'ECONNRESET')) continue
      // The kernel knows a child until it is reaped. A worker that counts as gone is not ended, and is waited for.
      if (call === 'pidfd_open' && scenario === 'workers' && error === 'ESRCH') continue
      const places = new Set<number>()
      if (count <= SAMPLE) for (let nth = 1; nth <= count; nth++) places.add(nth)
      else while (places.size < SAMPLE) places.add(1 + (places.size < 4 ? places.size : random.below(count)))
      for (const nth of places) {
        faults.push({ scenario, call, nth, times: 1, error })
        if (passing.has(error)) faults.push({ scenario, call, nth, times: 3, error })
      }
    }
  }
  // Fisher and Yates: a run that is cut off has seen something of everything.
  for (let i = faults.length - 1; i > 0; i--) {
    const j = random.below(i + 1)
    ;[faults[i], faults[j]] = [faults[j]!, faults[i]!]
  }
  return faults
}

/** By how much the times of a scenario are extended that has failed. */
const SLOWER = 10

/**
 * Runs a scenario with a fault, and judges the run. One that failed is repeated with more time: on a busy machine, what a fault did not
 * prevent can come later than a scenario waits for it.
 */
export async function tryFault(
  runner: Runner,
  baseline: Baseline,
  fault: Fault
): Promise<{ verdict: Verdict; outcome: Outcome; isRepeated: boolean }> {
  const first = await runner.run(fault)
  const verdict = judge(baseline, fault, first)
  if (verdict.kind !== 'failed') return { verdict, outcome: first, isRepeated: false }
  const outcome = await runner.run(fault, SLOWER)
  return { verdict: judge(baseline, fault, outcome), outcome, isRepeated: true }
}

function judge(baseline: Baseline, fault: Fault, outcome: Outcome): Verdict {
  const why = flaw(baseline, fault, outcome)
  if (why !== undefined) return { kind: 'failed', why }
  if (outcome.injected === 0) return { kind: 'not reached' }
  return { kind: baseline.traces.has(traceOf(outcome.report!)) ? 'retried' : 'reported' }
}

function flaw(
  baseline: Baseline,
  { call, error: code }: Fault,
  { report, ending, errors, injected }: Outcome
): string | undefined {
  if (report === undefined) return `ended by ${ending}`
  if (report.broken.length > 0) return report.broken.join('; ')
  const leaked = difference(report.left, baseline.left).filter((link) => !(call === 'eventfd' && link === 'pipe:[]')) // in its place
  // What is not open, as EBADF says, is not closed.
  if (leaked.length > (code === 'EBADF' ? 1 : 0)) return `left open: ${leaked.join(', ')}`
  for (const { step, error } of report.steps) {
    if (error === undefined) continue
    const text = `${step}: ${JSON.stringify(error)}`
    if (typeof error.code !== 'string') return `no code: ${text}`
    // ERR_*, or an error of the system.
    const number = errnoOf(error.code)
    if (number === undefined) {
      if (!/^(?:ERR_|ABORT_ERR$|MINE$)/.test(error.code)) return `an unknown code: ${text}`
    } else if (error.errno !== -number || typeof error.syscall !== 'string') return `not in Node's shape: ${text}`
  }
  if (injected === 0 || baseline.traces.has(traceOf(report))) return undefined
  // A call that a signal interrupted is made again: no caller sees it.
  const interrupted = report.steps.find(({ error }) => error?.code === 'EINTR')
  if (interrupted !== undefined) return `EINTR was reported: ${JSON.stringify(interrupted)}`
  if (errors.includes('EINTR')) return 'EINTR was reported as a warning'
  const changed = changes(baseline, report)
  // Without an answer of the kernel, the kind of a descriptor is less exact: 'socket', 'file', 'other', null.
  if (
    (asking.has(call) || (call === 'stat' && code !== 'ENOMEM')) &&
    changed.every((line) => /^.\["[^"]*(?:kind|address|seal|list")/.test(line))
  )
    return undefined
  if (call === 'getsockname' && changed.includes('+["port","undefined"]')) return undefined
  if (baseline.traces.has(withoutExits(report))) return undefined
  // A `ready` that is lost leaves both serving, and no connection goes from one to the other: PROTOCOL.md.
  const isReady = report.steps.some(({ step, error }) => step === 'asked again' && error === undefined)
  if (baseline.scenario === 'takeover' && isReady && !report.steps.some(({ step }) => step === 'live')) return undefined
  // A worker whose channel fails is ended, and the events of the exits count the connections that went so: each that was not answered.
  const exits = report.steps.filter(({ step }) => step === 'exit event')
  const lost = exits.reduce((sum, { value }) => sum + (value as [unknown, unknown, number])[2], 0)
  const unanswered = changed.filter((line) => line.startsWith('-["asked')).length
  if (lost > 0 && unanswered <= lost) return undefined
  const wanted = told(call, code)
  // A worker of a superserver, which is the user's program, reports its own errors; a service warns.
  if (wanted.some((met) => errors.includes(met))) return undefined
  // What a service meets, its client sees as the end of the connection.
  if (services.has(baseline.scenario)) wanted.push('ECONNRESET', 'EPIPE', 'ERR_WORKER_FAILED')
  const codes = report.steps.map(({ error }) => error?.code)
  if (!codes.some((met) => wanted.includes(met as string))) return `nobody was told: ${changed.join(' ')}`
  return undefined
}

/** The codes that may report an error of a call. */
function told(call: string, code: string): string[] {
  const codes = [code]
  // The error does not name the place at which a path leaves the root.
  if (call === 'openat2' && ['EXDEV', 'ELOOP', 'EAGAIN'].includes(code)) codes.push('EACCES')
  // A socket whose type the kernel does not report, which does not happen, has no kind.
  if (call === 'getsockopt' || call === 'getsockname') codes.push('ERR_INVALID_FD_TYPE', 'EPROTO', 'ENOTSOCK')
  // An open file whose file system refuses fstat(2) is of another kind.
  if (call === 'stat' && code !== 'ENOMEM') codes.push('ERR_INVALID_FD_TYPE', 'EPROTO')
  // Without an address there is no destination.
  if (call === 'getsockname') codes.push('ERR_INVALID_ARG_TYPE')
  // Another handle of the loop watches the number: the runtime's.
  if (call === 'uv_poll_init' && code === 'EEXIST') codes.push('ERR_INVALID_ARG_VALUE')
  // A socket's file counts as in use where it is unknown whether it is stale.
  if (call === 'connect') codes.push('EADDRINUSE')
  return codes
}

/** What is otherwise than without a fault. */
function changes(baseline: Baseline, report: Report): string[] {
  const now = traceOf(report).split('\n')
  const least = [...baseline.traces].map((trace) => {
    const before = trace.split('\n')
    return [...difference(before, now).map((line) => `-${line}`), ...difference(now, before).map((line) => `+${line}`)]
  })
  return least.toSorted((a, b) => a.length - b.length)[0]!
}

function difference(now: readonly string[], before: readonly string[]): string[] {
  const left = [...before]
  return now.filter((each) => {
    const place = left.indexOf(each)
    if (place >= 0) left.splice(place, 1)
    return place < 0
  })
}

/** A fault in a few words, by which it can be asked for again. */
export function describe({ scenario, call, nth, times, error }: Fault): string {
  return `${scenario}: ${call} ${nth}${times > 1 ? `-${nth + times - 1}` : ''} ${error}`
}
