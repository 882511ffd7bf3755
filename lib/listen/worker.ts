import { isIPv6, type Server, type Socket } from 'node:net'
import { clearInterval, setImmediate, setInterval, setTimeout } from 'node:timers'
import { InputTimer } from '../base/internal.ts'
import { type ConnectionHandle, openHandle, setServerHandle } from '../descriptor/internal.ts'
import { KILL_MARGIN_MS, type ServerDrain } from '../handover/internal.ts'
import { closeFds, native } from '../native/internal.ts'
import {
  ConnectionIntake,
  displayPassed,
  isChannelFree,
  type PassedSocket,
  noteBeforeReady,
  takePassed,
  takeReadyCondition,
  worker
} from '../superserver/internal.ts'
import { type DatagramSource, isWildcard, type PassedSource, type TakingServer, type Wanted } from './matching.ts'
import { hookBind } from './bind-hook.ts'
import { type Taking, debug, hookListen, isServed, trackServer } from './listen-hook.ts'

/** A time that never comes, in milliseconds. */
const NEVER = 2 ** 30

/** The handles that keep the process alive, as listening does. */
const keeping = new Set<object>()
let timer: NodeJS.Timeout | undefined

function keepAlive(handle: object, isKept: boolean): void {
  if (isKept) keeping.add(handle)
  else keeping.delete(handle)
  if (keeping.size > 0) timer ??= setInterval(() => {}, NEVER)
  else timer = void clearInterval(timer)
}

/**
 * The handle of a server that has taken a passed socket: what `net.Server` uses of a handle that listens. It accepts nothing itself. Node
 * sets `onconnection`, which dispatches a connection.
 */
class Taker implements TakingServer {
  readonly source: PassedSource<Taker>
  readonly server: Server
  /** The address that the server listens on; null for every address. */
  readonly address: string | null
  readonly fd = -1
  onconnection!: (status: number, connection: ConnectionHandle) => void
  getsockname?: (into: object) => number

  constructor(source: PassedSource<Taker>, server: Server, address: string | null) {
    this.source = source
    this.server = server
    this.address = address
    const { socket } = source
    // Without it `server.address()` returns the path.
    if (socket.path === undefined) {
      this.getsockname = (into) => {
        Object.assign(into, {
          address: socket.address,
          family: isIPv6(socket.address!) ? 'IPv6' : 'IPv4',
          port: socket.port
        })
        return 0
      }
    }
  }

  listen(): number {
    this.source.takers.add(this)
    this.ref()
    return 0
  }

  close(callback?: () => void): void {
    this.source.takers.delete(this)
    this.unref()
    if (callback) setImmediate(callback)
  }

  ref(): void {
    keepAlive(this, true)
  }

  unref(): void {
    keepAlive(this, false)
  }

  hasRef(): boolean {
    return keeping.has(this)
  }

  /** Gives the server a connection. Calls `track` with its socket, unless the server refuses it or passes it to another process. */
  dispatch(connection: ConnectionHandle, track: ((socket: Socket) => void) | undefined): void {
    if (track === undefined) {
      this.onconnection(0, connection)
      return
    }
    this.server.prependOnceListener('connection', track)
    try {
      this.onconnection(0, connection)
    } finally {
      this.server.off('connection', track)
    }
  }
}

/** Returns the server that serves a connection of a source: the one that listens on its local address, or on every address. */
function takerOf({ takers }: PassedSource<Taker>, connection: ConnectionHandle): Taker | undefined {
  const [first, ...others] = takers
  if (others.length === 0 || connection.getsockname === undefined) return first
  const local: { address?: string } = {}
  connection.getsockname(local)
  const address = local.address?.replace(/^::ffff:(?=\d)/, '')
  const all = [...takers]
  return all.find((taker) => taker.address === address) ?? all.find((taker) => isWildcard(taker.address)) ?? first
}

/** The longest time before the deadline at which the program itself is asked to end, in milliseconds. */
const MAX_LAST_CALL_MS = 5000
/** The maximum number of notes, of those that the superserver accepts. */
const MAX_NOTES = 8
/** The time that a program without a handler of SIGTERM has to end by itself, in milliseconds. */
const END_MS = 1000

function isDatagrams({ datagrams }: PassedSocket): boolean {
  return datagrams === true
}

/** Has the program of a superserver's worker take the connections of the superserver in place of listening. */
export function listenAsWorker(): void {
  const passed = takePassed()
  if (passed.length === 0) return
  const sources = passed
    .filter((socket) => !isDatagrams(socket))
    .map((socket): WorkerSource => ({ socket, takers: new Set() }))
  const datagrams = passed
    .filter(isDatagrams)
    .map((socket): WorkerDatagrams => ({ socket, taker: undefined, bind: undefined }))
  const taking = new WorkerTaking(sources, datagrams)
  hookListen(sources, taking)
  hookBind(datagrams, (_socket, source, bind) => taking.bind(source, bind))
  if (takeReadyCondition() === 'message') taking.awaitMessage()
  // A control group's SIGTERM reaches workers too. They end when the superserver drains them. A program's own handlers run as ever.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, ignore)
}

function ignore(): void {}

/** A socket of the superserver. */
type WorkerSource = PassedSource<Taker>

/** A datagram socket of the superserver, which sends it when this worker is ready. */
interface WorkerDatagrams extends DatagramSource {
  /** Binds the socket that has taken it. */
  bind: ((fd: number) => void) | undefined
}

class WorkerTaking implements Taking<WorkerSource> {
  readonly #sources: readonly WorkerSource[]
  readonly #datagrams: readonly WorkerDatagrams[]
  readonly #byName: ReadonlyMap<string, WorkerSource>
  readonly #drains = new Map<Server, ServerDrain>()
  #intake: ConnectionIntake<ConnectionHandle> | undefined
  #awaitsMessage = false
  #notes = 0

  constructor(sources: readonly WorkerSource[], datagrams: readonly WorkerDatagrams[]) {
    this.#sources = sources
    this.#datagrams = datagrams
    this.#byName = new Map(sources.map((source) => [source.socket.name, source]))
    this.#note(`The program has not listened on ${this.#waiting().join(', ')}`)
  }

  /** Has this worker be ready when the program sends the message 'ready' to its parent, not when it listens. */
  awaitMessage(): void {
    this.#awaitsMessage = true
    const send = process.send?.bind(process) as ((...args: unknown[]) => boolean) | undefined
    process.send = (...args: unknown[]) => {
      if (args[0] === 'ready') {
        this.#awaitsMessage = false
        this.taken()
      }
      return send?.(...args) ?? true
    }
  }

  take(server: Server, source: WorkerSource, { address }: Wanted, listen: () => void): void {
    const cluster = process.getBuiltinModule('node:cluster') as unknown as { readonly workers?: object }
    if (Object.keys(cluster.workers ?? {}).length > 0) {
      const text =
        "The cluster's primary process takes the passed sockets for its workers, whose connections are not drained"
      process.emitWarning(text, { code: 'FDPASS_LISTEN_CLUSTER' })
    }
    trackServer(server, this.#drains)
    setServerHandle(server, new Taker(source, server, address))
    listen()
  }

  /** Has a datagram socket of the program wait for a socket of the superserver. */
  bind(source: WorkerDatagrams, bind: (fd: number) => void): void {
    source.bind = bind
    setImmediate(() => setImmediate(() => this.taken()))
  }

  /** Reports that this worker is ready, once every source has a server. */
  taken(): void {
    const waiting = this.#waiting()
    if (this.#intake !== undefined || !isChannelFree()) return
    if (waiting.length > 0) return this.#note(`The program has not listened on ${waiting.join(', ')}`)
    if (this.#awaitsMessage) return this.#note("The program has not called process.send('ready')")
    debug('ready')
    this.#intake = new ConnectionIntake({
      waitsForAccepted: true,
      open: (fd, name) => openHandle(fd, this.#byName.get(name)!.socket.path === undefined),
      serve: (connection, name, track) => this.#dispatch(connection, name, track),
      bind: (fd, name) => this.#bind(fd, name),
      serves: (name) => (this.#byName.get(name)?.takers.size ?? 0) > 0
    })
    void this.#drain(this.#intake)
  }

  unmatched(text: string): void {
    this.#note(text)
  }

  /** Returns the sources that no server has taken. */
  #waiting(): readonly string[] {
    const waiting = [
      ...this.#sources.filter(({ takers }) => !isServed(takers, this.#drains)),
      ...this.#datagrams.filter(({ taker }) => taker === undefined)
    ]
    return waiting.map(({ socket }) => displayPassed(socket))
  }

  /** Reports why this worker is not ready. At most a few times: a program may listen on many ports. */
  #note(waits: string): void {
    if (this.#intake === undefined && this.#notes++ < MAX_NOTES) noteBeforeReady({ waits })
  }

  /** Gives a datagram socket to the one of the program that has taken it; returns false for another source. */
  #bind(fd: number, name: string): boolean {
    const source = this.#datagrams.find(({ socket }) => socket.name === name)
    if (source === undefined) return false
    if (source.taker === undefined) {
      closeFds([fd]) // the program has closed its socket meanwhile
    } else {
      native.release(fd)
      source.bind!(fd)
    }
    return true
  }

  #dispatch(connection: ConnectionHandle, name: string, track: ((socket: Socket) => void) | undefined): void {
    const taker = takerOf(this.#byName.get(name)!, connection)
    if (taker === undefined)
      connection.close() // the program has closed its server since the connection was acknowledged
    else taker.dispatch(connection, track)
  }

  /** Drains the servers when the superserver sends nothing more, and has the program end when their connections have ended. */
  async #drain({ finished }: ConnectionIntake<ConnectionHandle>): Promise<void> {
    const { deadline } = await worker.draining
    const timeout = deadline - Date.now()
    debug(`drains, for ${timeout} ms at most`)
    const drains = [...this.#drains.values()]
    for (const drain of drains) void drain.start(timeout, KILL_MARGIN_MS)
    const ended = this.#disposeAfter(Promise.all([finished, ...drains.map((drain) => drain.emptied)]))
    await Promise.race([ended, lastCall(timeout)])
    endProgram(this.#drains.keys(), this.#datagrams, ended)
  }

  /** Stops the timers of the drains, which would keep the process alive, when all connections have ended. */
  async #disposeAfter(finished: Promise<unknown>): Promise<void> {
    await finished
    for (const drain of this.#drains.values()) drain[Symbol.dispose]()
  }
}

/** Resolves shortly before the deadline. */
function lastCall(timeout: number): Promise<void> {
  if (timeout === Infinity) return new Promise(() => {})
  return new Promise((resolve) => {
    new InputTimer(Math.max(timeout - Math.min(MAX_LAST_CALL_MS, timeout / 2), 0), resolve).unref()
  })
}

/** Has the program end as SIGTERM does: by its own handler, or by closing its servers. */
function endProgram(servers: Iterable<Server>, datagrams: readonly WorkerDatagrams[], finished: Promise<void>): void {
  process.off('SIGTERM', ignore).off('SIGINT', ignore)
  if (process.listenerCount('SIGTERM') > 0) {
    debug("calls the program's handler of SIGTERM")
    process.emit('SIGTERM', 'SIGTERM')
    return
  }
  for (const server of servers) if (server.listening) server.close()
  for (const { taker } of datagrams) taker?.close()
  void finished.then(() => setTimeout(() => process.exit(), END_MS).unref())
}
