import { type ProgramDescription, closeFds, systemError, native } from '../native/internal.ts'
import { Child, type ExitStatus } from './child.ts'
import type { KillReason } from './events.ts'
import type { Settings } from './settings.ts'
import { InputTimer, withCode } from '../base/internal.ts'

/** The state of a worker. */
export type WorkerPhase = 'starting' | 'ready' | 'draining'

/** The superserver's end of a worker's channel. */
export interface WorkerTransport {
  /** Ends the channel's sending half: the worker receives the time that it has, in milliseconds, and end-of-stream. */
  drain(timeout: number): void
  /** Releases the channel after the worker's process has exited. Resolves once the worker's last frames were received. */
  release(): Promise<void>
}

/** Makes the transport from the channel's descriptor number, whose ownership it takes. */
export type ConnectWorker = (channel: number, worker: Worker) => WorkerTransport

/** A worker: its process and its channel. */
export class Worker {
  readonly child: Child
  /** The settings that it was started with. */
  readonly settings: Settings
  /** Its place among the workers of its service, from 0 on. Its replacement has the same one. */
  readonly place: number
  /** A replacement for it is being started. */
  isRetiring = false
  /** Its own reason why it is not ready. */
  waits: string | undefined
  readonly #transport: WorkerTransport
  phase: WorkerPhase = 'starting'
  /** The number of connections that it had acknowledged and not finished when it died. */
  lost = 0
  /** Why it was killed; null if it was not, or not for one of these reasons. */
  killedFor: KillReason | null = null
  /** Resolves when the worker is ready; rejects with ERR_WORKER_FAILED if it exits before. */
  readonly ready: Promise<void>
  #becomeReady!: () => void
  /** Resolves when its process has exited. */
  readonly ended: Promise<ExitStatus>
  /** When it became ready, on the clock of `performance.now()`; Infinity before. */
  readySince = Infinity
  #killer: InputTimer | undefined

  constructor(settings: Settings, place: number, program: ProgramDescription, connect: ConnectWorker) {
    this.settings = settings
    this.place = place
    const pair = native.socketpair('stream')
    if (typeof pair === 'number') throw systemError(pair, 'socketpair')
    const [ours, theirs] = pair
    try {
      this.child = Child.spawn(program, theirs)
    } catch (error) {
      closeFds([ours])
      throw error
    } finally {
      closeFds([theirs])
    }
    const isReady = new Promise<void>((resolve) => (this.#becomeReady = resolve))
    this.#transport = connect(ours, this)
    this.ended = this.child.ended.then(async (status) => {
      this.#killer?.[Symbol.dispose]()
      await this.#transport.release()
      return status
    })
    const failed = this.ended.then((status) => {
      throw this.#failure(status)
    })
    this.ready = Promise.race([isReady, failed])
    this.ready.catch(() => {})
    this.#killAfter(settings.readyTimeout, 'readyTimeout')
  }

  /** Marks the worker as ready. */
  markReady(): void {
    if (this.phase !== 'starting') return
    this.phase = 'ready'
    this.readySince = performance.now()
    this.#killer?.[Symbol.dispose]()
    this.#becomeReady()
  }

  /** Sends the worker nothing more: it finishes its connections and exits, or is killed after the timeout, in milliseconds. */
  drain(timeout = this.settings.drainTimeout): void {
    if (this.phase !== 'draining') this.#transport.drain(timeout)
    this.phase = 'draining'
    this.#killAfter(timeout, 'drainTimeout')
  }

  /** Kills the worker and its process group, for its first reason. */
  kill(reason: KillReason | null = null): void {
    this.killedFor ??= reason
    this.child.kill('SIGKILL', true)
  }

  #killAfter(milliseconds: number, reason: KillReason): void {
    this.#killer?.[Symbol.dispose]()
    if (this.child.closed) return
    this.#killer = new InputTimer(milliseconds, () => this.kill(reason)).unref()
  }

  /** Returns the error of a worker that has ended before it was ready. */
  #failure({ code, signal }: ExitStatus): Error {
    const { program, readyTimeout } = this.settings
    const how = signal === null ? `ended with code ${code}` : `ended by ${signal}`
    const happened =
      this.killedFor === 'readyTimeout' ? `was not ready within ${readyTimeout} ms` : `${how} before it was ready`
    const reason = this.waits === undefined ? '' : `. ${this.waits}`
    const text = `A worker ${happened}: ${program.arguments.join(' ')}${reason}`
    return Object.assign(withCode(new Error(text), 'ERR_WORKER_FAILED'), { exitCode: code, signal })
  }
}
