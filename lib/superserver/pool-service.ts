import { clearInterval, setInterval } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { MAX_INT } from '../base/internal.ts'
import { systemError, native } from '../native/internal.ts'
import { WorkerGroup } from './worker-group.ts'
import { NativeService } from './native-service.ts'
import type { Events } from './events.ts'
import { type SuperserverStats, countersOf } from './stats.ts'
import type { Settings } from './settings.ts'
import type { Worker, WorkerTransport } from './worker.ts'
import { decodeNote } from './worker-note.ts'

/** A service that passes each connection to one of its workers. */
export class PoolService extends NativeService {
  readonly #workerGroup: WorkerGroup
  /** The workers by their numbers in the native pool, and the reverse. */
  readonly #workers = new Map<number, Worker>()
  readonly #numbers = new Map<Worker, number>()
  /** The workers whose processes have exited, and what to call when the native pool has removed them. */
  readonly #removals = new Map<number, () => void>()
  #watch: NodeJS.Timeout | undefined
  /** Whether workers run as another user, or did before a reload. */
  #isForeign: boolean

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    this.#isForeign = isForeign(settings)
    const { maxConnections, maxPerWorker, maxPerClient } = settings
    this.open(() => native.openPool({ maxConnections, maxPerWorker, maxPerClient }))
    this.#workerGroup = new WorkerGroup(
      settings,
      (channel, worker) => this.#connect(channel, worker),
      this.passedSockets,
      this.workerEvents
    )
  }

  #connect(channel: number, worker: Worker): WorkerTransport {
    const number = native.addWorker(this.native, channel, this.#isForeign, spread(worker.settings.maxServed))
    if (number < 0) {
      worker.kill()
      throw systemError(number, 'uv_poll_start')
    }
    this.#workers.set(number, worker)
    this.#numbers.set(worker, number)
    return {
      drain: (timeout) => {
        if (this.native >= 0) native.drainWorker(this.native, number, Math.min(timeout, MAX_INT))
      },
      release: () => this.#remove(number)
    }
  }

  /** Removes a worker whose process has exited. The native pool receives the worker's last frames first. */
  #remove(number: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.native >= 0) native.forgetWorker(this.native, number)
      this.drainEvents()
      if (this.native < 0 || !this.#workers.has(number)) return resolve()
      this.#removals.set(number, resolve)
    })
  }

  protected override closeNative(): void {
    super.closeNative()
    for (const removed of this.#removals.values()) removed()
    this.#removals.clear()
  }

  protected override workerReady(number: number): void {
    this.#workers.get(number)?.markReady()
  }

  protected override workerServed(number: number): void {
    const worker = this.#workers.get(number)
    if (worker !== undefined) this.#workerGroup.retire(worker)
  }

  protected override workerNote(number: number, note: string): void {
    const worker = this.#workers.get(number)
    if (worker !== undefined) this.#workerGroup.note(worker, decodeNote(note))
  }

  /** Kills a worker whose channel failed before its connections are reassigned, because it may already be reading from them. */
  protected override channelFailed(number: number): void {
    this.#workers.get(number)?.kill('channel')
  }

  protected override workerRemoved(number: number, lost: number): void {
    const worker = this.#workers.get(number)
    if (worker === undefined) return
    this.#workers.delete(number)
    this.#numbers.delete(worker)
    worker.lost = lost
    this.#removals.get(number)?.()
    this.#removals.delete(number)
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
      if (number >= 0) this.#workers.get(number)?.kill('acknowledgeTimeout')
    }
    this.#watch = setInterval(check, Math.max(acknowledgeTimeout / 4, 10)).unref()
  }

  protected async apply(settings: Settings): Promise<void> {
    this.#isForeign ||= isForeign(settings)
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

/** Returns a limit of one worker, up to a tenth less than that of all: otherwise they would reach it all at once. */
function spread(limit: number): number {
  return limit < 0 ? limit : Math.max(Math.ceil(limit * (1 - Math.random() / 10)), 1)
}

/** Returns whether a service's workers run as another user than this process. */
function isForeign({ program }: Settings): boolean {
  return program.credential !== undefined && program.credential.uid !== process.geteuid!()
}
