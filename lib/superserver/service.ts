import { EventEmitter } from 'node:events'
import { superserverClosed } from './errors.ts'
import { warnOfService, ListeningSocket, type Source } from '../socket/internal.ts'
import type { ExitStatus } from './child.ts'
import type { WorkerGroupEvents } from './worker-group.ts'
import type { Settings } from './settings.ts'

/** What a process of a service is doing. */
export interface WorkerState {
  /** The service's name. */
  readonly service: string
  /** The process. */
  readonly pid: number
  /** Whether it is being started, serves, or finishes what it has; a program that was started for connections serves. */
  readonly state: 'starting' | 'ready' | 'draining'
  /** How many connections it has; null where it accepts itself. */
  readonly connections: number | null
  /** How many of these it has not acknowledged yet. */
  readonly unacknowledged: number
}

/** What became of connections since the start. Those that workers accept themselves are not known. */
export interface ConnectionCounters {
  /** Connections taken off the backlog. */
  accepted: number
  /** That a worker has acknowledged as its own, or for which a program was started. */
  acknowledged: number
  /** That have ended in order: the worker has told it, or the program has ended. */
  completed: number
  /**
   * That a worker had acknowledged which died before it ended them; they were reset (TCP) or closed. Also those for which no
   * program could be executed.
   */
  lost: number
  /** Closed at once, because their client had as many as it may, or no worker would have them. */
  refused: number
  /** Given to another worker, because the first one died before it acknowledged them, or gave them back. */
  handedOn: number
  /** Processes that were started. */
  spawned: number
}

/** How a service, or a whole superserver, is doing. */
export interface SuperserverStats extends ConnectionCounters {
  /** Connections that workers or programs have. */
  active: number
  /** Connections that were accepted, and for which no worker or program is there yet. */
  waiting: number
  /** The processes that run. */
  workers: WorkerState[]
}

/** A process of a service. */
export interface ProcessEvent {
  /** The service's name. */
  readonly service: string
  /** The process. */
  readonly pid: number
}

/** The end of a process. */
export interface ExitEvent extends ProcessEvent, ExitStatus {
  /** How many connections were lost with it: see {@link ConnectionCounters.lost}. */
  readonly lost: number
}

/** A service that starts nothing for some time. */
export interface PauseEvent {
  /** The service's name. */
  readonly service: string
  /** For how long. */
  readonly milliseconds: number
}

/** Something that has gone wrong. */
export interface FailureEvent {
  /** The service's name; `'superserver'` for what concerns no single one. */
  readonly service: string
  /** What. */
  readonly error: Error
}

/** What happens in a superserver. */
export interface SuperserverEventMap {
  /** A worker was started, or a program that listens itself. */
  spawn: [ProcessEvent]
  /** A worker can serve. */
  ready: [ProcessEvent]
  /** A worker has ended, a program that listens itself, or one that has ended badly. */
  exit: [ExitEvent]
  /** Too many programs were started. */
  pause: [PauseEvent]
  /**
   * Something has gone wrong: a program could not be executed, a descriptor was missing, a reload by SIGHUP failed. Where nobody
   * listens it is a process warning, once.
   */
  failure: [FailureEvent]
}

/** Where services tell what happens. */
export type Events = EventEmitter<SuperserverEventMap>

/** A service of a superserver: its listeners, and who serves. */
export abstract class Service {
  protected settings: Settings
  protected readonly events: Events
  /** What it listens on, by name. */
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

  /** Whether it can become what these settings say by `reload`. */
  canBecome(settings: Settings): boolean {
    return this.settings.handoff === settings.handoff
  }

  /** Listens, on what another one has open too, and has workers ready; takes nothing yet. */
  async prepare(other?: Service): Promise<void> {
    if (other !== undefined) this.#share(other)
    await this.#listen(this.settings)
    await this.begin()
  }

  /** Takes what comes, after `prepare`. */
  accept(): void {
    for (const listening of this.listening.values()) this.opened(listening)
  }

  /** Serves as these settings say; where that fails, nothing has changed. */
  async reload(settings: Settings): Promise<void> {
    const opened = await this.#listen(settings)
    try {
      for (const name of opened) this.opened(this.listening.get(name)!)
      await this.change(settings)
    } catch (error) {
      for (const name of opened) this.#close(name)
      throw error
    }
    this.settings = settings
    const kept = new Set(settings.sources.map((source) => source.name))
    for (const name of this.listening.keys()) if (!kept.has(name)) this.#close(name)
  }

  /** Takes no more; resolves when all that was taken has ended, or was ended after so many milliseconds. */
  stop(timeout = this.settings.drainTimeout): Promise<void> {
    if (this.#stopped === undefined) {
      for (const name of this.listening.keys()) this.#close(name)
      this.#deadline = performance.now() + timeout
      this.#stopped = this.end()
    }
    return this.#stopped
  }

  /** As `stop`, of a service that is not wanted any more while the others go on. */
  retire(): Promise<void> {
    return this.stop()
  }

  /** Gives what is left no more than so many milliseconds, after `stop`. */
  shortenDeadline(timeout: number): void {
    this.#deadline = Math.min(this.#deadline, performance.now() + timeout)
    this.deadlineChanged()
  }

  /** How many milliseconds are left to what was taken. */
  protected get remaining(): number {
    return Math.max(this.#deadline - performance.now(), 0)
  }

  /** How it is doing. */
  abstract stats(): SuperserverStats

  /** Makes ready to serve what is listened on already. */
  protected abstract begin(): Promise<void>
  /** Serves as these settings say from now on. */
  protected abstract change(settings: Settings): Promise<void>
  /** Serves no more, and ends what is not done when no time is left. */
  protected abstract end(): Promise<void>
  /** Less time is left than there was. */
  protected abstract deadlineChanged(): void
  /** Takes connections of a listener, or no more. */
  protected abstract opened(listening: ListeningSocket): void
  protected abstract closed(listening: ListeningSocket): void

  /** Opens what is not open yet; gives the names. */
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

  /** Listens on what another service listens on, as far as this one should. */
  #share(other: Service): void {
    for (const { name } of this.settings.sources) {
      const listening = other.listening.get(name)
      if (listening !== undefined) this.listening.set(name, listening)
    }
  }

  /** Leaves what it shares with another service to that one. */
  releaseShared(other: Service): void {
    for (const [name, listening] of this.listening) {
      if (other.listening.get(name) !== listening) continue
      this.listening.delete(name)
      this.closed(listening)
    }
  }

  #close(name: string): void {
    const listening = this.listening.get(name)
    if (listening === undefined) return // it was stopped while another one was being opened
    this.listening.delete(name)
    this.closed(listening)
    listening.close()
  }

  protected reportSpawn(pid: number): void {
    this.spawned++
    this.events.emit('spawn', { service: this.name, pid })
  }

  /** Tells what happens to workers. */
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

/**
 * Tells of something that has gone wrong. Where nobody listens it is a warning, once: a program that cannot be executed would
 * look like one that says nothing, and a file that is broken like one that was taken.
 */
export function emitFailure(events: Events, service: string, error: unknown): void {
  if (events.emit('failure', { service, error: error as Error })) return
  warnOfService(service, error)
}

/** What is counted of a service; all zero where nothing is known. */
export function countersOf(state?: Partial<Counters>): Counters {
  const { accepted = 0, acknowledged = 0, completed = 0, lost = 0 } = state ?? {}
  const { refused = 0, handedOn = 0, active = 0, waiting = 0 } = state ?? {}
  return { accepted, acknowledged, completed, lost, refused, handedOn, active, waiting }
}

type Counters = Omit<SuperserverStats, 'spawned' | 'workers'>
