import { once } from 'node:events'
import { Server } from 'node:net'
import { setImmediate } from 'node:timers'
import { duplicateOf } from '../socket/internal.ts'
import type { ServerDrain } from '../handover/internal.ts'
import { native } from '../native/internal.ts'
import { DRAIN_TIMEOUT, describe } from '../superserver/internal.ts'
import type { ListenAlias } from '../superserver/index.ts'
import { notify } from '../systemd/index.ts'
import { invalidVariable, passedListeners } from '../systemd/internal.ts'
import { hookBind } from './bind-hook.ts'
import { type Taking, debug, hookListen, isServed, trackServer } from './listen-hook.ts'
import type { DatagramSource, PassedSource, Wanted } from './matching.ts'

/** The environment variable with what the program listens on in the place of each passed socket: `web=3000,admin=*`. */
const ALIASES = 'FDPASS_LISTEN_AS'
/** The default time for which connections may continue after SIGTERM, in milliseconds. */
const DEFAULT_DRAIN_TIMEOUT = 30_000

/** Has the program of a service with socket activation listen on the sockets that the service manager has passed. */
export function listenOnPassed(): void {
  const aliases = aliasesOf(process.env[ALIASES])
  const sockets = passedListeners().map(({ name, fd, kind, address }) => {
    const isDatagram = kind === 'udp'
    return { socket: describe({ name, address }, aliases.get(name), isDatagram), fd }
  })
  const sources = sockets
    .filter(({ socket }) => socket.datagrams !== true)
    .map((passed): ActivationSource => ({ ...passed, takers: new Set() }))
  const datagrams = sockets
    .filter(({ socket }) => socket.datagrams === true)
    .map((passed): ActivationDatagrams => ({ ...passed, taker: undefined }))
  if (sockets.length === 0) return
  const taking = new ActivationTaking(sources, datagrams)
  hookListen(sources, taking)
  hookBind(datagrams, (_socket, source, bind) => taking.bind(source, bind))
}

/** Parses `name=port` and `name=*`, separated by commas. */
function aliasesOf(text: string | undefined): ReadonlyMap<string, ListenAlias> {
  if (text === undefined) return new Map()
  return new Map(
    text.split(',').map((part) => {
      const [, name, as] = /^(.+)=(\*|[1-9]\d{0,4})$/.exec(part) ?? []
      if (name === undefined) throw invalidVariable(ALIASES, "names with a port or '*', such as web=3000,admin=*", text)
      return [name, as === '*' ? as : Number(as)]
    })
  )
}

/** A socket of the service manager, with its descriptor, which stays in its place: the program may look for it. */
interface ActivationSource extends PassedSource {
  readonly fd: number
}

interface ActivationDatagrams extends DatagramSource {
  readonly fd: number
}

class ActivationTaking implements Taking<ActivationSource> {
  readonly #sources: readonly ActivationSource[]
  readonly #datagrams: readonly ActivationDatagrams[]
  readonly #drains = new Map<Server, ServerDrain>()
  #isReady = false
  #handlesSignals = false

  constructor(sources: readonly ActivationSource[], datagrams: readonly ActivationDatagrams[]) {
    this.#sources = sources
    this.#datagrams = datagrams
  }

  take(server: Server, source: ActivationSource, { address }: Wanted, listen: (fd: number) => void): void {
    if (!this.#handlesSignals) this.#handleSignals()
    const taker = { server, address }
    source.takers.add(taker)
    server.once('close', () => source.takers.delete(taker))
    trackServer(server, this.#drains)
    listen(ownDuplicate(source.fd))
  }

  /** Binds a datagram socket of the program to a passed one. */
  bind({ fd }: ActivationDatagrams, bind: (fd: number) => void): void {
    if (!this.#handlesSignals) this.#handleSignals()
    bind(ownDuplicate(fd))
    setImmediate(() => this.taken())
  }

  taken(): void {
    if (this.#isReady || this.#isWaiting()) return
    this.#isReady = true
    debug('ready')
    void notify({ ready: true }).catch(() => {}) // a program may do so by itself; without a service manager it does nothing
  }

  /** Returns whether a passed socket has not been taken. */
  #isWaiting(): boolean {
    return (
      this.#sources.some(({ takers }) => !isServed(takers, this.#drains)) || this.#datagrams.some(({ taker }) => !taker)
    )
  }

  unmatched(): void {}

  /** Drains at SIGTERM and SIGINT, unless the program has a handler. */
  #handleSignals(): void {
    this.#handlesSignals = true
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const end = () => {
        if (process.listenerCount(signal) > 1) return
        process.off(signal, end)
        void this.#drain(signal)
      }
      process.on(signal, end)
    }
  }

  async #drain(signal: NodeJS.Signals): Promise<void> {
    const timeout = Number(process.env[DRAIN_TIMEOUT] ?? DEFAULT_DRAIN_TIMEOUT)
    debug(`drains, for ${timeout} ms at most`)
    const ended = [...this.#drains].map(async ([server, drain]) => {
      void drain.start(timeout)
      if (!server.listening) return
      const closed = once(server, 'close')
      Server.prototype.close.call(server) // not that of http.Server, which closes idle connections at once
      await closed
    })
    await Promise.all(ended)
    process.kill(process.pid, signal)
  }
}

/** Returns a duplicate of a descriptor for a socket of Node's, which owns it. */
function ownDuplicate(fd: number): number {
  const duplicate = duplicateOf(fd)
  native.release(duplicate)
  return duplicate
}
