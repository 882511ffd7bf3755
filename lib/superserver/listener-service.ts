import { Channel } from '../channel/index.ts'
import { protocolError } from '../base/internal.ts'
import { native } from '../native/internal.ts'
import { openSocket } from '../socket/internal.ts'
import { WorkerGroup } from './worker-group.ts'
import { type Events, Service, type SuperserverStats, countersOf } from './service.ts'
import type { Settings } from './settings.ts'
import type { Worker, WorkerTransport } from './worker.ts'

/** The native codes of the type 'stream', and of the half that sends. */
const STREAM = 0
const WRITE = 1

/** A service whose workers accept themselves. */
export class ListenerService extends Service {
  readonly #workerGroup: WorkerGroup
  /** Gives the listeners to workers that came before `accept`; undefined from then on. */
  #held: (() => void)[] | undefined = []

  constructor(settings: Settings, events: Events) {
    super(settings, events)
    this.#workerGroup = new WorkerGroup(
      settings,
      (channel, worker) => this.#connect(channel, worker),
      this.workerEvents
    )
  }

  /** Sends a worker the listeners, once they are to be accepted from. */
  #connect(number: number, worker: Worker): WorkerTransport {
    const socket = openSocket(number, STREAM).unref()
    const channel = new Channel(socket, { maxFds: 1 })
    const give = () => {
      for (const { name } of worker.settings.sources) {
        const listening = this.listening.get(name)
        if (listening === undefined) continue // closed meanwhile
        channel.send(Buffer.from(name), [listening.fd]).catch(() => {}) // it has ended, which is noticed
      }
    }
    if (this.#held === undefined) give()
    else this.#held.push(give)
    void hear(channel, worker)
    return {
      drain: () => {
        if (!socket.closed) native.shutdown(number, WRITE)
      },
      release: () => channel.close()
    }
  }

  protected begin(): Promise<void> {
    return this.#workerGroup.start()
  }

  protected change(settings: Settings): Promise<void> {
    return this.#workerGroup.replace(settings)
  }

  protected end(): Promise<void> {
    return this.#workerGroup.stop(this.remaining)
  }

  protected deadlineChanged(): void {
    this.#workerGroup.shortenDeadline(this.remaining)
  }

  override accept(): void {
    const held = this.#held ?? []
    this.#held = undefined
    for (const give of held) give()
  }

  protected opened(): void {}
  protected closed(): void {}

  stats(): SuperserverStats {
    const workers = [...this.#workerGroup.all].map(({ child, phase }) => {
      return { service: this.name, pid: child.pid, state: phase, connections: null, unacknowledged: 0 }
    })
    return { ...countersOf(undefined), spawned: this.spawned, workers }
  }
}

/** Hears that a worker is ready; whatever else it says means nothing. One that does not keep to the protocol is ended. */
async function hear(channel: Channel, worker: Worker): Promise<void> {
  try {
    for await (using message of channel) {
      if (message.fds.length > 0) throw protocolError('a worker sent descriptors')
      worker.markReady()
    }
  } catch {
    worker.kill()
  }
}
