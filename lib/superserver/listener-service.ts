import { Channel } from '../channel/index.ts'
import { protocolError } from '../base/internal.ts'
import { native } from '../native/internal.ts'
import { openSocket } from '../socket/internal.ts'
import { WorkerGroup } from './worker-group.ts'
import type { Events } from './events.ts'
import { Service } from './service.ts'
import { type SuperserverStats, countersOf } from './stats.ts'
import type { Settings } from './settings.ts'
import type { Worker, WorkerTransport } from './worker.ts'
import { noteOf } from './worker-note.ts'

/** A service whose workers receive the listeners and accept connections themselves. */
export class ListenerService extends Service {
  readonly #workerGroup: WorkerGroup
  /** Sends the listeners to workers that were started before `accept`; undefined after `accept`. */
  #deferred: (() => void)[] | undefined = []

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    this.#workerGroup = new WorkerGroup(
      settings,
      (channel, worker) => this.#connect(channel, worker),
      this.passedSockets,
      this.workerEvents
    )
  }

  /** Opens a worker's channel, and sends the listeners as soon as `accept` has been called. */
  #connect(number: number, worker: Worker): WorkerTransport {
    const socket = openSocket(number, 'stream').unref()
    const channel = new Channel(socket, { maxFds: 1 })
    const send = () => {
      for (const { name } of worker.settings.sources) {
        const listening = this.listening.get(name)
        if (listening === undefined) continue // closed in the meantime
        channel.send(Buffer.from(name), [listening.fd]).catch(() => {}) // the worker has exited, which its group handles
      }
    }
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
        else this.#workerGroup.note(worker, noteOf(message.value))
      }
    } catch {
      worker.kill()
    }
  }

  protected startWorkers(): Promise<void> {
    return this.#workerGroup.start()
  }

  protected apply(settings: Settings): Promise<void> {
    return this.#workerGroup.replace(settings)
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
  }

  protected startAccepting(): void {}
  protected stopAccepting(): void {}

  stats(): SuperserverStats {
    const workers = [...this.#workerGroup.all].map(({ child, phase }) => {
      return { service: this.name, pid: child.pid, state: phase, connections: null, unacknowledged: 0 }
    })
    return { ...countersOf(undefined), spawned: this.spawned, workers }
  }
}
