import { once } from 'node:events'
import type { Server } from 'node:net'
import { setTimeout } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { optionsOf, signalOf, aborted, invalidType, invalidValue, timedOut } from '../base/internal.ts'
import { checkCast, takeFd, takeFds, borrow, listenOn } from '../descriptor/internal.ts'
import { Channel } from '../channel/index.ts'
import { connect, listen, type UnixSocket } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { closeFds, native } from '../native/internal.ts'
import { notAllowed, untrusted, ListeningSocket, type Source } from '../socket/internal.ts'
import { drainHttp, isHttp } from '../handover/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { takeoverState } from './errors.ts'
import { HandoverSockets } from './handover-sockets.ts'
import { InheritedState, type Predecessor } from './predecessor.ts'
import { LIMITS } from './protocol.ts'
import { type Settings, type TakeoverOptions, settingsOf } from './settings.ts'
import { TakeoverAttempt, type Successor } from './successor.ts'

const made = Symbol('made')

/** After an accept that failed, because the table is full for one; and between two looks at who serves, in milliseconds. */
const PAUSE = 20

/** How many connections may wait where nobody says: as many as Linux lets, since they wait while the listeners change hands. */
const BACKLOG = 4096

/** How long two processes may take that both begin, in milliseconds. */
const RACE = 2000

/** How long a process that is refused may take to ask, in milliseconds. */
const PATIENCE = 1000

/**
 * The place of this process in a row of processes that serve the same listeners, one after the other: what {@link takeover} gives.
 *
 * It does not keep the process alive: what it serves does.
 */
export class Takeover implements Disposable {
  /** The listeners and sockets of datagrams, by their names in the options; each is the caller's to close. */
  readonly listeners: Readonly<Record<string, Descriptor>>
  /** Who served before; null at the first start. */
  readonly predecessor: Predecessor | null
  /** Resolves when another process serves in this one's place: finish what is open, and end. It never rejects. */
  readonly superseded: Promise<Successor>
  readonly #settings: Settings
  readonly #sockets: HandoverSockets
  readonly #inherited: InheritedState | null
  readonly #closing: Promise<void>
  readonly #began: Promise<void>
  #setSuperseded!: (successor: Successor) => void
  #setClosing!: () => void
  #begin!: () => void
  #closed = false
  #becoming: Promise<void> | undefined
  #attempt: TakeoverAttempt | undefined
  #successor: Successor | undefined

  /** Use {@link takeover}. */
  private constructor(
    settings: Settings,
    sockets: HandoverSockets,
    inherited: InheritedState | null,
    listeners: Readonly<Record<string, Descriptor>>,
    key: symbol
  ) {
    if (key !== made) throw invalidValue('key', 'is private: use takeover()')
    this.#settings = settings
    this.#sockets = sockets
    this.#inherited = inherited
    this.predecessor = inherited?.predecessor ?? null
    this.superseded = new Promise((resolve) => (this.#setSuperseded = resolve))
    this.#closing = new Promise((resolve) => (this.#setClosing = resolve))
    this.#began = new Promise((resolve) => (this.#begin = resolve))
    this.listeners = listeners
  }

  /** @internal Opens what did not come from a predecessor. */
  static async open(settings: Settings, sockets: HandoverSockets, inherited: InheritedState | null): Promise<Takeover> {
    const listeners: Record<string, Descriptor> = {}
    try {
      for (const [name, source] of settings.sources) {
        if (!sockets.listeners.has(name)) sockets.listeners.set(name, await ListeningSocket.open(source, BACKLOG))
        listeners[name] = sockets.listeners.get(name)!.duplicate()
      }
      return new Takeover(settings, sockets, inherited, listeners, made)
    } catch (error) {
      closeFds(takeFds([...Object.values(listeners), ...(inherited?.predecessor.fds ?? [])]))
      inherited?.close()
      sockets.close()
      throw error
    }
  }

  /**
   * Tell that this process serves from now on: the predecessor then listens no more, and finishes what it has. Until then it serves
   * as ever, also if this process crashes: accept nothing before. A superserver takes it as its `beforeAccept`. Without it, no
   * successor is dealt with either.
   *
   * @returns resolves when the predecessor knows, or has gone
   *
   *   Rejects with `ETIMEDOUT` if the predecessor has waited for longer than its `timeout`, and serves on; ERR_INVALID_STATE after
   *   `close`
   */
  readonly ready = (): Promise<void> => (this.#becoming ??= this.#become())

  async #become(): Promise<void> {
    if (this.#closed) throw closed()
    await this.#inherited?.settle()
    if (this.#closed) throw closed()
    this.#begin()
    void this.#meetSuccessors()
  }

  /**
   * Serve one of the listeners by a server, from `ready` on and until a successor does, or `close` is called.
   *
   * Then it listens no more. An HTTP server ends each connection with its next answer, and what stays idle after its
   * `keepAliveTimeout`; what is not HTTP any more, WebSockets for one, is the caller's to end, or to hand over.
   *
   * @param server a server of `node:http`, `node:https`, `node:net`, … that does not listen; it stays the caller's
   * @param name which of `listeners`, which is given away with it
   * @returns resolves when all connections have ended
   *
   *   Rejects with ERR_INVALID_ARG_VALUE where there is no such listener, or it is one of datagrams; ERR_DESCRIPTOR_CLOSED
   */
  async serve(server: Server, name: string): Promise<void> {
    const { Server: NetServer } = process.getBuiltinModule('node:net')
    if (!(server instanceof NetServer)) throw invalidType('server', 'an instance of net.Server', server)
    const listener = Object.hasOwn(this.listeners, name) ? this.listeners[name]! : undefined
    if (listener === undefined) throw invalidValue('name', `is no name of a listener: ${JSON.stringify(name)}`)
    checkCast(listener[borrow](), 'toServer')
    await Promise.race([this.#began, this.#closing])
    if (this.#closed) {
      listener.closeSync()
      return
    }
    listenOn(server, listener[borrow](), backlogOf(this.#settings.sources.get(name)))
    if (!server.listening) await once(server, 'listening') // it has failed
    native.release(takeFd(listener))
    const ended = new Promise<void>((resolve) => server.once('close', resolve))
    await Promise.race([this.superseded, this.#closing, ended])
    if (!isHttp(server)) {
      if (server.listening) server.close()
      return ended
    }
    using _draining = drainHttp(server)
    // Not http.Server's own, which ends at once what is idle.
    if (server.listening) NetServer.prototype.close.call(server)
    await ended
  }

  /**
   * End this process's part: no successor is dealt with any more, and what was listened on is not, unless somebody else has it. The
   * files of sockets are removed then. A successor that has not become ready yet goes on without this process.
   */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#attempt?.abandon()
    this.#inherited?.close()
    this.#successor?.close()
    this.#sockets.close()
    this.#setClosing()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Lets one process after the other try to become the successor, until one has. */
  async #meetSuccessors(): Promise<void> {
    const { control } = this.#sockets
    control.unref()
    while (!this.#closed && this.#successor === undefined) {
      try {
        await this.#meet(await control.accept())
      } catch {
        await sleep(PAUSE, undefined, { ref: false })
      }
    }
  }

  async #meet(socket: UnixSocket): Promise<void> {
    try {
      const credentials = socket.peer()
      const { allow, path } = this.#settings
      if (!(await allow(credentials))) throw notAllowed(path, credentials.uid)
      this.#attempt = new TakeoverAttempt(socket, credentials, this.#sockets, this.#settings)
    } catch (error) {
      refuse(socket, error)
      return
    }
    const successor = await this.#attempt.outcome
    this.#attempt = undefined
    if (successor === null) return
    this.#successor = successor
    if (this.#closed) successor.close()
    this.#inherited?.close()
    this.#sockets.close() // the successor has its own
    this.#setSuperseded(successor)
  }
}

/** How many connections may wait for a listener. */
function backlogOf(source: Source | undefined): number {
  return source !== undefined && 'backlog' in source && source.backlog !== undefined ? source.backlog : BACKLOG
}

function closed(): Error {
  return takeoverState('The takeover is closed')
}

/**
 * Take the place of the process that serves now, without losing a connection; or begin, where there is none.
 *
 * Both are started by whoever pleases, and meet at a path. This one gets second descriptors of the listeners, from which the other
 * goes on accepting until this one says that it is `ready`. Connections that come in between wait in the listeners' backlog. If this one
 * ends before, nothing has changed. Several that start at a time have their turn one after the other.
 *
 * @param options `path`, `listen`, `mode`, `allow`, `state`, `connections`, `timeout`, `signal`
 * @returns resolves to the place of this process: `listeners`, `ready`, `superseded`, …
 *
 *   Rejects with `EACCES` if the process at `path` is not allowed by `allow`, or does not allow this one; what its `state` function
 *   throws; `EADDRINUSE`, `EACCES`, … of what is listened on; `ETIMEDOUT`; `EPROTO` if it is no process of this kind, or its protocol is
 *   of another version; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE; AbortError; ERR_UNSUPPORTED_PLATFORM.
 *   Nothing is left then, and the process that serves goes on
 */
export async function takeover(options: TakeoverOptions): Promise<Takeover> {
  openReactor()
  const given = optionsOf(options)
  if (given === undefined) throw invalidType('options', 'of type object', options)
  const settings = settingsOf(given)
  const signal = signalOf(given)
  const patience = AbortSignal.timeout(settings.timeout)
  const either = signal === undefined ? patience : AbortSignal.any([signal, patience])
  const since = performance.now()
  try {
    for (;;) {
      const place = await tryOnce(settings, either).catch((error: unknown) => {
        // Another one has been faster, or has gone meanwhile. What is no such process stays.
        if (!isOneOf(error, 'EADDRINUSE') || performance.now() - since > RACE) throw error
        return null
      })
      if (place !== null) return place
      await sleep(PAUSE, undefined, { signal: either })
    }
  } catch (error) {
    if (signal?.aborted === true) throw aborted(signal)
    throw patience.aborted && isOneOf(error, 'ABORT_ERR') ? timedOut(settings.timeout) : error
  }
}

/** Takes over, or begins; null where who serves has changed meanwhile. */
async function tryOnce(settings: Settings, signal: AbortSignal): Promise<Takeover | null> {
  const socket = await reach(settings, signal)
  if (socket === null) {
    const control = await listen(settings.path, { mode: settings.mode })
    return Takeover.open(settings, new HandoverSockets(control), null)
  }
  const inherited = await InheritedState.ask(socket, settings, signal)
  return inherited && Takeover.open(settings, inherited.sockets, inherited)
}

/** Connects to the process that serves; null where there is none. */
async function reach({ path, allow }: Settings, signal: AbortSignal): Promise<UnixSocket | null> {
  let socket: UnixSocket
  try {
    socket = await connect(path, { signal })
  } catch (error) {
    if (isOneOf(error, 'ENOENT', 'ECONNREFUSED')) return null
    throw error
  }
  try {
    const credentials = socket.peer()
    if (!(await allow(credentials))) throw untrusted(path, credentials.uid)
    return socket
  } catch (error) {
    socket.close()
    throw error
  }
}

/** Tells a process why it is not dealt with. */
function refuse(socket: UnixSocket, reason: unknown): void {
  try {
    const channel = new Channel(socket, LIMITS).unref().onRequest(() => Promise.reject(reason))
    setTimeout(() => channel.close(), PATIENCE).unref()
  } catch {
    socket.close() // it has gone already
  }
}

function isOneOf(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException).code!)
}
