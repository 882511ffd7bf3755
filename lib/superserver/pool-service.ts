import { clearInterval, setInterval } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemError, native } from '../native/internal.ts'
import { WorkerGroup } from './worker-group.ts'
import { NativeService } from './native-service.ts'
import type { Events } from './events.ts'
import { type SuperserverStats, countersOf } from './stats.ts'
import type { Settings } from './settings.ts'
import type { Worker, WorkerTransport } from './worker.ts'

/** A service that passes each connection to one of its workers. */
export class PoolService extends NativeService {
  readonly #workerGroup: WorkerGroup
  /** The workers by their numbers in the native pool, and the reverse. */
  readonly #workers = new Map<number, Worker>()
  readonly #numbers = new Map<Worker, number>()
  #watch: NodeJS.Timeout | undefined

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    const { maxConnections, maxPerWorker, maxPerClient } = settings
    this.open(() => native.openPool({ maxConnections, maxPerWorker, maxPerClient }))
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
        this.drainEvents()
      }
    }
  }

  protected override workerReady(number: number): void {
    this.#workers.get(number)?.markReady()
  }

  /** Kills a worker whose channel failed before its connections are reassigned, because it may already be reading from them. */
  protected override channelFailed(number: number): void {
    this.#workers.get(number)?.kill()
  }

  protected override workerRemoved(number: number, lost: number): void {
    const worker = this.#workers.get(number)
    if (worker === undefined) return
    this.#workers.delete(number)
    this.#numbers.delete(worker)
    worker.lost = lost
    // No channel is left to it. A draining worker without lost connections has finished its work, and exits by itself.
    if (lost > 0 || worker.phase !== 'draining') worker.kill()
  }

  protected async startWorkers(): Promise<void> {
    this.#watchAcknowledgements(this.settings)
    await this.#workerGroup.start()
  }

  /** Kills workers that exceed `acknowledgeTimeout`; their unacknowledged connections are reassigned. */
  #watchAcknowledgements({ acknowledgeTimeout }: Settings): void {
    clearInterval(this.#watch)
    if (this.native < 0) return
    const check = () => {
      const number = native.overdueWorker(this.native, acknowledgeTimeout)
      if (number >= 0) this.#workers.get(number)?.kill()
    }
    this.#watch = setInterval(check, Math.max(acknowledgeTimeout / 4, 10)).unref()
  }

  protected async apply(settings: Settings): Promise<void> {
    await this.#workerGroup.replace(settings)
    const { maxConnections, maxPerWorker, maxPerClient } = settings
    native.setPoolSettings(this.native, { maxConnections, maxPerWorker, maxPerClient })
    this.#watchAcknowledgements(settings)
    this.drainEvents()
  }

  protected async shutDown(): Promise<void> {
    const idle = this.untilIdle()
    await this.#workerGroup.stop(this.remaining)
    // The last workers may have died before they acknowledged their connections.
    while (this.#hasWaiting && this.remaining > 0) {
      try {
        const worker = await this.#workerGroup.spawnReplacement()
        while (this.#hasWaiting && this.remaining > 0 && !worker.child.closed) await sleep(10)
      } catch (error) {
        this.reportFailure(error)
        await sleep(Math.min(this.remaining, 100))
      }
      await this.#workerGroup.stop(this.remaining)
    }
    if (!this.#hasWaiting) await idle
    clearInterval(this.#watch)
    this.closeNative()
  }

  protected deadlineChanged(): void {
    this.#workerGroup.shortenDeadline(this.remaining)
  }

  /** Whether connections wait for a worker. */
  get #hasWaiting(): boolean {
    return (this.state()?.waiting ?? 0) > 0
  }

  stats(): SuperserverStats {
    const state = this.state()
    const workers = [...this.#workerGroup.all].map((worker) => {
      const known = state?.workers.find(({ worker: number }) => number === this.#numbers.get(worker))
      return {
        service: this.name,
        pid: worker.child.pid,
        state: worker.phase,
        connections: known?.connections ?? 0,
        unacknowledged: known?.unacknowledged ?? 0
      }
    })
    return { ...countersOf(state), spawned: this.spawned, workers }
  }
}
