import { clearTimeout, setTimeout } from 'node:timers'
import { putName } from '../address/internal.ts'
import { systemError, type ServiceState, native, fds } from '../native/internal.ts'
import type { ListeningSocket } from '../socket/internal.ts'
import { onServiceEvents } from './notifier.ts'
import { Service } from './service.ts'

// The kinds of the native side's events.
const READY = 0
const GONE = 1
const SHORT = 2
const TOO_FAST = 3
const FAILED = 4
const STARTED = 5
const ENDED = 6
const IDLE = 7
const BROKEN = 8

/** The system calls that failed for want of a resource, by the native side's number; negative for the start of a program. */
const SHORT_CALLS = ['accept', 'fcntl', 'sendmsg', 'uv_poll_start']

/** The number of integers of an event. */
const NEWS = 4

/** The delay before calls are retried after a resource was exhausted, in milliseconds. */
const SHORT_PAUSE = 100

/** A service whose connections the native thread accepts and distributes. */
export abstract class NativeService extends Service {
  /** The native service's number; -1 before it is opened and after it is closed. */
  protected native = -1
  readonly #listeners = new Map<ListeningSocket, number>()
  #timer: NodeJS.Timeout | undefined
  #idle: (() => void) | undefined
  #last: ServiceState | undefined
  #unsubscribe: () => void = () => {}

  /** Opens the native service. */
  protected open(open: () => number): void {
    const unsubscribe = onServiceEvents(() => this.drainEvents())
    const service = open()
    if (service < 0) {
      unsubscribe()
      throw systemError(service, 'getrlimit')
    }
    this.native = service
    this.#unsubscribe = unsubscribe
  }

  protected startAccepting(listening: ListeningSocket): void {
    const listener = native.addListener(this.native, listening.fd, putName(Buffer.from(listening.name)))
    if (listener < 0) throw systemError(listener, 'uv_poll_start', listening.name)
    this.#listeners.set(listening, listener)
  }

  protected stopAccepting(listening: ListeningSocket): void {
    const listener = this.#listeners.get(listening)
    if (listener === undefined || this.native < 0) return
    this.#listeners.delete(listening)
    native.removeListener(this.native, listener)
  }

  /** Stops accepting; resolves when no connection and no program is left. */
  protected untilIdle(): Promise<void> {
    const idle = new Promise<void>((resolve) => (this.#idle = resolve))
    native.stopService(this.native)
    this.drainEvents()
    return idle
  }

  /** Closes the native service and what it owns. */
  protected closeNative(): void {
    if (this.native < 0) return
    clearTimeout(this.#timer)
    this.#last = this.state()
    this.#unsubscribe()
    native.closeService(this.native)
    this.native = -1
  }

  /** Returns the native service's state; after it was closed, its last state. */
  protected state(): ServiceState | undefined {
    if (this.native < 0) return this.#last && { ...this.#last, active: 0, waiting: 0, workers: [], programs: [] }
    const state = native.serviceState(this.native)
    return typeof state === 'number' ? undefined : state
  }

  /** Handles all pending events of the native service. */
  protected drainEvents(): void {
    while (this.native >= 0) {
      const count = native.serviceNews(this.native)
      if (count <= 0) return
      // Copied: handling an event can overwrite the shared array.
      const news = fds.slice(0, count * NEWS)
      for (let i = 0; i < news.length; i += NEWS) this.#handle(news[i]!, news[i + 1]!, news[i + 2]!, news[i + 3]!)
    }
  }

  #handle(kind: number, first: number, second: number, third: number): void {
    switch (kind) {
      case READY:
        return this.workerReady(first)
      case GONE:
        return this.workerGone(first, second)
      case SHORT:
        if (second < 0) this.programFailed(first, third)
        else this.reportFailure(systemError(first, SHORT_CALLS[second]!))
        return this.retryIn(SHORT_PAUSE)
      case TOO_FAST:
        this.events.emit('pause', { service: this.name, milliseconds: this.settings.pause })
        return this.retryIn(this.settings.pause)
      case FAILED:
        return this.programFailed(first, second)
      case STARTED:
        return this.reportSpawn(first)
      case ENDED:
        return this.programEnded(first, second)
      case BROKEN:
        return this.workerBroken(first)
      case IDLE:
        this.#idle?.()
    }
  }

  /** Resumes the native service after a delay. */
  protected retryIn(milliseconds: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      if (this.native < 0) return
      native.retryService(this.native)
      this.drainEvents()
    }, milliseconds)
    this.#timer.unref()
  }

  protected workerReady(_worker: number): void {}
  protected workerBroken(_worker: number): void {}
  protected workerGone(_worker: number, _lost: number): void {}
  protected programFailed(_code: number, _step: number): void {}
  protected programEnded(_pid: number, _ending: number): void {}
}
