import { clearTimeout, setTimeout } from 'node:timers'
import { superserverClosed } from './errors.ts'
import type { Ending } from './child.ts'
import type { Settings } from './settings.ts'
import { type Attach, Worker } from './worker.ts'

/** A worker that has served no longer than this, in milliseconds, is replaced only after a pause. */
const SHORT_LIFE = 1000
const FIRST_PAUSE = 50
const LONGEST_PAUSE = 10_000

/** What happens to workers. */
export interface CrewEvents {
  spawned(worker: Worker): unknown
  ready(worker: Worker): unknown
  exited(worker: Worker, ending: Ending): unknown
  /** One could not be started. */
  failed(error: unknown): unknown
}

/** The workers of a service: as many as there should be, whichever die. */
export class Crew {
  readonly #attach: Attach
  readonly #events: CrewEvents
  #settings: Settings
  /** Those that serve, or are about to. */
  #current = new Set<Worker>()
  /** All that have not ended. */
  readonly all = new Set<Worker>()
  readonly #pauses = new Set<NodeJS.Timeout>()
  /** How many have died soon, one after the other. */
  #shortLives = 0
  #dismissed = false

  constructor(settings: Settings, attach: Attach, events: CrewEvents) {
    this.#settings = settings
    this.#attach = attach
    this.#events = events
  }

  /** Starts them; resolves when all are ready. Where one fails, none is left. */
  async start(): Promise<void> {
    this.#install(await this.#raise(this.#settings))
  }

  /** Starts others in their place, and lets those go when these are ready. Where one fails, nothing has changed. */
  async replace(settings: Settings): Promise<void> {
    const raised = await this.#raise(settings)
    const old = this.#current
    this.#settings = settings
    for (const pause of this.#pauses) clearTimeout(pause)
    this.#pauses.clear()
    for (const worker of old) worker.drain()
    this.#install(raised)
  }

  #install(raised: Set<Worker>): void {
    this.#current = raised
    // Some may have died while the others came up.
    for (const worker of raised) if (!this.all.has(worker)) this.#succeed(worker)
  }

  /** Lets all go; resolves when they have ended. */
  async dismiss(timeout: number): Promise<void> {
    this.#dismissed = true
    for (const pause of this.#pauses) clearTimeout(pause)
    this.#pauses.clear()
    this.hurry(timeout)
    while (this.all.size > 0) await Promise.all([...this.all].map((worker) => worker.ended))
  }

  /** Lets all go that have not been told so, and gives them no more than so many milliseconds. */
  hurry(timeout: number): void {
    for (const worker of this.all) worker.drain(timeout)
  }

  /** Starts one more while they are let go, for what they have left behind. */
  async relieve(): Promise<Worker> {
    const worker = this.#spawn(this.#settings)
    await worker.ready
    return worker
  }

  async #raise(settings: Settings): Promise<Set<Worker>> {
    const raised = new Set<Worker>()
    if (this.#dismissed) throw superserverClosed()
    try {
      for (let i = 0; i < settings.workers; i++) raised.add(this.#spawn(settings))
      await Promise.all([...raised].map((worker) => worker.ready))
      return raised
    } catch (error) {
      for (const worker of raised) worker.kill()
      await Promise.all([...raised].map((worker) => worker.ended))
      throw error
    }
  }

  #spawn(settings: Settings): Worker {
    const worker = new Worker(settings, this.#attach)
    this.all.add(worker)
    this.#events.spawned(worker)
    void this.#follow(worker)
    return worker
  }

  /** Tells what becomes of a worker. */
  async #follow(worker: Worker): Promise<void> {
    await worker.ready.then(
      () => this.#events.ready(worker),
      () => {} // its end says why
    )
    const ending = await worker.ended
    this.all.delete(worker)
    this.#events.exited(worker, ending)
    this.#succeed(worker)
  }

  /** Starts another one in the place of one that has died, at once if it has served for some time. */
  #succeed(worker: Worker): void {
    if (!this.#current.delete(worker) || this.#dismissed) return
    if (performance.now() - worker.readySince >= SHORT_LIFE) this.#shortLives = 0
    this.#startLater()
  }

  #startLater(): void {
    const pause = this.#shortLives === 0 ? 0 : Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (this.#shortLives - 1))
    this.#shortLives++
    const timer = setTimeout(() => {
      this.#pauses.delete(timer)
      try {
        this.#current.add(this.#spawn(this.#settings))
      } catch (error) {
        this.#events.failed(error)
        this.#startLater()
      }
    }, pause)
    this.#pauses.add(timer)
  }
}
