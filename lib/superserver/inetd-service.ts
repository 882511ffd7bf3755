import { clearTimeout, setTimeout } from 'node:timers'
import { MAX_INT } from '../base/internal.ts'
import { type NativeExitStatus, native } from '../native/internal.ts'
import { exitStatusOf, spawnError } from './child.ts'
import { NativeService } from './native-service.ts'
import type { Events } from './events.ts'
import { type SuperserverStats, countersOf } from './stats.ts'
import type { Settings } from './settings.ts'

/** A service that runs a program for each connection (`nowait`), or one program for the listener (`wait`). */
export class InetdService extends NativeService {
  #timer: NodeJS.Timeout | undefined
  #giveUp: () => void = () => {}

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    const { program, handoff, maxConnections, maxPerClient, maxSpawns } = settings
    const mode = handoff === 'wait' ? 'wait' : 'nowait'
    this.open(() => native.openInetd(mode, program, { maxConnections, maxPerClient, maxSpawns }))
  }

  protected override programFailed(errno: number, syscall: string): void {
    this.reportFailure(spawnError(errno, syscall, this.settings.program))
  }

  protected override programEnded(pid: number, status: NativeExitStatus): void {
    this.reportExit(pid, exitStatusOf(status))
  }

  protected startWorkers(): Promise<void> {
    return Promise.resolve()
  }

  protected apply({ program, maxConnections, maxPerClient, maxSpawns }: Settings): Promise<void> {
    native.setInetdProgram(this.native, program, { maxConnections, maxPerClient, maxSpawns })
    return Promise.resolve()
  }

  /** Waits for its programs without a limit. */
  override retire(): Promise<void> {
    return this.stop(Infinity)
  }

  /** Leaves programs running that exceed the deadline: each has a session of its own and nothing of this process but its socket. */
  protected async shutDown(): Promise<void> {
    const timedOut = new Promise<void>((resolve) => (this.#giveUp = resolve))
    this.deadlineChanged()
    await Promise.race([this.untilIdle(), timedOut])
    clearTimeout(this.#timer)
    this.closeNative()
  }

  protected deadlineChanged(): void {
    clearTimeout(this.#timer)
    // An unlimited deadline becomes the longest delay of a timer.
    this.#timer = setTimeout(() => this.#giveUp(), Math.min(this.remaining, MAX_INT)).unref()
  }

  stats(): SuperserverStats {
    const state = this.state()
    const { handoff } = this.settings
    const workers = (state?.programs ?? []).map((pid) => {
      const connections = handoff === 'wait' ? null : 1
      return { service: this.name, pid, state: 'running' as const, connections, unacknowledged: 0 }
    })
    const counters = countersOf(state)
    return { ...counters, spawned: counters.acknowledged, workers }
  }
}
