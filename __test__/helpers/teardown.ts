import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Task } from '../fixtures/teardown-worker.ts'
import { fixturePath } from './processes.ts'
import { generator } from './random.ts'

/** How a program is run: on which Node, and by which back end; those of this process unless given. */
export interface Runtime {
  readonly node?: string
  readonly backend?: string
}

interface Outcome {
  readonly stdout: string
  readonly stderr: string
  /** Its exit code, or the signal that ended it. */
  readonly end: number | string
}

/** Runs a fixture to its end; warnings come with their stack. */
async function run(
  name: string,
  args: readonly string[],
  { node = process.execPath, backend }: Runtime
): Promise<Outcome> {
  const env = { ...process.env, ...(backend === undefined ? {} : { FDPASS_BACKEND: backend }) }
  const child = spawn(node, ['--trace-warnings', fixturePath(name), ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const output = { stdout: '', stderr: '' }
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => (output[stream] += text))
  }
  const patience = setTimeout(() => child.kill('SIGKILL'), 10 * 60_000)
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  clearTimeout(patience)
  return { ...output, end: signal ?? code! }
}

/** Asserts that a program exited as expected, and printed no warning, crash or abort. */
function expectQuiet({ end, stdout, stderr }: Outcome, what: string): void {
  if (end !== 0 || stderr !== '') throw new Error(`${what} ended with ${end}: ${stderr}${stdout}`)
}

/** Runs a task with a folder for its sockets, and removes the folder afterwards. The task waits for the processes that use it. */
async function withFolder<T>(task: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-'))
  try {
    return await task(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Creates and ends so many Workers in a process; resolves to how many ended in which way. */
export function endWorkers(count: number, seed: number, runtime: Runtime = {}): Promise<Record<string, number>> {
  return withFolder(async (folder) => {
    const outcome = await run('teardown', [`${count}`, `${seed}`, folder], runtime)
    expectQuiet(outcome, `${count} Workers of seed ${seed}`)
    return JSON.parse(outcome.stdout) as Record<string, number>
  })
}

/** Ends a process whose Workers have I/O going on. */
export function exitWithWorkers(seed: number, runtime: Runtime = {}): Promise<void> {
  return withFolder(async (folder) => {
    const outcome = await run('teardown', ['exit', `${seed}`, folder], runtime)
    expectQuiet(outcome, `process.exit() with Workers of seed ${seed}`)
  })
}

/** Lets a process without Workers end itself in the middle of its I/O. It may print only its own error, and leaves no socket's file. */
export function endProcess(how: Task['how'], seed: number, runtime: Runtime = {}): Promise<void> {
  return withFolder(async (folder) => {
    const task: Task = { seed, how, after: generator(seed).below(100), folder }
    const { end, stderr } = await run('teardown-worker', [JSON.stringify(task)], runtime)
    const what = `a process of seed ${seed} (${how})`
    const expected = { exit: 7, end: 0, throw: 1, 'throw-in-io': 1, reject: 1, wait: 0 }[how]
    if (end !== expected) throw new Error(`${what} ended with ${end}: ${stderr}`)
    // One error, and no second one that it led to.
    const errors = stderr.match(/^\w*(Error|Warning).*$|on purpose$/gm) ?? []
    const right = expected === 1 ? errors.length === 1 && errors[0]!.endsWith('on purpose') : stderr === ''
    if (!right) throw new Error(`${what} said: ${stderr}`)
    const files = readdirSync(folder)
    if (files.length > 0) throw new Error(`${what} has left ${files.join()}`)
  })
}
