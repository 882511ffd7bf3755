import { EventEmitter } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import type { Abortable } from '../base/index.ts'
import {
  boolean,
  onAbort,
  raceAbort,
  signalOf,
  MAX_INT,
  integer,
  optionsOf,
  aborted,
  invalidType,
  invalidValue
} from '../base/internal.ts'
import { hold, openReactor } from '../event-loop/internal.ts'
import { superserverClosed } from './errors.ts'
import { type ServiceState, notify } from '../systemd/index.ts'
import { InetdService } from './inetd-service.ts'
import { ListenerService } from './listener-service.ts'
import { PoolService } from './pool-service.ts'
import { type Events, type Service, type SuperserverEventMap, type SuperserverStats, emitFailure } from './service.ts'
import { type ServiceOptions, type Settings, folderOf, settingsOf } from './settings.ts'

/** What {@link superserve} can be told beside its services. */
export interface SuperserverOptions extends Abortable {
  /**
   * Do what a service manager expects (default true): SIGTERM and SIGINT close the superserver, and then end the process, unless
   * it has a listener of its own for that signal; a second one ends the workers at once. SIGHUP reloads.
   */
  signals?: boolean | undefined
  /** Tell a service manager that has set `NOTIFY_SOCKET`, such as systemd, what is going on (default true): sd_notify(3). */
  notify?: boolean | undefined
  /**
   * What has to be done when everything is listened on and all workers are ready, before the first connection is taken (default:
   * nothing); what comes meanwhile waits in the backlog. `place.ready` of `fdpass/takeover` is such a thing: until it resolves the
   * process before this one takes the connections, so that none is lost if this one fails or crashes. If it rejects, so does
   * {@link superserve}.
   */
  beforeAccept?: (() => PromiseLike<unknown> | void) | undefined
}

/** Several services, by name. */
export interface Services {
  /** The services. */
  services: Readonly<Record<string, ServiceOptions>>
}

/** What {@link superserve} serves: one service, or several. */
export type SuperserveOptions = SuperserverOptions & (ServiceOptions | Services)

/** Options of {@link Superserver.close}. */
export interface CloseOptions {
  /** How long workers and programs may take to finish what they have, in milliseconds (default: `drainTimeout` of each). */
  timeout?: number | undefined
}

/** Something that is listened on. */
export interface SuperserverAddress {
  /** The service's name. */
  readonly service: string
  /** What its options say. */
  readonly name: string
  /** Where it is: of `tcp:…:0` the port that the kernel has chosen; a path; null for a socket without an address. */
  readonly address: AddressInfo | string | null
}

const made = Symbol('made')

/** The name of a service that has none. */
const ONLY = 'service'

/** What all services together are called. */
const ALL = 'superserver'

/**
 * A process that listens, and has others serve: what {@link superserve} has started.
 *
 * It keeps the process alive until it is closed, unless {@link Superserver.unref} was called. As an emitter of events it tells
 * what happens: {@link SuperserverEventMap}.
 */
export class Superserver extends EventEmitter<SuperserverEventMap> implements AsyncDisposable {
  #services = new Map<string, Service>()
  /** Those that are not wanted any more, and have not ended. */
  readonly #retiring = new Set<Service>()
  /** What those did that are no more. */
  readonly #retired: SuperserverStats[] = []
  readonly #read: () => Promise<readonly Settings[]>
  readonly #notifies: boolean
  /** What is going on, one after the other. */
  #last: Promise<unknown> = Promise.resolve()
  #closing: Promise<void> | undefined
  #held = false
  #referenced = true
  #unlisten: () => void = () => {}

  /** Use {@link superserve}. */
  private constructor(read: () => Promise<readonly Settings[]>, notifies: boolean, key: symbol) {
    if (key !== made) throw invalidValue('key', 'is private: use superserve()')
    super()
    this.#read = read
    this.#notifies = notifies
  }

  /** @internal */
  static async start(read: () => Promise<readonly Settings[]>, options: SuperserverOptions): Promise<Superserver> {
    const { signals = true, notify: notifies = true, beforeAccept } = options
    boolean('options.signals', signals)
    boolean('options.notify', notifies)
    if (beforeAccept !== undefined && typeof beforeAccept !== 'function') {
      throw invalidType('options.beforeAccept', 'of type function', beforeAccept)
    }
    const signal = signalOf(options)
    const server = new Superserver(read, notifies, made)
    using _abortion = onAbort(signal, () => void server.close({ timeout: 0 }))
    server.#hold()
    try {
      await server.#inOrder(async () => server.#prepare(await read()))
      await raceAbort(beforeAccept?.(), signal)
      server.#accept()
    } catch (error) {
      await server.close({ timeout: 0 })
      throw signal?.aborted === true ? aborted(signal) : error
    }
    if (signal?.aborted === true) throw aborted(signal)
    if (signals) server.#listen()
    server.#tell({ ready: true })
    return server
  }

  /** What is listened on. */
  get addresses(): readonly SuperserverAddress[] {
    const services = [...this.#services.values()]
    return services.flatMap(({ name: service, listening }) =>
      [...listening.values()].map(({ name, address }) => ({ service, name, address }))
    )
  }

  /** Whether it was closed, or is about to be. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /**
   * Tell how all services together are doing.
   *
   * @returns counters since the start, and the processes that run now
   */
  stats(): SuperserverStats {
    const all = [...this.#retired, ...this.#all.map((service) => service.stats())]
    return all.reduce(add, { ...nothing, workers: [] })
  }

  /**
   * Have new workers serve in the place of the old ones: when they are ready the old ones finish what they have, and end.
   *
   * Of a file the configuration is read again: what is new in it is begun, what is no more in it is ended, and listeners that
   * stay are never closed. Programs for single connections run on.
   *
   * @returns resolves when the new workers serve
   *
   *   Rejects with what a start rejects with: nothing has changed then in the service that failed, nor in those behind it;
   *   ERR_SERVER_CLOSED.
   */
  async reload(): Promise<void> {
    await this.#inOrder(async () => {
      if (this.#closing !== undefined) throw superserverClosed()
      this.#tell({ reloading: true })
      try {
        await this.#change(await this.#read())
      } finally {
        this.#tell({ ready: true })
      }
    })
  }

  /**
   * Listen no more, and let workers and programs finish what they have. Workers that take longer than they may are killed; the
   * programs of `nowait` and `wait` are left to themselves then, as inetd leaves them.
   *
   * @param options `timeout`
   * @returns resolves when all have ended, or their time is up. Another call with a shorter time shortens it
   *
   *   Rejects with ERR_INVALID_ARG_TYPE or ERR_OUT_OF_RANGE.
   */
  async close(options?: CloseOptions): Promise<void> {
    const { timeout } = optionsOf(options) ?? {}
    if (timeout !== undefined) integer('options.timeout', timeout, 0, MAX_INT)
    if (this.#closing === undefined) {
      this.#tell({ stopping: true })
      this.#closing = this.#end(timeout)
    } else if (timeout !== undefined) {
      for (const service of this.#all) service.shortenDeadline(timeout)
    }
    await this.#closing
  }

  /** Let the superserver keep the process alive, as it does at first. */
  ref(): this {
    this.#referenced = true
    this.#hold()
    return this
  }

  /** Let the process end although the superserver is open; its workers end with it. */
  unref(): this {
    this.#referenced = false
    this.#hold()
    return this
  }

  /** Close, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #end(timeout: number | undefined): Promise<void> {
    // A start or a reload that is going on fails where its workers end.
    await Promise.allSettled([this.#last, ...this.#all.map((service) => service.stop(timeout))])
    for (const service of this.#retiring) service.shortenDeadline(timeout ?? service.drainTimeout)
    await Promise.allSettled(this.#all.map((service) => service.stop(timeout)))
    this.#unlisten()
    this.#hold(true)
  }

  /** All services, those that are not wanted any more among them. */
  get #all(): Service[] {
    return [...this.#services.values(), ...this.#retiring]
  }

  /** Does one thing when those before are done. */
  #inOrder<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => {})
    return result
  }

  /** Has all services ready. */
  async #prepare(all: readonly Settings[]): Promise<void> {
    for (const settings of all) {
      if (this.#closing !== undefined) throw superserverClosed()
      const service = open(settings, this)
      this.#services.set(service.name, service)
      await service.prepare()
    }
  }

  /** Has all services take what comes. */
  #accept(): void {
    if (this.#closing !== undefined) throw superserverClosed()
    for (const service of this.#services.values()) service.accept()
  }

  /** Brings the services in line with their settings. */
  async #change(all: readonly Settings[]): Promise<void> {
    for (const settings of all) {
      if (this.#closing !== undefined) throw superserverClosed()
      const running = this.#services.get(settings.name)
      if (running?.canBecome(settings) === true) await running.reload(settings)
      else await this.#begin(settings, running)
    }
    const names = new Set(all.map(({ name }) => name))
    for (const service of this.#services.values()) if (!names.has(service.name)) this.#retire(service)
  }

  async #begin(settings: Settings, running: Service | undefined): Promise<void> {
    const service = open(settings, this)
    if (running === undefined) this.#services.set(service.name, service)
    try {
      await service.prepare(running)
      if (this.#closing !== undefined) throw superserverClosed()
      service.accept()
    } catch (error) {
      if (running === undefined) this.#services.delete(service.name)
      else service.releaseShared(running)
      await service.stop(0)
      throw error
    }
    if (running === undefined) return
    running.releaseShared(service)
    this.#services.set(service.name, service)
    this.#retire(running)
  }

  /** Lets a service go that is not wanted any more. */
  #retire(service: Service): void {
    if (this.#services.get(service.name) === service) this.#services.delete(service.name)
    this.#retiring.add(service)
    void this.#awaitEnd(service)
  }

  async #awaitEnd(service: Service): Promise<void> {
    await service.retire()
    this.#retiring.delete(service)
    this.#retired.push({ ...service.stats(), workers: [], active: 0, waiting: 0 })
  }

  #hold(released = false): void {
    const on = this.#referenced && !released
    if (on === this.#held) return
    this.#held = on
    hold(on)
  }

  #tell(state: ServiceState): void {
    if (!this.#notifies) return
    notify(state).catch((error: unknown) => emitFailure(this, ALL, error))
  }

  /** Does what a service manager expects on its signals. */
  #listen(): void {
    const reload = () => {
      this.reload().catch((error: unknown) => emitFailure(this, ALL, error))
    }
    const end = async (signal: NodeJS.Signals) => {
      const isSecond = this.closed
      await this.close(isSecond ? { timeout: 0 } : {})
      // As if nobody had listened: the manager sees by which signal it has ended.
      if (!isSecond && process.listenerCount(signal) === 0) process.kill(process.pid, signal)
    }
    process.on('SIGHUP', reload).on('SIGTERM', end).on('SIGINT', end)
    this.#unlisten = () => void process.off('SIGHUP', reload).off('SIGTERM', end).off('SIGINT', end)
  }
}

function open(settings: Settings, events: Events): Service {
  if (settings.handoff === 'connection') return new PoolService(settings, events)
  if (settings.handoff === 'listener') return new ListenerService(settings, events)
  return new InetdService(settings, events)
}

const nothing: SuperserverStats = {
  accepted: 0,
  acknowledged: 0,
  completed: 0,
  lost: 0,
  refused: 0,
  handedOn: 0,
  spawned: 0,
  active: 0,
  waiting: 0,
  workers: []
}

function add(sum: SuperserverStats, part: SuperserverStats): SuperserverStats {
  return {
    accepted: sum.accepted + part.accepted,
    acknowledged: sum.acknowledged + part.acknowledged,
    completed: sum.completed + part.completed,
    lost: sum.lost + part.lost,
    refused: sum.refused + part.refused,
    handedOn: sum.handedOn + part.handedOn,
    spawned: sum.spawned + part.spawned,
    active: sum.active + part.active,
    waiting: sum.waiting + part.waiting,
    workers: [...sum.workers, ...part.workers]
  }
}

/**
 * Listen, and have others serve: a program for each connection, as inetd does; or workers, as nginx does, which are given
 * connections by whoever was allowed to listen, and may do nothing else.
 *
 * Accepting, choosing a worker and handing over take no JavaScript here. A connection is the worker's when it has acknowledged
 * it; until then it goes to another one if the worker dies. Workers are kept up; their channels end with this process, and
 * they with them.
 *
 * @param options one service, or `services` by name; `signals`, `notify`, `signal`, `beforeAccept`. Or the path or URL of a file
 *   with that as JSON, whose relative paths begin in its folder
 * @param more `signals`, `notify`, `signal`, `beforeAccept`, with a file
 * @returns resolves to the superserver when everything is listened on, all workers are ready, and `beforeAccept` has resolved
 *
 *   Rejects with `EACCES`, `EADDRINUSE`, … of a listener; with `ENOENT`, `EACCES`, … of a program that cannot be executed
 *   (`syscall` tells what has failed, `setuid` with `EPERM` for one); ERR_WORKER_FAILED if a worker ends before it is ready;
 *   ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE; a SyntaxError for a file that is no JSON; AbortError;
 *   ERR_UNSUPPORTED_PLATFORM. Nothing is left then
 */
export async function superserve(
  options: SuperserveOptions | string | URL,
  more?: SuperserverOptions
): Promise<Superserver> {
  openReactor()
  if (typeof options === 'string' || options instanceof URL) {
    const file = options instanceof URL ? fileURLToPath(options) : options
    return Superserver.start(() => readSettings(file), { ...(await readOptions(file)), ...optionsOf(more) })
  }
  if (optionsOf<object>(options) === undefined) throw invalidType('options', 'of type object or string', options)
  const settings = settingsOfAll(options, process.cwd())
  return Superserver.start(() => Promise.resolve(settings), options)
}

async function readJson(file: string): Promise<object> {
  const content: unknown = JSON.parse(await readFile(file, 'utf8'))
  if (typeof content !== 'object' || content === null) throw invalidType(file, 'a JSON object', content)
  return content
}

async function readSettings(file: string): Promise<readonly Settings[]> {
  return settingsOfAll(await readJson(file), folderOf(file))
}

async function readOptions(file: string): Promise<SuperserverOptions> {
  const { signals, notify: notifies } = (await readJson(file)) as SuperserverOptions
  return { ...(signals !== undefined && { signals }), ...(notifies !== undefined && { notify: notifies }) }
}

/** The settings of all services among the options. */
function settingsOfAll(options: object, folder: string): readonly Settings[] {
  const {
    signals: _signals,
    notify: _notify,
    signal: _signal,
    beforeAccept: _before,
    ...rest
  } = options as SuperserverOptions
  if (!('services' in rest)) return [settingsOf(ONLY, rest, 'options', folder)]
  const { services, ...others } = rest as Services
  const [other] = Object.keys(others)
  if (other !== undefined)
    throw invalidValue(`options.${other}`, "is an option of a service, or none: 'services' stands alone")
  if (typeof services !== 'object' || services === null)
    throw invalidType('options.services', 'of type object', services)
  const all = Object.entries(services)
  if (all.length === 0) throw invalidValue('options.services', 'must name a service at least')
  return all.map(([name, service]) => settingsOf(name, service, `options.services.${name}`, folder))
}
