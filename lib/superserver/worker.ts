import { clearTimeout, setTimeout } from 'node:timers'
import { closeFds, systemError, native } from '../native/internal.ts'
import { workerFailed } from './errors.ts'
import { Child, type ExitStatus } from './child.ts'
import type { Settings } from './settings.ts'

/** The state of a worker. */
export type WorkerPhase = 'starting' | 'ready' | 'draining'

/** The superserver's end of a worker's channel. */
export interface WorkerTransport {
  /** Ends the channel's sending half: the worker receives end-of-stream. */
  drain(): void
  /** Releases the channel after the worker's process has exited. */
  release(): void
}

/** Makes the transport from the channel's descriptor number, whose ownership it takes. */
export type ConnectWorker = (channel: number, worker: Worker) => WorkerTransport

/** A worker: its process and its channel. */
export class Worker {
  readonly child: Child
  /** The settings that it was started with. */
  readonly settings: Settings
  readonly #transport: WorkerTransport
  phase: WorkerPhase = 'starting'
  /** The number of connections that it had acknowledged and not finished when it died. */
  lost = 0
  /** Resolves when the worker is ready; rejects with ERR_WORKER_FAILED if it exits before. */
  readonly ready: Promise<void>
  #becomeReady!: () => void
  /** Resolves when its process has exited. */
  readonly ended: Promise<ExitStatus>
  /** When it became ready, on the clock of `performance.now()`; Infinity before. */
  readySince = Infinity
  #killer: NodeJS.Timeout | undefined

  constructor(settings: Settings, connect: ConnectWorker) {
    this.settings = settings
    const pair = native.socketpair('stream')
    if (typeof pair === 'number') throw systemError(pair, 'socketpair')
    const [ours, theirs] = pair
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

  /** Marks the worker as ready. */
  markReady(): void {
    if (this.phase !== 'starting') return
    this.phase = 'ready'
    this.readySince = performance.now()
    clearTimeout(this.#killer)
    this.#becomeReady()
  }

  /** Sends the worker nothing more: it finishes its connections and exits, or is killed after the timeout, in milliseconds. */
  drain(timeout = this.settings.drainTimeout): void {
    if (this.phase !== 'draining') this.#transport.drain()
    this.phase = 'draining'
    this.#killAfter(timeout)
  }

  /** Kills the worker and its process group. */
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
