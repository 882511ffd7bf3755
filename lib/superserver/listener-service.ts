import { Channel } from '../channel/index.ts'
import { protocolError } from '../base/internal.ts'
import { native } from '../native/internal.ts'
import { type ListeningSocket, openSocket } from '../socket/internal.ts'
import { WorkerGroup } from './worker-group.ts'
import type { Events } from './events.ts'
import { type AcceptingWorker, ReusePort } from './reuse-port.ts'
import { Service } from './service.ts'
import { type SuperserverStats, countersOf } from './stats.ts'
import type { Settings } from './settings.ts'
import type { Worker, WorkerTransport } from './worker.ts'
import { type WorkerNote, noteOf } from './worker-note.ts'

/** A service whose workers receive the listeners and accept connections themselves. */
export class ListenerService extends Service {
  readonly #workerGroup: WorkerGroup
  /** The sockets of the workers, with `reusePort`. */
  readonly #reusePort: ReusePort | undefined
  readonly #accepting = new Map<Worker, AcceptingWorker>()
  /** Sends the listeners to workers that were started before `accept`; undefined after `accept`. */
  #deferred: (() => void)[] | undefined = []

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    this.#reusePort = settings.reusePort ? new ReusePort() : undefined
    const { ready, exited, ...others } = this.workerEvents
    this.#workerGroup = new WorkerGroup(
      settings,
      (channel, worker) => this.#connect(channel, worker),
      this.passedSockets,
      {
        ...others,
        ready: (worker) => {
          this.#update(worker)
          ready(worker)
        },
        exited: (worker, status) => {
          this.#update(worker)
          this.#accepting.delete(worker)
          exited(worker, status)
        }
      }
    )
  }

  /** Opens a worker's channel, and sends the listeners as soon as `accept` has been called. */
  #connect(number: number, worker: Worker): WorkerTransport {
    const socket = openSocket(number, 'stream').unref()
    const channel = new Channel(socket, { maxFds: 1 })
    const accepting: AcceptingWorker = { worker, channel, takesConnections: false, sockets: new Set() }
    const send = () => {
      for (const { name } of worker.settings.sources) {
        const listening = this.listening.get(name)
        if (listening === undefined) continue // closed in the meantime
        for (const given of this.#reusePort?.socketsFor(worker, name) ?? [listening]) {
          accepting.sockets.add(given)
          channel.send(Buffer.from(name), [given.fd]).catch(() => {}) // the worker has exited, which its group handles
        }
      }
    }
    this.#accepting.set(worker, accepting)
    if (this.#deferred === undefined) send()
    else this.#deferred.push(send)
    void this.#receive(channel, worker)
    return {
      drain: (timeout) => {
        if (socket.closed) return
        channel.send({ drainTimeout: timeout }).catch(() => {}) // the worker has exited, which its group handles
        native.shutdown(number, 'write')
      },
      release: async () => channel.close()
    }
  }

  /** Marks a worker as ready at its first message, and handles its notes. Kills a worker that violates the protocol. */
  async #receive(channel: Channel, worker: Worker): Promise<void> {
    try {
      for await (using message of channel) {
        if (message.fds.length > 0) throw protocolError('a worker sent descriptors')
        if (message.value === undefined || message.value instanceof Uint8Array) worker.markReady()
        else this.#note(worker, noteOf(message.value))
      }
    } catch {
      worker.kill('channel')
    }
  }

  #note(worker: Worker, note: WorkerNote): void {
    const accepting = this.#accepting.get(worker)
    // Once: a worker may send it without end.
    if (accepting?.takesConnections === false && note.connections === true) {
      accepting.takesConnections = true
      if (worker.phase !== 'starting') this.#update(worker)
    }
    this.#workerGroup.note(worker, note)
  }

  #update(worker: Worker): void {
    const accepting = this.#accepting.get(worker)
    if (accepting !== undefined) this.#reusePort?.update(accepting)
  }

  protected async startWorkers(): Promise<void> {
    await this.#reusePort?.open(this.settings, this.listening)
    await this.#workerGroup.start()
  }

  protected async apply(settings: Settings): Promise<void> {
    await this.#reusePort?.open(settings, this.listening)
    await this.#workerGroup.replace(settings)
  }

  protected shutDown(): Promise<void> {
    return this.#workerGroup.stop(this.remaining)
  }

  protected deadlineChanged(): void {
    this.#workerGroup.shortenDeadline(this.remaining)
  }

  override accept(): void {
    const deferred = this.#deferred ?? []
    this.#deferred = undefined
    for (const send of deferred) send()
    this.#reusePort?.accept()
  }

  protected startAccepting(): void {}

  protected stopAccepting({ name }: ListeningSocket): void {
    this.#reusePort?.close(name)
  }

  stats(): SuperserverStats {
    const workers = [...this.#workerGroup.all].map(({ child, phase }) => {
      return { service: this.name, pid: child.pid, state: phase, connections: null, unacknowledged: 0 }
    })
    return { ...countersOf(undefined), spawned: this.spawned, workers }
  }
}
