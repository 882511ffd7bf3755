import { clearTimeout, setTimeout } from 'node:timers'
import { closeFds, systemError, fds, native } from '../native/internal.ts'
import { workerFailed } from './errors.ts'
import { Child, type ExitStatus } from './child.ts'
import type { Settings } from './settings.ts'

/** What a worker is doing. */
export type WorkerPhase = 'starting' | 'ready' | 'draining'

/** The way to a worker, by which it is given what it serves. */
export interface WorkerTransport {
  /** Gives it nothing more: it sees the end. */
  drain(): void
  /** Notes the end of its process. */
  release(): void
}

/** Makes the way to a worker out of this end's number, which is the line's from then on. */
export type ConnectWorker = (channel: number, worker: Worker) => WorkerTransport

/** The native code of the type 'stream'. */
const STREAM = 0

/** A worker: its process, and the way to it. */
export class Worker {
  readonly child: Child
  /** What it was started with. */
  readonly settings: Settings
  readonly #transport: WorkerTransport
  phase: WorkerPhase = 'starting'
  /** How many connections it had acknowledged and not ended when it died. */
  lost = 0
  /** Resolves when it can serve; rejects if it ends before. */
  readonly ready: Promise<void>
  #becomeReady!: () => void
  /** Resolves at its end. */
  readonly ended: Promise<ExitStatus>
  /** When it could serve: not yet, at first. */
  readySince = Infinity
  #killer: NodeJS.Timeout | undefined

  constructor(settings: Settings, connect: ConnectWorker) {
    this.settings = settings
    const code = native.socketpair(STREAM)
    if (code < 0) throw systemError(code, 'socketpair')
    const [ours, theirs] = [fds[0]!, fds[1]!]
    try {
      this.child = Child.spawn(settings.program, theirs)
    } catch (error) {
      closeFds([ours])
      throw error
    } finally {
      closeFds([theirs])
    }
    const isReady = new Promise<void>((resolve) => (this.#becomeReady = resolve))
    this.#transport = connect(ours, this)
    this.ended = this.child.ended.then((status) => {
      clearTimeout(this.#killer)
      this.#transport.release()
      return status
    })
    const failed = this.ended.then((status) => {
      throw workerFailed(settings.program.arguments.join(' '), status)
    })
    this.ready = Promise.race([isReady, failed])
    this.ready.catch(() => {})
    this.#killAfter(settings.readyTimeout)
  }

  /** Notes that it can serve. */
  markReady(): void {
    if (this.phase !== 'starting') return
    this.phase = 'ready'
    this.readySince = performance.now()
    clearTimeout(this.#killer)
    this.#becomeReady()
  }

  /** Gives it nothing more: it finishes what it has, and ends, or is killed when its time is up. */
  drain(timeout = this.settings.drainTimeout): void {
    if (this.phase !== 'draining') this.#transport.drain()
    this.phase = 'draining'
    this.#killAfter(timeout)
  }

  /** Ends it, and what it has started. */
  kill(): void {
    this.child.kill('SIGKILL', true)
  }

  #killAfter(milliseconds: number): void {
    clearTimeout(this.#killer)
    if (this.child.closed) return
    this.#killer = setTimeout(() => this.kill(), milliseconds)
    this.#killer.unref()
  }
}
