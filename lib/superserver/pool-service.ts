import { clearInterval, setInterval } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemError, native } from '../native/internal.ts'
import { WorkerGroup } from './worker-group.ts'
import { NativeService } from './native-service.ts'
import { type Events, type SuperserverStats, countersOf } from './service.ts'
import type { Settings } from './settings.ts'
import type { Worker, WorkerTransport } from './worker.ts'

/** A service whose workers are given connections. */
export class PoolService extends NativeService {
  readonly #workerGroup: WorkerGroup
  /** The workers by their numbers in the pool, and those numbers. */
  readonly #workers = new Map<number, Worker>()
  readonly #numbers = new Map<Worker, number>()
  #watch: NodeJS.Timeout | undefined

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    const { maxConnections, maxPerWorker, maxPerClient } = settings
    this.open(() => native.openPool(maxConnections, maxPerWorker, maxPerClient))
    this.#workerGroup = new WorkerGroup(
      settings,
      (channel, worker) => this.#connect(channel, worker),
      this.workerEvents
    )
  }

  #connect(channel: number, worker: Worker): WorkerTransport {
    const number = native.addWorker(this.native, channel)
    if (number < 0) {
      worker.kill()
      throw systemError(number, 'uv_poll_start')
    }
    this.#workers.set(number, worker)
    this.#numbers.set(worker, number)
    return {
      drain: () => {
        if (this.native >= 0) native.drainWorker(this.native, number)
      },
      release: () => {
        if (this.native >= 0) native.forgetWorker(this.native, number)
        this.hear()
      }
    }
  }

  protected override workerReady(number: number): void {
    this.#workers.get(number)?.markReady()
  }

  /** What it was given goes to others when its process has ended, which it may be reading of until then. */
  protected override workerBroken(number: number): void {
    this.#workers.get(number)?.kill()
  }

  protected override workerGone(number: number, lost: number): void {
    const worker = this.#workers.get(number)
    if (worker === undefined) return
    this.#workers.delete(number)
    this.#numbers.delete(worker)
    worker.lost = lost
    // It can be told nothing any more, and tell nothing. One that was let go has done what it had, and may take its time.
    if (lost > 0 || worker.phase !== 'draining') worker.kill()
  }

  protected async begin(): Promise<void> {
    this.#watchOver(this.settings)
    await this.#workerGroup.start()
  }

  /** Ends workers that hang: what they have not acknowledged goes to others. */
  #watchOver({ acknowledgeTimeout }: Settings): void {
    clearInterval(this.#watch)
    if (this.native < 0) return
    const look = () => {
      const number = native.overdueWorker(this.native, acknowledgeTimeout)
      if (number >= 0) this.#workers.get(number)?.kill()
    }
    this.#watch = setInterval(look, Math.max(acknowledgeTimeout / 4, 10)).unref()
  }

  protected async change(settings: Settings): Promise<void> {
    await this.#workerGroup.replace(settings)
    const { maxConnections, maxPerWorker, maxPerClient } = settings
    native.limitPool(this.native, maxConnections, maxPerWorker, maxPerClient)
    this.#watchOver(settings)
    this.hear()
  }

  protected async end(): Promise<void> {
    const idle = this.untilIdle()
    await this.#workerGroup.stop(this.remaining)
    // The last ones may have died before they acknowledged what they were given.
    while (this.#isLeftBehind && this.remaining > 0) {
      try {
        const worker = await this.#workerGroup.spawnReplacement()
        while (this.#isLeftBehind && this.remaining > 0 && !worker.child.closed) await sleep(10)
      } catch (error) {
        this.reportFailure(error)
        await sleep(Math.min(this.remaining, 100))
      }
      await this.#workerGroup.stop(this.remaining)
    }
    if (!this.#isLeftBehind) await idle
    clearInterval(this.#watch)
    this.closeNative()
  }

  protected deadlineChanged(): void {
    this.#workerGroup.shortenDeadline(this.remaining)
  }

  /** Whether connections wait although no worker is left. */
  get #isLeftBehind(): boolean {
    return (this.state()?.waiting ?? 0) > 0
  }

  stats(): SuperserverStats {
    const state = this.state()
    const workers = [...this.#workerGroup.all].map((worker) => {
      const told = state?.workers.find(({ worker: number }) => number === this.#numbers.get(worker))
      return {
        service: this.name,
        pid: worker.child.pid,
        state: worker.phase,
        connections: told?.connections ?? 0,
        unacknowledged: told?.unacknowledged ?? 0
      }
    })
    return { ...countersOf(state), spawned: this.spawned, workers }
  }
}
