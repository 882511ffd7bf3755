// What every part of the soak test has: random numbers, counters, programs that end with it, and a look at what the process holds
// before it and after it. Each part is a long-lived process that tools/check/soak.mjs starts, with an IPC channel.
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { differences, fillTable, freeTable, resources } from '../helpers/descriptors.ts'
import { fixtureSource } from '../helpers/processes.ts'
import { generator } from '../helpers/random.ts'

const collect = (globalThis as unknown as { gc(): void }).gc

/** The compiled path of a program of the soak test. */
export const programPath = (name: string) => fileURLToPath(new URL(`${name}.js`, import.meta.url))

/** A program that a part has started. */
export interface Program {
  readonly child: ChildProcess
  /** The next line that it prints; undefined at its end. */
  line(): Promise<string | undefined>
  readonly ended: Promise<readonly [code: number | null, signal: string | null]>
}

/** The programs that run; they end with this process. */
const children = new Set<ChildProcess>()
process.once('exit', () => children.forEach((child) => child.kill('SIGKILL')))

export class Scene {
  stopped = false
  #isFull = false
  readonly counts: Record<string, number> = {}
  readonly problems: string[] = []
  readonly random: ReturnType<typeof generator>

  constructor(seed: number) {
    this.random = generator(seed)
  }

  count(what: string, by = 1): void {
    this.counts[what] = (this.counts[what] ?? 0) + by
  }

  /** Something that must not be. */
  problem(what: unknown): void {
    this.count('problems')
    if (this.problems.length < 20)
      this.problems.push(what instanceof Error ? (what.stack ?? what.message) : String(what))
  }

  /** Counts an error that may be, by its code; any other is a problem. */
  told(what: string, error: unknown, allowed: readonly string[]): void {
    const code = (error as NodeJS.ErrnoException | null)?.code ?? String(error)
    if (allowed.includes(code)) this.count(`${what}: ${code}`)
    else this.problem(`${what}: ${error instanceof Error ? error.stack : code}`)
  }

  /** A number between two bounds. */
  between(least: number, most: number): number {
    return least + this.random.below(most - least)
  }

  /** Whether what happens once in so many times happens now. */
  oneIn(times: number): boolean {
    return this.random.below(times) === 0
  }

  /** Does something again and again, with a pause before each, until the end. */
  async repeat(least: number, most: number, task: () => unknown): Promise<void> {
    for (;;) {
      // In parts, so that the end is not waited for.
      for (let left = this.between(least, most); left > 0 && !this.stopped; left -= 100)
        await delay(Math.min(left, 100))
      if (this.stopped) return
      try {
        await task()
      } catch (error) {
        this.problem(error)
      }
    }
  }

  /** Leaves no room in the descriptor table of this process for a moment. */
  async fillTable(most: number): Promise<void> {
    this.#isFull = true
    fillTable()
    await delay(this.random.below(most))
    freeTable()
    this.#isFull = false
    this.count('full tables')
  }

  /** Waits until there is room, so that a program can be started. */
  async room(): Promise<void> {
    while (this.#isFull) await delay(20)
  }

  /** Has hostile peers connect to a socket, one after the other, until the end. Each sends noise between frames that claim too much. */
  async attack(path: string): Promise<void> {
    await this.repeat(200, 1500, async () => {
      await this.room()
      const args = [fixtureSource('hostile.py'), 'noise', path, `${this.random.below(2 ** 31)}`]
      const child = spawn('python3', args, { stdio: ['ignore', 'ignore', 'inherit'] })
      children.add(child)
      await once(child, 'close')
      children.delete(child)
      this.count('hostile peers')
    })
  }

  /** A promise that has to settle: what is missing after half a minute is a problem. */
  async settles<T>(what: string, promise: Promise<T>): Promise<T> {
    const late = new AbortController()
    const timeout = delay(30_000, undefined, { signal: late.signal }).then(
      () => {
        throw Object.assign(new Error(`${what}: no answer in 30 s`), { code: 'MISSING' })
      },
      () => new Promise<never>(() => {})
    )
    try {
      return await Promise.race([promise, timeout])
    } finally {
      late.abort()
    }
  }

  /** Starts a program of Node's, with at most so many descriptors. */
  start(path: string, args: readonly string[] = [], options: SpawnOptions & { limit?: number } = {}): Program {
    const { limit, ...rest } = options
    const node = [process.execPath, path, ...args]
    const [command, ...words] =
      limit === undefined ? node : ['sh', '-c', 'ulimit -n "$0" && exec "$@"', `${limit}`, ...node]
    const child = spawn(command!, words, { stdio: ['ignore', 'pipe', 'inherit'], ...rest })
    children.add(child)
    const lines = child.stdout === null ? undefined : createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const ended = once(child, 'close') as unknown as Program['ended']
    void ended.then(
      () => children.delete(child),
      () => children.delete(child)
    )
    return { child, ended, line: async () => (await lines?.next())?.value as string | undefined }
  }
}

/** What a part holds. */
export interface State {
  readonly fds: number
  readonly threads: number
  /** In KiB, after a garbage collection. */
  readonly rss: number
  readonly heap: number
}

const sum = (tally: Readonly<Record<string, number>>) => Object.values(tally).reduce((total, some) => total + some, 0)

function state(): State {
  collect()
  const { fds, threads } = resources()
  const { rss, heapUsed } = process.memoryUsage()
  return { fds: sum(fds), threads: sum(threads), rss: rss >> 10, heap: heapUsed >> 10 }
}

function tell(message: object): void {
  process.send?.(message)
}

/** Plays a part: a few seconds to have everything opened that stays open, then until the IPC channel says that it is enough. */
export async function play(run: (scene: Scene) => Promise<void>): Promise<void> {
  const scene = new Scene(Number(process.argv[2]))
  process.once('disconnect', () => process.exit(1))
  process.on('warning', (warning) => {
    // A broker or a store that could accept nothing; its table is full now and then.
    const isFull = /^(broker|store): EMFILE: /.test(warning.message)
    if (isFull) scene.count(`warnings: ${warning.message}`)
    else scene.problem(warning)
  })

  setTimeout(() => (scene.stopped = true), 5000)
  await run(scene)
  await settled(undefined)
  const before = resources()
  tell({ kind: 'baseline', state: state() })

  scene.stopped = false
  process.once('message', () => (scene.stopped = true))
  const samples = setInterval(() => {
    try {
      tell({ kind: 'sample', state: state(), counts: scene.counts, problems: scene.problems })
    } catch (error) {
      scene.told('sample', error, ['EMFILE'])
    }
  }, 5000)
  await run(scene)
  clearInterval(samples)
  const after = await settled(before)
  for (const what of ['fds', 'threads'] as const) {
    for (const difference of differences(after[what], before[what])) scene.problem(`left ${what}: ${difference}`)
  }
  tell({ kind: 'end', state: state(), counts: scene.counts, problems: scene.problems })
  setTimeout(() => process.exit(0), 100)
}

/** A quiet moment, which is longer while more is held than before. */
async function settled(before: ReturnType<typeof resources> | undefined): Promise<ReturnType<typeof resources>> {
  for (let i = 0; ; i++) {
    await delay(500)
    collect()
    const now = resources()
    if (i >= (before === undefined ? 3 : 20)) return now
    const level = (what: 'fds' | 'threads') => before !== undefined && differences(now[what], before[what]).length === 0
    if (level('fds') && level('threads')) return now
  }
}
