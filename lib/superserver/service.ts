import { EventEmitter } from 'node:events'
import { superserverClosed } from './errors.ts'
import { warnOfService, ListeningSocket, type Source } from '../socket/internal.ts'
import type { ExitStatus } from './child.ts'
import type { WorkerGroupEvents } from './worker-group.ts'
import type { Settings } from './settings.ts'

/** The state of a process of a service. */
export interface WorkerState {
  /** The service's name. */
  readonly service: string
  /** The process's pid. */
  readonly pid: number
  /** `'starting'` until it is ready; `'draining'` while it finishes its last connections. A program of `nowait` or `wait` is `'ready'`. */
  readonly state: 'starting' | 'ready' | 'draining'
  /** The number of its connections; null if it accepts connections itself. */
  readonly connections: number | null
  /** The number of its connections that it has not acknowledged. */
  readonly unacknowledged: number
}

/** Counters since the start. Connections that workers accept themselves are not counted. */
export interface ConnectionCounters {
  /** Connections accepted. */
  accepted: number
  /** Connections that a worker has acknowledged, or for which a program was started. */
  acknowledged: number
  /** Connections that ended normally: the worker reported the end, or the program exited. */
  completed: number
  /**
   * Connections of a worker that died after it had acknowledged them; they were reset (TCP) or closed. Also connections for which
   * the program could not be executed.
   */
  lost: number
  /** Connections closed immediately, because their client had reached `maxPerClient` or every worker returned them. */
  refused: number
  /** Connections reassigned, because a worker died before it acknowledged them or returned them. */
  handedOn: number
  /** Processes started. */
  spawned: number
}

/** Statistics of a superserver. */
export interface SuperserverStats extends ConnectionCounters {
  /** Connections that workers or programs hold now. */
  active: number
  /** Connections that were accepted and wait for a worker or program. */
  waiting: number
  /** The running processes. */
  workers: WorkerState[]
}

/** An event about a process of a service. */
export interface ProcessEvent {
  /** The service's name. */
  readonly service: string
  /** The process's pid. */
  readonly pid: number
}

/** An event about the exit of a process. */
export interface ExitEvent extends ProcessEvent, ExitStatus {
  /** The number of connections lost with it: see {@link ConnectionCounters.lost}. */
  readonly lost: number
}

/** An event about a service that starts no process for a while. */
export interface PauseEvent {
  /** The service's name. */
  readonly service: string
  /** The length of the pause. */
  readonly milliseconds: number
}

/** An event about a failure. */
export interface FailureEvent {
  /** The service's name; `'superserver'` for a failure of the whole superserver. */
  readonly service: string
  /** The error. */
  readonly error: Error
}

/** The events of a {@link Superserver}. */
export interface SuperserverEventMap {
  /** A worker, or the program of a `wait` service, was started. */
  spawn: [ProcessEvent]
  /** A worker is ready. */
  ready: [ProcessEvent]
  /** A worker or the program of a `wait` service exited, or the program of a `nowait` service failed. */
  exit: [ExitEvent]
  /** A service has reached `maxSpawns` and pauses. */
  pause: [PauseEvent]
  /**
   * An operation failed: a program could not be executed, the descriptor table was full, or a reload by SIGHUP failed. Without a
   * listener for this event, each distinct failure is emitted once as a process warning.
   */
  failure: [FailureEvent]
}

/** The emitter of a superserver's events. */
export type Events = EventEmitter<SuperserverEventMap>

/** A service of a superserver: its listeners and its processes. */
export abstract class Service {
  protected settings: Settings
  protected readonly events: Events
  /** Its listening sockets, by source name. */
  readonly listening = new Map<string, ListeningSocket>()
  protected spawned = 0
  #deadline = Infinity
  #stopped: Promise<void> | undefined

  constructor(settings: Settings, events: Events) {
    this.settings = settings
    this.events = events
  }

  get name(): string {
    return this.settings.name
  }

  get drainTimeout(): number {
    return this.settings.drainTimeout
  }

  /** Whether `reload` can apply these settings; otherwise a new service replaces this one. */
  canBecome(settings: Settings): boolean {
    return this.settings.handoff === settings.handoff
  }

  /** Opens its listeners, sharing those that `other` has open, and starts its workers. Accepts nothing yet. */
  async prepare(other?: Service): Promise<void> {
    if (other !== undefined) this.#share(other)
    await this.#listen(this.settings)
    await this.startWorkers()
  }

  /** Starts to accept connections, after `prepare`. */
  accept(): void {
    for (const listening of this.listening.values()) this.startAccepting(listening)
  }

  /** Applies new settings. If that fails, nothing has changed. */
  async reload(settings: Settings): Promise<void> {
    const opened = await this.#listen(settings)
    try {
      for (const name of opened) this.startAccepting(this.listening.get(name)!)
      await this.apply(settings)
    } catch (error) {
      for (const name of opened) this.#close(name)
      throw error
    }
    this.settings = settings
    const kept = new Set(settings.sources.map((source) => source.name))
    for (const name of this.listening.keys()) if (!kept.has(name)) this.#close(name)
  }

  /** Stops accepting; resolves when all connections have ended. After the timeout, in milliseconds, processes are killed or left. */
  stop(timeout = this.settings.drainTimeout): Promise<void> {
    if (this.#stopped === undefined) {
      for (const name of this.listening.keys()) this.#close(name)
      this.#deadline = performance.now() + timeout
      this.#stopped = this.shutDown()
    }
    return this.#stopped
  }

  /** Stops a service that was removed by a reload, while the others continue. */
  retire(): Promise<void> {
    return this.stop()
  }

  /** Shortens the time until the deadline of `stop`, in milliseconds. */
  shortenDeadline(timeout: number): void {
    this.#deadline = Math.min(this.#deadline, performance.now() + timeout)
    this.deadlineChanged()
  }

  /** The time until the deadline, in milliseconds. */
  protected get remaining(): number {
    return Math.max(this.#deadline - performance.now(), 0)
  }

  /** Returns statistics. */
  abstract stats(): SuperserverStats

  /** Starts the workers. */
  protected abstract startWorkers(): Promise<void>
  /** Applies new settings to the workers or programs. */
  protected abstract apply(settings: Settings): Promise<void>
  /** Stops the workers or programs; resolves when all have exited or the deadline has passed. */
  protected abstract shutDown(): Promise<void>
  /** Called when the deadline was shortened. */
  protected abstract deadlineChanged(): void
  /** Starts to accept from a listener. */
  protected abstract startAccepting(listening: ListeningSocket): void
  /** Stops accepting from a listener. */
  protected abstract stopAccepting(listening: ListeningSocket): void

  /** Opens the sources that are not open yet; returns their names. */
  async #listen({ sources, backlog, socketMode }: Settings): Promise<readonly string[]> {
    const opened: string[] = []
    const isNew = ({ name }: Source) => !this.listening.has(name)
    try {
      for (const source of sources.filter(isNew)) {
        const listening = await ListeningSocket.open(source, backlog, socketMode)
        if (this.#stopped !== undefined) {
          listening.close()
          throw superserverClosed()
        }
        this.listening.set(source.name, listening)
        opened.push(source.name)
      }
      return opened
    } catch (error) {
      for (const name of opened) this.#close(name)
      throw error
    }
  }

  /** Shares the listeners of another service that this one's settings name. */
  #share(other: Service): void {
    for (const { name } of this.settings.sources) {
      const listening = other.listening.get(name)
      if (listening !== undefined) this.listening.set(name, listening)
    }
  }

  /** Stops using the listeners that it shares with another service, and leaves them open. */
  releaseShared(other: Service): void {
    for (const [name, listening] of this.listening) {
      if (other.listening.get(name) !== listening) continue
      this.listening.delete(name)
      this.stopAccepting(listening)
    }
  }

  #close(name: string): void {
    const listening = this.listening.get(name)
    if (listening === undefined) return // `stop` has closed it while the next one was being opened
    this.listening.delete(name)
    this.stopAccepting(listening)
    listening.close()
  }

  protected reportSpawn(pid: number): void {
    this.spawned++
    this.events.emit('spawn', { service: this.name, pid })
  }

  /** Reports the events of a worker group. */
  protected readonly workerEvents: WorkerGroupEvents = {
    spawned: ({ child }) => this.reportSpawn(child.pid),
    ready: ({ child }) => this.events.emit('ready', { service: this.name, pid: child.pid }),
    exited: ({ child, lost }, status) => this.reportExit(child.pid, status, lost),
    failed: (error) => this.reportFailure(error)
  }

  protected reportExit(pid: number, { code, signal }: ExitStatus, lost: number): void {
    this.events.emit('exit', { service: this.name, pid, code, signal, lost })
  }

  protected reportFailure(error: unknown): void {
    emitFailure(this.events, this.name, error)
  }
}

/** Emits `'failure'`, or a process warning if the event has no listener, so that no failure passes unnoticed. */
export function emitFailure(events: Events, service: string, error: unknown): void {
  if (events.emit('failure', { service, error: error as Error })) return
  warnOfService(service, error)
}

/** Returns the counters of a service's state; zeros without a state. */
export function countersOf(state?: Partial<Counters>): Counters {
  const { accepted = 0, acknowledged = 0, completed = 0, lost = 0 } = state ?? {}
  const { refused = 0, handedOn = 0, active = 0, waiting = 0 } = state ?? {}
  return { accepted, acknowledged, completed, lost, refused, handedOn, active, waiting }
}

type Counters = Omit<SuperserverStats, 'spawned' | 'workers'>
