import { readFile } from 'node:fs/promises'
import { clearInterval, clearTimeout, setInterval, setTimeout } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { RestartBackoff, withCode } from '../base/internal.ts'
import type { ExitStatus } from './child.ts'
import type { Settings } from './settings.ts'
import { variablesOf, type PassedSocket } from './passed-socket.ts'
import { argumentsOf } from './program.ts'
import { type ConnectWorker, Worker } from './worker.ts'
import type { WorkerNote } from './worker-note.ts'

/** How often the memory of workers is compared with `maxMemory`, in milliseconds. */
const MEMORY_INTERVAL_MS = 1000

/** Callbacks of a {@link WorkerGroup}. */
export interface WorkerGroupEvents {
  spawned(worker: Worker): unknown
  ready(worker: Worker): unknown
  exited(worker: Worker, status: ExitStatus): unknown
  /** A worker could not be started. */
  failed(error: unknown): unknown
}

/** The workers of a service. Restarts workers that die. */
export class WorkerGroup {
  readonly #connect: ConnectWorker
  /** Describes the sockets of a service for its workers. */
  readonly #passed: (settings: Settings) => readonly PassedSocket[]
  readonly #events: WorkerGroupEvents
  #settings: Settings
  /** The workers that serve or are starting. */
  #current = new Set<Worker>()
  /** All workers whose processes have not exited. */
  readonly all = new Set<Worker>()
  readonly #delays = new Set<NodeJS.Timeout>()
  readonly #backoff = new RestartBackoff()
  #stopping = false
  #spawned = 0
  #memoryTimer: NodeJS.Timeout | undefined

  constructor(
    settings: Settings,
    connect: ConnectWorker,
    passed: (settings: Settings) => readonly PassedSocket[],
    events: WorkerGroupEvents
  ) {
    this.#settings = settings
    this.#connect = connect
    this.#passed = passed
    this.#events = events
  }

  /** Starts the workers; resolves when all are ready. If one fails, all are killed. */
  async start(): Promise<void> {
    this.#install(await this.#startAll(this.#settings))
  }

  /** Starts a new set of workers, and drains the old ones when the new ones are ready. If one fails, nothing changes. */
  async replace(settings: Settings): Promise<void> {
    const started = await this.#startAll(settings)
    const old = this.#current
    this.#settings = settings
    for (const delay of this.#delays) clearTimeout(delay)
    this.#delays.clear()
    for (const worker of old) worker.drain()
    this.#install(started)
  }

  #install(started: Set<Worker>): void {
    this.#current = started
    clearInterval(this.#memoryTimer)
    const { maxMemory } = this.#settings
    if (maxMemory !== Infinity) {
      this.#memoryTimer = setInterval(() => void this.#retireLarge(maxMemory), MEMORY_INTERVAL_MS).unref()
    }
    // Some may have died, or asked for a replacement, while the others were starting.
    for (const worker of started) {
      if (!this.all.has(worker)) this.#replaceEnded(worker)
      else if (worker.isRetiring) void this.#replaceServing(worker)
    }
  }

  /** Drains all workers, and kills those that exceed the timeout; resolves when all have exited. */
  async stop(timeout: number): Promise<void> {
    this.#stopping = true
    clearInterval(this.#memoryTimer)
    for (const delay of this.#delays) clearTimeout(delay)
    this.#delays.clear()
    this.shortenDeadline(timeout)
    while (this.all.size > 0) await Promise.all([...this.all].map((worker) => worker.ended))
  }

  /** Drains the workers that are not draining yet, and sets the time after which all are killed, in milliseconds. */
  shortenDeadline(timeout: number): void {
    for (const worker of this.all) worker.drain(timeout)
  }

  /** Starts one more worker during `stop`, for connections that the others left unacknowledged; resolves when it is ready. */
  async spawnReplacement(): Promise<Worker> {
    const worker = this.#spawn(this.#settings, 0)
    await worker.ready
    return worker
  }

  /** Handles a note of a worker. */
  note(worker: Worker, { retire, waits }: WorkerNote): void {
    if (waits !== undefined) worker.waits = waits
    if (retire === true) this.retire(worker)
  }

  /** Starts a replacement for a worker, and drains the worker when the replacement is ready. Does nothing if it is replaced already. */
  retire(worker: Worker): void {
    if (worker.isRetiring || worker.phase === 'draining') return
    worker.isRetiring = true
    void this.#replaceServing(worker)
  }

  /** Retires the workers that have more memory than they may have. */
  async #retireLarge(maxMemory: number): Promise<void> {
    for (const worker of this.#current) {
      const memory = await residentMemory(worker.child.pid).catch(() => 0) // it has just ended
      if (memory > maxMemory && !worker.child.closed) this.retire(worker)
    }
  }

  async #replaceServing(worker: Worker): Promise<void> {
    // A worker that asks for a replacement as soon as it is ready must not have processes started without a pause.
    let lifetime = performance.now() - worker.readySince
    while (this.#current.has(worker) && !this.#stopping) {
      try {
        await sleep(this.#backoff.next(lifetime), undefined, { ref: false })
        lifetime = 0
        if (!this.#current.has(worker) || this.#stopping) return
        const next = this.#spawn(this.#settings, worker.place)
        await next.ready
        // Otherwise a reload has drained it, or it has died and been replaced.
        const isNeeded = this.#current.delete(worker) && this.all.has(next)
        if (isNeeded) this.#current.add(next)
        ;(isNeeded ? worker : next).drain()
        if (isNeeded && next.isRetiring) void this.#replaceServing(next) // it has asked before it was one of them
        return
      } catch (error) {
        this.#events.failed(error)
      }
    }
  }

  async #startAll(settings: Settings): Promise<Set<Worker>> {
    const started = new Set<Worker>()
    if (this.#stopping) throw superserverClosed()
    try {
      for (let place = 0; place < settings.workers; place++) started.add(this.#spawn(settings, place))
      await Promise.all([...started].map((worker) => worker.ready))
      return started
    } catch (error) {
      for (const worker of started) worker.kill()
      await Promise.all([...started].map((worker) => worker.ended))
      throw error
    }
  }

  #spawn(settings: Settings, place: number): Worker {
    const { drainTimeout, program } = settings
    const environment = variablesOf(this.#passed(settings), drainTimeout, place, settings.ready, program.environment)
    const args = argumentsOf(program, this.#spawned++)
    const worker = new Worker(settings, place, { ...program, arguments: args, environment }, this.#connect)
    this.all.add(worker)
    this.#events.spawned(worker)
    void this.#follow(worker)
    return worker
  }

  /** Reports a worker's readiness and exit, and replaces it. */
  async #follow(worker: Worker): Promise<void> {
    await worker.ready.then(
      () => this.#events.ready(worker),
      () => {} // `exited` reports the reason
    )
    const status = await worker.ended
    this.all.delete(worker)
    this.#events.exited(worker, status)
    this.#replaceEnded(worker)
  }

  /** Replaces a worker that has died, immediately if it served for a while. */
  #replaceEnded(worker: Worker): void {
    if (!this.#current.delete(worker) || this.#stopping) return
    this.#scheduleSpawn(worker.place, performance.now() - worker.readySince)
  }

  /** Starts a worker after the delay that follows a worker of this lifetime, in milliseconds. */
  #scheduleSpawn(place: number, lifetime: number): void {
    const timer = setTimeout(() => {
      this.#delays.delete(timer)
      try {
        this.#current.add(this.#spawn(this.#settings, place))
      } catch (error) {
        this.#events.failed(error)
        this.#scheduleSpawn(place, 0)
      }
    }, this.#backoff.next(lifetime))
    this.#delays.add(timer)
  }
}

/** Returns the resident set of a process in bytes: proc_pid_status(5). */
async function residentMemory(pid: number): Promise<number> {
  const [, kibibytes] = /^VmRSS:\s*(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kibibytes ?? 0) * 1024
}

/** Returns the error of a call on a closed superserver. */
export function superserverClosed(): Error {
  return withCode(new Error('The superserver is closed'), 'ERR_SERVER_CLOSED')
}
