import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel } from '../channel/index.ts'
import { closeFds } from '../native/internal.ts'
import { type AcceptShape, Acceptor, ListeningSocket, duplicateOf, warnOfService } from '../socket/internal.ts'
import type { Settings } from './settings.ts'
import type { Worker } from './worker.ts'

/** The delay after a failed accept, in milliseconds. */
const RETRY_DELAY_MS = 100

/** A worker that accepts connections itself, and its channel. */
export interface AcceptingWorker {
  readonly worker: Worker
  readonly channel: Channel
  /** Whether it also takes single connections: it has said so in a note. */
  takesConnections: boolean
  /** The sockets that it was sent. */
  readonly sockets: Set<ListeningSocket>
}

/**
 * The listeners of a service with `reusePort`: as many sockets on the port of each source as the service has workers. The kernel
 * distributes connections over them (SO_REUSEPORT: socket(7)).
 *
 * This process keeps all of them open, since the kernel resets the queue of a listener that is closed. A worker's replacement accepts
 * from the same ones. While none does, this process accepts from them, and passes the connections to the other workers.
 */
export class ReusePort {
  /** The sockets of each source. The first one is the service's own. */
  readonly #sockets = new Map<string, ListeningSocket[]>()
  /** What accepts from a socket that no worker accepts from. */
  readonly #relays = new Map<ListeningSocket, Relay>()
  /** These, and those that have stopped and still pass a connection. */
  readonly #running = new Set<Relay>()
  readonly #workers = new Set<AcceptingWorker>()
  #accepts = false

  /** Opens what is missing of the sockets for these settings. `listening` has the first one of each source. */
  async open(settings: Settings, listening: ReadonlyMap<string, ListeningSocket>): Promise<void> {
    for (const source of settings.sources) {
      const first = listening.get(source.name)
      if (first === undefined || source.kind !== 'tcp') continue
      const sockets = this.#sockets.get(source.name) ?? [first]
      this.#sockets.set(source.name, sockets)
      const { address: host, port } = first.address as AddressInfo
      while (sockets.length < settings.workers) {
        const opened = await ListeningSocket.open({ ...source, host, port }, settings.backlog)
        if (this.#sockets.get(source.name) !== sockets) return opened.close() // the service was stopped meanwhile
        sockets.push(opened)
      }
    }
    // The kernel assigns connections to the new sockets at once, and the workers for them are not ready yet.
    if (this.#accepts) this.#updateRelays()
  }

  /** Returns the sockets of a source that the worker in this place accepts from. */
  socketsFor({ place, settings }: Worker, name: string): readonly ListeningSocket[] {
    return (this.#sockets.get(name) ?? []).filter((_, slot) => slot % settings.workers === place)
  }

  /** Accepts from the sockets without a worker from now on. */
  accept(): void {
    this.#accepts = true
    this.#updateRelays()
  }

  /** Notes a worker, or what has changed about it. */
  update(worker: AcceptingWorker): void {
    if (worker.worker.child.closed) this.#workers.delete(worker)
    else this.#workers.add(worker)
    if (this.#accepts) this.#updateRelays()
  }

  #updateRelays(): void {
    const serving = [...this.#workers].filter(({ worker: { phase } }) => phase === 'ready')
    // A reload adds sockets, and sources, that its workers know and those from before do not.
    const takersOf = (name: string) =>
      serving.filter(({ takesConnections, worker: { settings } }) => {
        return takesConnections && settings.sources.some((source) => source.name === name)
      })
    for (const relay of this.#running) relay.takers = takersOf(relay.name)
    const served = new Set(serving.flatMap(({ sockets }) => [...sockets]))
    for (const [name, sockets] of this.#sockets) {
      for (const socket of sockets) this.#relay(name, socket, served.has(socket), takersOf(name))
    }
  }

  #relay(name: string, socket: ListeningSocket, isServed: boolean, takers: readonly AcceptingWorker[]): void {
    const relay = this.#relays.get(socket)
    if (isServed && relay !== undefined) {
      this.#relays.delete(socket)
      relay.stop()
    } else if (!isServed && relay === undefined && takers.length > 0) {
      const started = new Relay(name, socket, takers)
      this.#relays.set(socket, started)
      this.#running.add(started)
      void started.run().finally(() => this.#running.delete(started))
    }
  }

  /** Closes the sockets of a source, other than the service's own. */
  close(name: string): void {
    const sockets = this.#sockets.get(name) ?? []
    this.#sockets.delete(name)
    for (const socket of sockets) {
      this.#relays.get(socket)?.abandon()
      this.#relays.delete(socket)
    }
    for (const socket of sockets.slice(1)) socket.close()
  }
}

/** The number of an accepted connection; -1 once nothing is accepted any more. */
const toNumber: AcceptShape<number> = Object.assign((fd: number) => fd, { closed: () => -1 })

/** Accepts connections from a socket, one at a time, and passes them to workers. */
class Relay {
  /** The name of the socket's source. */
  readonly name: string
  readonly #acceptor: Acceptor
  #takers: readonly AcceptingWorker[]
  #next = 0
  #abandoned = false
  #wake = () => {}

  constructor(name: string, socket: ListeningSocket, takers: readonly AcceptingWorker[]) {
    this.name = name
    this.#acceptor = new Acceptor(duplicateOf(socket.fd), undefined)
    this.#acceptor.referenced = false
    this.#takers = takers
  }

  /** The workers that take connections. */
  set takers(takers: readonly AcceptingWorker[]) {
    this.#takers = takers
    this.#wake()
  }

  /** Accepts no more. A connection that was accepted is still passed. */
  stop(): void {
    this.#acceptor.close()
    this.#wake()
  }

  /** Accepts no more, and closes a connection that no worker takes. */
  abandon(): void {
    this.#abandoned = true
    this.stop()
  }

  #untilChanged(): Promise<void> {
    return new Promise((resolve) => (this.#wake = resolve))
  }

  /** Resolves after `stop`, when no connection is left to pass. */
  async run(): Promise<void> {
    while (!this.#acceptor.closed) {
      if (this.#takers.length === 0) {
        await this.#untilChanged()
        continue
      }
      try {
        const fd = await this.#acceptor.accept(this, toNumber, undefined)
        if (fd >= 0) await this.#pass(fd)
      } catch (error) {
        warnOfService('A superserver cannot accept connections for a worker that has ended; they wait', error)
        await sleep(RETRY_DELAY_MS, undefined, { ref: false })
      }
    }
  }

  /** Passes a connection to a worker, which owns it once it has acknowledged it. */
  async #pass(fd: number): Promise<void> {
    try {
      for (let refused = 0; ; refused++) {
        while (refused >= this.#takers.length) {
          if (this.#abandoned) return
          await this.#untilChanged()
          refused = 0
        }
        const { channel, worker } = this.#takers[this.#next++ % this.#takers.length]!
        const timeout = worker.settings.acknowledgeTimeout
        const failure = await channel.request(Buffer.from(this.name), [fd], { timeout }).then(
          () => undefined,
          (error: NodeJS.ErrnoException) => error
        )
        if (failure === undefined) return
        // It may have received the connection. As with `handoff: 'connection'`, it must not serve it together with another worker.
        if (failure.code === 'ETIMEDOUT') worker.kill('acknowledgeTimeout')
      }
    } finally {
      closeFds([fd])
    }
  }
}
