import { clearTimeout, setTimeout } from 'node:timers'
import { RestartBackoff } from '../base/internal.ts'
import { superserverClosed } from './errors.ts'
import type { ExitStatus } from './child.ts'
import type { Settings } from './settings.ts'
import { type ConnectWorker, Worker } from './worker.ts'

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
  readonly #events: WorkerGroupEvents
  #settings: Settings
  /** The workers that serve or are starting. */
  #current = new Set<Worker>()
  /** All workers whose processes have not exited. */
  readonly all = new Set<Worker>()
  readonly #delays = new Set<NodeJS.Timeout>()
  readonly #backoff = new RestartBackoff()
  #stopping = false

  constructor(settings: Settings, connect: ConnectWorker, events: WorkerGroupEvents) {
    this.#settings = settings
    this.#connect = connect
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
    // Some may have died while the others were starting.
    for (const worker of started) if (!this.all.has(worker)) this.#replaceEnded(worker)
  }

  /** Drains all workers, and kills those that exceed the timeout; resolves when all have exited. */
  async stop(timeout: number): Promise<void> {
    this.#stopping = true
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
    const worker = this.#spawn(this.#settings)
    await worker.ready
    return worker
  }

  async #startAll(settings: Settings): Promise<Set<Worker>> {
    const started = new Set<Worker>()
    if (this.#stopping) throw superserverClosed()
    try {
      for (let i = 0; i < settings.workers; i++) started.add(this.#spawn(settings))
      await Promise.all([...started].map((worker) => worker.ready))
      return started
    } catch (error) {
      for (const worker of started) worker.kill()
      await Promise.all([...started].map((worker) => worker.ended))
      throw error
    }
  }

  #spawn(settings: Settings): Worker {
    const worker = new Worker(settings, this.#connect)
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
    this.#scheduleSpawn(performance.now() - worker.readySince)
  }

  /** Starts a worker after the delay that follows a worker of this lifetime, in milliseconds. */
  #scheduleSpawn(lifetime: number): void {
    const timer = setTimeout(() => {
      this.#delays.delete(timer)
      try {
        this.#current.add(this.#spawn(this.#settings))
      } catch (error) {
        this.#events.failed(error)
        this.#scheduleSpawn(0)
      }
    }, this.#backoff.next(lifetime))
    this.#delays.add(timer)
  }
}
