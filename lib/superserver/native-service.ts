import { clearTimeout, setTimeout } from 'node:timers'
import { type NativeExitStatus, type ServiceEvent, type ServiceState, native, systemError } from '../native/internal.ts'
import type { ListeningSocket } from '../socket/internal.ts'
import { Service } from './service.ts'
import { PollHandle } from '../event-loop/internal.ts'

/** The delay before calls are retried after a resource was exhausted, in milliseconds. */
const EXHAUSTED_DELAY_MS = 100

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
    const listener = native.addListener(this.native, listening.fd, Buffer.from(listening.name))
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
      const events = native.serviceEvents(this.native)
      if (typeof events === 'number' || events.length === 0) return
      for (const event of events) this.#handle(event)
    }
  }

  #handle(event: ServiceEvent): void {
    switch (event.type) {
      case 'worker-ready':
        return this.workerReady(event.worker)
      case 'worker-served':
        return this.workerServed(event.worker)
      case 'worker-note':
        return this.workerNote(event.worker, event.note)
      case 'worker-removed':
        return this.workerRemoved(event.worker, event.lost)
      case 'channel-failed':
        return this.channelFailed(event.worker)
      case 'exhausted':
        this.reportFailure(systemError(event.errno, event.syscall))
        return this.retryIn(EXHAUSTED_DELAY_MS)
      case 'spawn-exhausted':
        this.programFailed(event.errno, event.syscall)
        return this.retryIn(EXHAUSTED_DELAY_MS)
      case 'rate-limited':
        this.events.emit('pause', { service: this.name, milliseconds: this.settings.pause })
        return this.retryIn(this.settings.pause)
      case 'spawn-failed':
        return this.programFailed(event.errno, event.syscall)
      case 'program-started':
        return this.reportSpawn(event.pid)
      case 'program-ended':
        return this.programEnded(event.pid, event.status)
      case 'idle':
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
  protected workerServed(_worker: number): void {}
  protected workerNote(_worker: number, _note: string): void {}
  protected channelFailed(_worker: number): void {}
  protected workerRemoved(_worker: number, _lost: number): void {}
  protected programFailed(_errno: number, _syscall: string): void {}
  protected programEnded(_pid: number, _status: NativeExitStatus): void {}
}

/** The descriptor by which the services' thread reports events. One serves all services, and it does not keep the process alive. */
class Notifier extends PollHandle {
  readonly listeners = new Set<() => void>()

  constructor(fd: number) {
    super(fd)
    this.referenced = false
    this.update()
  }

  protected get waitsForInput(): boolean {
    return true
  }

  protected flushInput(): void {
    native.drainServices()
    for (const drain of this.listeners) drain()
  }

  protected fail(): void {
    this.watchLater()
  }

  protected end(): number[] {
    return []
  }
}

let notifier: Notifier | undefined

/** Starts the services' thread if necessary, and calls `drain` whenever a service may have events. Returns a function that stops that. */
function onServiceEvents(drain: () => void): () => void {
  if (notifier === undefined) {
    const fd = native.startServices()
    if (fd < 0) throw systemError(fd, 'pipe')
    notifier = new Notifier(fd)
  }
  const { listeners } = notifier
  listeners.add(drain)
  return () => listeners.delete(drain)
}
