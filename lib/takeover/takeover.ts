import type { Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  checkRuntime,
  optionsOf,
  signalOf,
  invalidType,
  invalidValue,
  invalidState,
  withLimit,
  shown
} from '../base/internal.ts'
import { checkCast, giveToServer, takeFd, takeFds, borrow } from '../descriptor/internal.ts'
import { refuse } from '../channel/internal.ts'
import { type Credentials, type UnixSocket, connect, listen } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { closeFds, native } from '../native/internal.ts'
import { clientDenied, closeApart, listenerDenied, ListeningSocket, warnOfService } from '../socket/internal.ts'
import { ServerDrain } from '../handover/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { HandoverSockets, InheritedState } from './inherited-state.ts'
import type { Predecessor } from './predecessor.ts'
import { type Settings, type TakeoverOptions, settingsOf } from './settings.ts'
import type { Successor } from './successor.ts'
import { TakeoverAttempt } from './takeover-attempt.ts'

const constructorKey = Symbol('constructorKey')

/** The delay after a failed accept, and between two attempts to reach the serving process, in milliseconds. */
const RETRY_DELAY_MS = 20

/** The default backlog: the kernel's usual limit, because connections wait while the listeners change hands. */
const BACKLOG = 4096

/** The time within which two processes that start simultaneously settle which one serves first, in milliseconds. */
const START_RACE_MS = 2000

/**
 * The place of this process in a succession of processes that serve the same listeners: the result of {@link takeover}.
 *
 * It does not keep the process alive; the servers on its listeners do.
 */
export class Takeover implements Disposable {
  /** The listeners and datagram sockets, by their names in the options. The caller owns each one and must close it. */
  readonly listeners: Readonly<Record<string, Descriptor>>
  /** The process that served before; null at the first start. */
  readonly predecessor: Predecessor | null
  /** Resolves when another process has taken over: finish the open connections, and exit. It never rejects. */
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
  #becomingReady: Promise<void> | undefined
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
    if (key !== constructorKey) throw invalidValue('key', 'is private: use takeover()')
    this.#settings = settings
    this.#sockets = sockets
    this.#inherited = inherited
    this.predecessor = inherited?.predecessor ?? null
    this.superseded = new Promise((resolve) => (this.#setSuperseded = resolve))
    this.#closing = new Promise((resolve) => (this.#setClosing = resolve))
    this.#began = new Promise((resolve) => (this.#begin = resolve))
    this.listeners = listeners
  }

  /** @internal Opens the listeners that did not come from a predecessor. */
  static async open(settings: Settings, sockets: HandoverSockets, inherited: InheritedState | null): Promise<Takeover> {
    const listeners: Record<string, Descriptor> = {}
    try {
      for (const [name, source] of settings.sources) {
        if (!sockets.listeners.has(name)) sockets.listeners.set(name, await ListeningSocket.open(source, BACKLOG))
        listeners[name] = sockets.listeners.get(name)!.duplicate()
      }
      return new Takeover(settings, sockets, inherited, listeners, constructorKey)
    } catch (error) {
      closeFds(takeFds([...Object.values(listeners), ...(inherited?.predecessor.fds ?? [])]))
      inherited?.close()
      sockets.close()
      throw error
    }
  }

  /**
   * Reports that this process is ready to serve: the predecessor closes its listeners, and finishes its connections.
   *
   * Until then the predecessor continues to serve, also if this process crashes: accept nothing before. Pass it to a superserver as
   * `beforeAccept`. Successors of this process are accepted only after it.
   *
   * @returns resolves when the predecessor has confirmed, or has exited
   *
   *   Rejects with `ETIMEDOUT` if the predecessor has waited for longer than its `timeout`, and continues to serve; with
   *   ERR_INVALID_STATE after `close`
   */
  readonly ready = (): Promise<void> => (this.#becomingReady ??= this.#becomeReady())

  async #becomeReady(): Promise<void> {
    if (this.#closed) throw closed()
    await this.#inherited?.confirm()
    if (this.#closed) throw closed()
    this.#begin()
    void this.#acceptSuccessors()
  }

  /**
   * Serves one of the listeners with a server, from `ready` until a successor is ready or `close` is called.
   *
   * Then the server stops listening. An HTTP server closes each connection after its next response, whatever `Connection` header the
   * program sets, and idle connections after its `keepAliveTimeout`. The caller must close, or hand over, connections that are not HTTP any
   * more, such as WebSockets. After `drainTimeout` the remaining connections are reset.
   *
   * While the descriptor table is full, Node closes each new connection that it accepts, and no event reports it.
   *
   * @param server a server that does not listen, such as one of `node:http`, `node:https` or `node:net`. The caller keeps it
   * @param name the name of one of `listeners`, whose descriptor the server takes
   * @returns resolves when all connections are closed
   *
   *   Rejects with ERR_INVALID_ARG_VALUE if there is no such listener, or it is a datagram socket; with ERR_DESCRIPTOR_CLOSED; with
   *   ERR_UNSUPPORTED_PLATFORM for an HTTP server on Bun. Nothing has changed then
   */
  async serve(server: Server, name: string): Promise<void> {
    const { Server: NetServer } = process.getBuiltinModule('node:net')
    if (!(server instanceof NetServer)) {
      // Bun's http.Server is no net.Server, and listen({ fd }) of it listens on another port.
      if ((server as unknown) instanceof process.getBuiltinModule('node:http').Server) {
        checkRuntime('Bun', 'serve() needs Node or Deno for HTTP: http.Server of Bun serves no passed listener')
      }
      throw invalidType('server', 'an instance of net.Server', server)
    }
    const listener = Object.hasOwn(this.listeners, name) ? this.listeners[name]! : undefined
    if (listener === undefined) throw invalidValue('name', `is no name of a listener: ${shown(name)}`)
    checkCast(listener[borrow](), 'toServer')
    await Promise.race([this.#began, this.#closing])
    if (this.#closed) {
      listener.closeSync()
      return
    }
    using drain = new ServerDrain(server)
    const backlog = this.#settings.sources.get(name)?.backlog ?? BACKLOG
    const listening = giveToServer(listener[borrow](), server, backlog)
    if (listening !== undefined) await listening
    native.release(takeFd(listener))
    const ended = new Promise<void>((resolve) => server.once('close', resolve))
    await Promise.race([this.superseded, this.#closing, ended])
    void drain.start(this.#settings.drainTimeout)
    // Not http.Server's close(), which closes idle connections immediately.
    if (server.listening) NetServer.prototype.close.call(server)
    await ended
  }

  /**
   * Stops serving: closes the listeners, unless another process has them, removes the files of their sockets, and accepts no successor.
   * A successor that is not ready yet continues without this process.
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

  /** Closes it, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Accepts one process after the other that tries to take over, until one succeeds. */
  async #acceptSuccessors(): Promise<void> {
    const { control } = this.#sockets
    control.unref()
    while (!this.#closed && this.#successor === undefined) {
      try {
        await this.#startAttempt(await control.accept())
      } catch {
        await sleep(RETRY_DELAY_MS, undefined, { ref: false })
      }
    }
  }

  async #startAttempt(socket: UnixSocket): Promise<void> {
    try {
      closeApart(socket)
      const credentials = socket.peer()
      if (!(await this.#isAllowed(credentials))) {
        refuse(socket, clientDenied(this.#settings.path, credentials))
        return
      }
      this.#attempt = new TakeoverAttempt(socket, credentials, this.#sockets, this.#settings)
    } catch {
      socket.close() // the process has exited
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

  /** Returns whether `allow` accepts a process. What it throws is a warning here, and not sent to that process. */
  async #isAllowed(credentials: Credentials): Promise<boolean> {
    try {
      return await this.#settings.allow(credentials)
    } catch (error) {
      warnOfService('takeover', error)
      return false
    }
  }
}

function closed(): Error {
  return invalidState('The takeover is closed')
}

/**
 * Takes over from the process that serves now, without losing a connection; or starts to serve, if there is none.
 *
 * The two processes are started independently, and meet at a path. This process receives duplicates of the listeners, from which the
 * other one continues to accept until `ready` is called here. Connections that arrive in between wait in the accept queue. If this
 * process exits before, nothing has changed. Several processes that start simultaneously take over one after the other.
 *
 * @param options `path`, `service`, `listen`, `mode`, `allow`, `state`, `connections`, `timeout`, `drainTimeout`, `signal`
 * @returns resolves to the `Takeover`, with `listeners`, `ready` and `superseded`
 *
 *   If it rejects, nothing is left open, and the serving process continues. Rejects with
 *   - `EACCES` if `allow` of either process rejects the other one, their `service`s differ, or `path` is a symbolic link
 *   - the error that the predecessor's `state` function throws
 *   - `EADDRINUSE`, `EACCES` and other errors of a listener
 *   - `ETIMEDOUT`; `EPROTO` if the process at `path` speaks another protocol, or another version of it
 *   - ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE or ERR_OUT_OF_RANGE; AbortError; ERR_UNSUPPORTED_PLATFORM
 *
 * @example
 * ```js
 * import { createServer } from 'node:http'
 * import { takeover } from 'fdpass/takeover'
 *
 * const place = await takeover({ path: './example.takeover', listen: { http: 'tcp:127.0.0.1:0' } })
 * const http = createServer((request, response) => response.end('hello'))
 * const ended = place.serve(http, 'http')
 * await place.ready() // from now on this process serves, and a process before it drains
 * console.log(place.predecessor) // null
 * place.close() // in a server: `await ended`, which resolves when another process has taken over and all connections have ended
 * await ended
 * ```
 */
export async function takeover(options: TakeoverOptions): Promise<Takeover> {
  openReactor()
  const given = optionsOf(options)
  if (given === undefined) throw invalidType('options', 'of type object', options)
  const settings = settingsOf(given)
  const signal = signalOf(given)
  const since = performance.now()
  return withLimit(signal, settings.timeout, 'request', async (limit) => {
    for (;;) {
      const place = await tryOnce(settings, limit).catch((error: unknown) => {
        // Another process was faster, or has exited in the meantime. A foreign process would stay, hence the time.
        if (!isOneOf(error, 'EADDRINUSE') || performance.now() - since > START_RACE_MS) throw error
        return null
      })
      if (place !== null) return place
      await sleep(RETRY_DELAY_MS, undefined, { signal: limit })
    }
  })
}

/** Takes over, or starts to serve; resolves to null if the serving process exits in the meantime. */
async function tryOnce(settings: Settings, signal: AbortSignal): Promise<Takeover | null> {
  const socket = await connectToPredecessor(settings, signal)
  if (socket === null) {
    const control = await listen(settings.path, { mode: settings.mode })
    return Takeover.open(settings, new HandoverSockets(control), null)
  }
  const inherited = await InheritedState.request(socket, settings, signal)
  return inherited && Takeover.open(settings, inherited.sockets, inherited)
}

/** Connects to the serving process; resolves to null if there is none. */
async function connectToPredecessor({ path, allow }: Settings, signal: AbortSignal): Promise<UnixSocket | null> {
  let socket: UnixSocket
  try {
    socket = await connect(path, { signal })
  } catch (error) {
    if (isOneOf(error, 'ENOENT', 'ECONNREFUSED')) return null
    throw error
  }
  try {
    const credentials = socket.peer()
    if (!(await allow(credentials))) throw listenerDenied(path, credentials)
    return socket
  } catch (error) {
    socket.close()
    throw error
  }
}

function isOneOf(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException).code!)
}
