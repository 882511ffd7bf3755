import { clearTimeout, setTimeout } from 'node:timers'
import { MAX_INT } from '../base/internal.ts'
import { native } from '../native/internal.ts'
import { exitStatusOf, spawnError } from './child.ts'
import { NativeService } from './native-service.ts'
import { type Events, type SuperserverStats, countersOf } from './service.ts'
import type { Settings } from './settings.ts'

/** A service that starts a program for each connection, or for the listener. */
export class InetdService extends NativeService {
  #timer: NodeJS.Timeout | undefined
  #letGo: () => void = () => {}

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    const { program, handoff, maxConnections, maxPerClient, maxSpawns } = settings
    const waits = handoff === 'wait' ? 1 : 0
    this.open(() => native.openInetd(program, waits, maxConnections, maxPerClient, maxSpawns))
  }

  protected override programFailed(code: number, step: number): void {
    this.reportFailure(spawnError(code, step, this.settings.program))
  }

  protected override programEnded(pid: number, status: number): void {
    this.reportExit(pid, exitStatusOf(status), 0)
  }

  protected begin(): Promise<void> {
    return Promise.resolve()
  }

  protected change({ program, maxConnections, maxPerClient, maxSpawns }: Settings): Promise<void> {
    native.setProgram(program, this.native, maxConnections, maxPerClient, maxSpawns)
    return Promise.resolve()
  }

  /** Its programs end when they are done. */
  override retire(): Promise<void> {
    return this.stop(Infinity)
  }

  /** What runs when no time is left goes on by itself: each program has a session of its own, and only its connection. */
  protected async end(): Promise<void> {
    const late = new Promise<void>((resolve) => (this.#letGo = resolve))
    this.deadlineChanged()
    await Promise.race([this.untilIdle(), late])
    clearTimeout(this.#timer)
    this.closeNative()
  }

  protected deadlineChanged(): void {
    clearTimeout(this.#timer)
    // The longest that a timer takes; nobody waits for it then.
    this.#timer = setTimeout(() => this.#letGo(), Math.min(this.remaining, MAX_INT)).unref()
  }

  stats(): SuperserverStats {
    const state = this.state()
    const { handoff } = this.settings
    const workers = (state?.programs ?? []).map((pid) => {
      const connections = handoff === 'wait' ? null : 1
      return { service: this.name, pid, state: 'ready' as const, connections, unacknowledged: 0 }
    })
    const counters = countersOf(state)
    return { ...counters, spawned: counters.acknowledged, workers }
  }
}
