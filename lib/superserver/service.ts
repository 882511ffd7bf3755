import type { SocketFileOptions } from '../address/index.ts'
import { invalidValue, raceAbort } from '../base/internal.ts'
import { ListeningSocket, type Source, isDatagram } from '../socket/internal.ts'
import type { ExitStatus } from './child.ts'
import { type WorkerGroupEvents, superserverClosed } from './worker-group.ts'
import { type Events, type KillReason, emitFailure } from './events.ts'
import { type PassedSocket, describe } from './passed-socket.ts'
import type { Settings } from './settings.ts'
import type { SuperserverStats } from './stats.ts'

/** A service of a superserver: its listeners and its processes. */
export abstract class Service {
  protected settings: Settings
  protected readonly events: Events
  /** Its listening sockets, by source name. */
  readonly listening = new Map<string, ListeningSocket>()
  protected spawned = 0
  #deadline = Infinity
  readonly #stopping = new AbortController()
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

  /**
   * Whether `reload` can apply these settings; otherwise a new service replaces this one. Throws for a change of `reusePort`: the kernel
   * shares no port that a socket without SO_REUSEPORT has, and resets the queues of sockets that are closed.
   */
  canBecome(settings: Settings): boolean {
    if (this.settings.reusePort !== settings.reusePort) {
      throw invalidValue('options.reusePort', 'cannot be changed by a reload: restart the superserver')
    }
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
      this.#stopping.abort()
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
  async #listen({ sources, backlog, socketFile }: Settings): Promise<readonly string[]> {
    const opened: string[] = []
    const isNew = ({ name }: Source) => !this.listening.has(name)
    try {
      for (const source of sources.filter(isNew)) {
        const listening = await this.#open(source, backlog, socketFile)
        this.listening.set(source.name, listening)
        opened.push(source.name)
      }
      return opened
    } catch (error) {
      for (const name of opened) this.#close(name)
      throw error
    }
  }

  /** Opens one source; rejects as soon as the service is stopped, although looking a name up may take longer. */
  async #open(source: Source, backlog: number | undefined, file: SocketFileOptions): Promise<ListeningSocket> {
    const { signal } = this.#stopping
    const opening = ListeningSocket.open(source, backlog, file)
    try {
      const listening = await raceAbort(opening, signal)
      if (!signal.aborted) return listening
    } catch (error) {
      if (!signal.aborted) throw error
    }
    opening.then(
      (late) => late.close(),
      () => {}
    )
    throw superserverClosed()
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

  /** Describes the listening sockets of these settings for a worker. */
  protected readonly passedSockets = ({ sources, listenAs }: Settings): readonly PassedSocket[] =>
    sources.flatMap((source) => {
      const listening = this.listening.get(source.name)
      return listening === undefined ? [] : [describe(listening, listenAs.get(source.name), isDatagram(source))]
    })

  protected reportSpawn(pid: number): void {
    this.spawned++
    this.events.emit('spawn', { service: this.name, pid })
  }

  /** Reports the events of a worker group. */
  protected readonly workerEvents: WorkerGroupEvents = {
    spawned: ({ child }) => this.reportSpawn(child.pid),
    ready: ({ child }) => this.events.emit('ready', { service: this.name, pid: child.pid }),
    exited: ({ child, lost, killedFor }, status) => this.reportExit(child.pid, status, lost, killedFor),
    failed: (error) => this.reportFailure(error)
  }

  protected reportExit(pid: number, { code, signal }: ExitStatus, lost = 0, killedFor: KillReason | null = null): void {
    const reason = signal === 'SIGKILL' ? killedFor : null
    this.events.emit('exit', { service: this.name, pid, code, signal, lost, reason })
  }

  protected reportFailure(error: unknown): void {
    emitFailure(this.events, this.name, error)
  }
}
