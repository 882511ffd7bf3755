import { EventEmitter } from 'node:events'
import type { AddressInfo } from 'node:net'
import { constants } from 'node:os'
import type { Abortable } from '../base/index.ts'
import {
  type InspectionArguments,
  inspected,
  inspection,
  stateOf,
  uncloneable,
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
import { hold } from '../event-loop/internal.ts'
import { endBySignalAtExit } from '../native/internal.ts'
import { type ServiceState, notify } from '../systemd/index.ts'
import { InetdService } from './inetd-service.ts'
import { ListenerService } from './listener-service.ts'
import { PoolService } from './pool-service.ts'
import { type Events, type SuperserverEventMap, emitFailure } from './events.ts'
import type { Service } from './service.ts'
import type { Settings } from './settings.ts'
import { type SuperserverStats, sumOf } from './stats.ts'
import { superserverClosed } from './worker-group.ts'

/** Options of {@link superserve} beside the services. */
export interface SuperserverOptions extends Abortable {
  /**
   * Handle signals as a service manager expects (default true):
   *
   * - SIGTERM and SIGINT close the superserver, and then terminate the process, unless it has another listener for that signal.
   *   Its 'exit' listeners run, the files of its sockets are removed, and its exit status is the signal
   * - a second SIGTERM or SIGINT kills the workers immediately
   * - SIGHUP reloads, and during the start as soon as that is complete. The event 'failure' reports why a reload failed
   */
  signals?: boolean | undefined
  /**
   * The time within which a reload must have read the configuration file, in milliseconds (default 30,000). A reload of a file system that does
   * not respond fails, and the services continue.
   */
  readTimeout?: number | undefined
  /** Report the state to the service manager that has set `NOTIFY_SOCKET`, such as systemd (default true): sd_notify(3). */
  notify?: boolean | undefined
  /**
   * Called when all listeners are open and all workers are ready, before the first connection is accepted (default: nothing).
   * Connections wait in the accept queue until it resolves. If it rejects, {@link superserve} rejects with the same error.
   *
   * Pass `ready` of a `Takeover` of `fdpass/takeover` here: until it resolves, the previous process accepts the connections, so that
   * none is lost if this process fails or crashes.
   */
  beforeAccept?: (() => PromiseLike<unknown> | void) | undefined
}

/** Options of {@link Superserver.close}. */
export interface CloseOptions {
  /** The time that workers and programs have to finish their connections, in milliseconds (default: `drainTimeout` of each service). */
  timeout?: number | undefined
}

/** A socket that a superserver listens on. */
export interface SuperserverAddress {
  /** The service's name. */
  readonly service: string
  /** Its source: the `listen` text, or the address of a `Descriptor`. */
  readonly name: string
  /** Its address, with the port that the kernel has chosen for port 0; a path for a Unix domain socket; null without an address. */
  readonly address: AddressInfo | string | null
}

const constructorKey = Symbol('constructorKey')

/** Reads the settings of all services again. */
type ReadSettings = (signal: AbortSignal) => Promise<readonly Settings[]>

/** The name in failures that concern no single service. */
const ALL = 'superserver'

/**
 * A running superserver: the result of {@link superserve}.
 *
 * It keeps the process alive until it is closed, unless {@link Superserver.unref} was called. It emits the events of
 * {@link SuperserverEventMap}.
 */
export class Superserver extends EventEmitter<SuperserverEventMap> implements AsyncDisposable {
  /** @internal */
  protected readonly uncloneable = uncloneable
  #services = new Map<string, Service>()
  /** Services that were removed by a reload and have not stopped. */
  readonly #retiring = new Set<Service>()
  /** The statistics of removed services that have stopped. */
  readonly #retired: SuperserverStats[] = []
  readonly #read: ReadSettings
  /** Services that are being started and are not among the others yet. */
  readonly #starting = new Set<Service>()
  /** Ends the reading of settings. */
  readonly #ending = new AbortController()
  readonly #notifies: boolean
  /** The last of the operations that run in order: start and reloads. */
  #last: Promise<unknown> = Promise.resolve()
  /** The reload that waits for its turn. */
  #nextReload: Promise<void> | undefined
  #closing: Promise<void> | undefined
  #held = false
  #referenced = true
  #unlisten: () => void = () => {}

  /** Use {@link superserve}. */
  private constructor(read: ReadSettings, notifies: boolean, key: symbol) {
    if (key !== constructorKey) throw invalidValue('key', 'is private: use superserve()')
    super()
    this.#read = read
    this.#notifies = notifies
  }

  /** @internal */
  static async start(
    settings: readonly Settings[],
    read: ReadSettings,
    options: SuperserverOptions
  ): Promise<Superserver> {
    const { signals = true, notify: notifies = true, beforeAccept } = options
    boolean('options.signals', signals)
    boolean('options.notify', notifies)
    if (beforeAccept !== undefined && typeof beforeAccept !== 'function') {
      throw invalidType('options.beforeAccept', 'of type function', beforeAccept)
    }
    const signal = signalOf(options)
    const server = new Superserver(read, notifies, constructorKey)
    using _abortion = onAbort(signal, () => void server.close({ timeout: 0 }))
    server.#hold()
    let complete: (() => void) | undefined
    if (signals) server.#reloadBySignal(new Promise((resolve) => (complete = resolve)))
    try {
      await server.#runInOrder(() => server.#prepare(settings))
      await raceAbort(beforeAccept?.(), signal)
      if (signals) server.#endBySignals()
      server.#accept()
    } catch (error) {
      await server.close({ timeout: 0 })
      throw signal?.aborted === true ? aborted(signal) : error
    }
    if (signal?.aborted === true) throw aborted(signal)
    complete?.()
    server.#notify({ ready: true })
    return server
  }

  /** The addresses of all listening sockets. */
  get addresses(): readonly SuperserverAddress[] {
    const services = [...this.#services.values()]
    return services.flatMap(({ name: service, listening }) =>
      [...listening.values()].map(({ name, address }) => ({ service, name, address }))
    )
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /**
   * Returns statistics of all services together.
   *
   * @returns counters since the start, and the processes that run now
   */
  stats(): SuperserverStats {
    const all = [...this.#retired, ...this.#all.map((service) => service.stats())]
    return sumOf(all)
  }

  /**
   * Replaces the workers: when the new ones are ready, the old ones finish their connections and exit.
   *
   * A configuration file is read again. Services that are new in it are started, and services that are missing from it are stopped.
   * Listeners that stay are never closed. Programs for single connections continue to run.
   *
   * One reload runs at a time. Calls and signals that come while one runs are one further reload together.
   *
   * @returns resolves when the new workers serve
   *
   *   Rejects as {@link superserve} does; the service that failed and those after it are unchanged then. Rejects with `ETIMEDOUT` if the
   *   file could not be read within `readTimeout`, and with ERR_SERVER_CLOSED after `close`.
   */
  async reload(): Promise<void> {
    this.#nextReload ??= this.#runInOrder(async () => {
      this.#nextReload = undefined
      if (this.#closing !== undefined) throw superserverClosed()
      this.#notify({ reloading: true })
      try {
        await this.#applySettings(await this.#read(this.#ending.signal))
      } catch (error) {
        throw this.closed ? superserverClosed() : error
      } finally {
        if (!this.closed) this.#notify({ ready: true })
      }
    })
    await this.#nextReload
  }

  /**
   * Closes the listeners, and lets workers and programs finish their connections. When the time is up, workers are killed; programs of
   * `nowait` and `wait` continue to run, as with inetd.
   *
   * @param options `timeout`
   * @returns resolves when all processes have exited or the time is up. A further call with a shorter time shortens it
   *
   *   Rejects with ERR_INVALID_ARG_TYPE or ERR_OUT_OF_RANGE.
   */
  async close(options?: CloseOptions): Promise<void> {
    const { timeout } = optionsOf(options) ?? {}
    if (timeout !== undefined) integer('options.timeout', timeout, 0, MAX_INT)
    if (this.#closing === undefined) {
      this.#notify({ stopping: true })
      this.#closing = this.#end(timeout)
    } else if (timeout !== undefined) {
      for (const service of this.#all) service.shortenDeadline(timeout)
    }
    await this.#closing
  }

  /** Keeps the process alive while the superserver is open: the default. */
  ref(): this {
    this.#referenced = true
    this.#hold()
    return this
  }

  /** Lets the process exit although the superserver is open. Its workers exit with it. */
  unref(): this {
    this.#referenced = false
    this.#hold()
    return this
  }

  /** Closes the superserver, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    return inspected('Superserver', () => ({ addresses: this.addresses, state: stateOf(this) }), args)
  }

  async #end(timeout: number | undefined): Promise<void> {
    this.#ending.abort()
    // A start or reload in progress fails when its reading is aborted, its listeners are closed, or its workers exit.
    await Promise.allSettled([this.#last, ...this.#all.map((service) => service.stop(timeout))])
    for (const service of this.#retiring) service.shortenDeadline(timeout ?? service.drainTimeout)
    await Promise.allSettled(this.#all.map((service) => service.stop(timeout)))
    this.#unlisten()
    this.#hold(true)
  }

  /** All services, including those that are being started, or were removed and have not stopped. */
  get #all(): Service[] {
    return [...this.#services.values(), ...this.#retiring, ...this.#starting]
  }

  /** Runs a task when the previous ones have settled. */
  #runInOrder<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => {})
    return result
  }

  /** Opens all services, and starts their workers. */
  async #prepare(all: readonly Settings[]): Promise<void> {
    for (const settings of all) {
      if (this.#closing !== undefined) throw superserverClosed()
      const service = open(settings, this)
      this.#services.set(service.name, service)
      await service.prepare()
    }
  }

  /** Lets all services accept connections. */
  #accept(): void {
    if (this.#closing !== undefined) throw superserverClosed()
    for (const service of this.#services.values()) service.accept()
  }

  /** Applies new settings: reloads, starts and retires services. */
  async #applySettings(all: readonly Settings[]): Promise<void> {
    for (const settings of all) {
      if (this.#closing !== undefined) throw superserverClosed()
      const running = this.#services.get(settings.name)
      if (running?.canBecome(settings) === true) await running.reload(settings)
      else await this.#startService(settings, running)
    }
    const names = new Set(all.map(({ name }) => name))
    for (const service of this.#services.values()) if (!names.has(service.name)) this.#retire(service)
  }

  async #startService(settings: Settings, running: Service | undefined): Promise<void> {
    const service = open(settings, this)
    if (running === undefined) this.#services.set(service.name, service)
    else this.#starting.add(service)
    try {
      await service.prepare(running)
      if (this.#closing !== undefined) throw superserverClosed()
      service.accept()
    } catch (error) {
      if (running === undefined) this.#services.delete(service.name)
      else service.releaseShared(running)
      await service.stop(0)
      throw error
    } finally {
      this.#starting.delete(service)
    }
    if (running === undefined) return
    running.releaseShared(service)
    this.#services.set(service.name, service)
    this.#retire(running)
  }

  /** Stops a service that is not configured any more. */
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

  #notify(state: ServiceState): void {
    if (!this.#notifies) return
    notify(state).catch((error: unknown) => emitFailure(this, ALL, error))
  }

  /** Reloads at SIGHUP, but not before the start is complete: its default action would end the process. */
  #reloadBySignal(started: Promise<void>): void {
    const reload = async () => {
      await started
      await this.reload().catch((error: unknown) => this.closed || emitFailure(this, ALL, error))
    }
    process.on('SIGHUP', reload)
    this.#unlisten = () => void process.off('SIGHUP', reload)
  }

  /** Closes at SIGTERM and SIGINT, as a service manager expects. */
  #endBySignals(): void {
    const end = async (signal: NodeJS.Signals) => {
      const isSecond = this.closed
      await this.close(isSecond ? { timeout: 0 } : {})
      if (isSecond || process.listenerCount(signal) > 0) return
      // The manager sees the signal as the exit status, as without a handler. But 'exit' listeners run, and files of sockets are removed.
      const number = constants.signals[signal]
      // The last listener: the signal ends what hangs after two seconds.
      process.once('exit', () => endBySignalAtExit(number))
      process.exit(128 + number)
    }
    const unlisten = this.#unlisten
    process.on('SIGTERM', end).on('SIGINT', end)
    this.#unlisten = () => {
      unlisten()
      process.off('SIGTERM', end).off('SIGINT', end)
    }
  }
}

function open(settings: Settings, events: Events): Service {
  if (settings.handoff === 'connection') return new PoolService(settings, events)
  if (settings.handoff === 'listener') return new ListenerService(settings, events)
  return new InetdService(settings, events)
}
