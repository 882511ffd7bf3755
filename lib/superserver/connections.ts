import type { Server, Socket } from 'node:net'
import { boolean, optionsOf, invalidType, Iteration, end, Queue } from '../base/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { wrapFd, trackConnections } from '../descriptor/internal.ts'
import { drainHttp, isHttp } from '../handover/internal.ts'
import { native } from '../native/internal.ts'
import { noSockets } from './errors.ts'
import { type WorkerChannel, type Assignment, openWorkerChannel } from './worker-channel.ts'

/** Options of {@link connections}. */
export interface ConnectionsOptions {
  /** Whether the sockets stay writable when their peer has ended its half (default false). */
  allowHalfOpen?: boolean | undefined
}

/** A listener, or a socket of datagrams, that a worker was given. */
export interface WorkerListener {
  /** What the superserver's options call it, `'tcp:0.0.0.0:80'` for one. */
  readonly name: string
  /** The socket, which is the worker's to close. */
  readonly fd: Descriptor
}

/** How many connections are taken ahead of an iteration. */
const AHEAD = 16

/** What was taken and is still to be given to whoever iterates. */
class AsyncQueue<T> {
  readonly #items = new Queue<T>()
  readonly #waiting = new Queue<(result: IteratorResult<T, undefined>) => void>()
  /** Told of how many are there. */
  onLength: (length: number) => void = () => {}
  #ended = false
  readonly closed = false

  push(item: T): void {
    const waiting = this.#waiting.shift()
    if (waiting === undefined) this.keep(item)
    else waiting({ done: false, value: item })
    this.onLength(this.#items.length)
  }

  end(): void {
    this.#ended = true
    for (let waiting = this.#waiting.shift(); waiting !== undefined; waiting = this.#waiting.shift()) waiting(end)
  }

  take(): Promise<IteratorResult<T, undefined>> {
    const value = this.next()
    this.onLength(this.#items.length)
    if (value !== undefined) return Promise.resolve({ done: false, value })
    if (this.#ended) return Promise.resolve(end)
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  protected keep(item: T): void {
    this.#items.push(item)
  }

  protected next(): T | undefined {
    return this.#items.shift()
  }

  iterate(): AsyncIterableIterator<T, undefined> {
    return new Iteration(this, () => this.take(), undefined)
  }
}

/** Connections that wait, and of which the program knows nothing yet. One that fails meanwhile is gone, as one is that was never accepted. */
class SocketQueue extends AsyncQueue<Socket> {
  protected override keep(socket: Socket): void {
    super.keep(socket.on('error', ignore))
  }

  protected override next(): Socket | undefined {
    let socket = super.next()
    while (socket?.destroyed === true) socket = super.next()
    return socket?.off('error', ignore)
  }
}

function ignore(): void {}

/** Takes connections, those that it is given and those of the listeners that it is given. */
class ConnectionIntake {
  readonly #connected: (socket: Socket) => void
  readonly #options: { readonly allowHalfOpen: boolean }
  readonly #servers = new Set<Server>()
  readonly channel: WorkerChannel
  #open = 0
  /** Resolves when there will be nothing more. */
  readonly drained: Promise<void>
  /** Resolves when all connections have ended, too. */
  readonly finished: Promise<void>
  #finish!: () => void

  constructor(options: { readonly allowHalfOpen: boolean }, connected: (socket: Socket) => void) {
    if (process.versions.bun !== undefined) throw noSockets()
    this.#options = options
    this.#connected = connected
    let drain!: () => void
    this.drained = new Promise((resolve) => (drain = resolve))
    this.finished = new Promise((resolve) => (this.#finish = resolve))
    this.channel = openWorkerChannel(
      (given) => this.#take(given),
      () => {
        for (const server of this.#servers) server.close()
        drain()
        this.#finishIfDone()
      }
    )
    this.channel.begin()
  }

  #take({ fd, id }: Assignment): void {
    if (id === undefined) void this.#listen(wrapFd(fd))
    else this.#connect(fd, id)
  }

  #connect(fd: number, id: number): void {
    const { Socket: NetSocket } = process.getBuiltinModule('node:net')
    let socket: Socket
    try {
      socket = new NetSocket({ fd, readable: true, writable: true, ...this.#options })
    } catch (error) {
      native.close(fd)
      this.channel.reportClosed(id)
      throw error
    }
    native.release(fd)
    this.#serve(socket, () => this.channel.reportClosed(id))
  }

  async #listen(listener: Descriptor): Promise<void> {
    const server = await listener.toServer({ ...this.#options }).catch((error: unknown) => {
      listener.closeSync()
      throw error
    })
    server.on('connection', (socket) => this.#serve(socket))
    this.#servers.add(server)
    if (this.channel.draining) server.close()
  }

  #serve(socket: Socket, ended?: () => void): void {
    this.#open++
    socket.once('close', () => {
      this.#open--
      ended?.()
      this.#finishIfDone()
    })
    this.#connected(socket)
  }

  #finishIfDone(): void {
    if (this.channel.draining && this.#open === 0) this.#finish()
  }
}

let iterated: SocketQueue | undefined

/**
 * Take the connections that a superserver gives this worker, whether it hands over each one or the listener.
 *
 * From the first call on the superserver knows that this worker is ready. The iteration ends when the superserver wants the worker
 * to go, or has gone itself: finish what is open, and let the process end. Leaving it loses nothing: the next call goes on.
 *
 * A connection that comes out has been acknowledged: it is this worker's. Its end is told when the socket is closed. One that has ended or was
 * reset before it is asked for does not come out.
 *
 * @param options `allowHalfOpen`
 * @returns the connections, each the caller's to close
 * @throws ERR_INVALID_STATE in a process that is no worker, and where `serve` or `listeners` has been called;
 *   ERR_INVALID_ARG_TYPE; ERR_UNSUPPORTED_PLATFORM, on Bun too: its sockets are made of no descriptor
 */
export function connections(options?: ConnectionsOptions): AsyncIterableIterator<Socket, undefined> {
  const { allowHalfOpen = false } = optionsOf(options) ?? {}
  boolean('options.allowHalfOpen', allowHalfOpen)
  if (iterated === undefined) {
    const queue = new SocketQueue()
    const intake = new ConnectionIntake({ allowHalfOpen }, (socket) => queue.push(socket))
    queue.onLength = (length) => (intake.channel.paused = length >= AHEAD)
    void intake.drained.then(() => queue.end())
    iterated = queue
  }
  return iterated.iterate()
}

/**
 * Serve the connections that a superserver gives this worker by a server that does not listen itself: of `node:http`, `node:https`,
 * `node:net`, … Each is its `'connection'`.
 *
 * When the superserver wants the worker to go, or has gone itself, an HTTP server ends each connection with its next answer, and what
 * stays idle after its `keepAliveTimeout`: a client does not ask over a connection that is about to be closed.
 *
 * @param server the server, which stays the caller's
 * @returns resolves when there will be nothing more, and all connections have ended
 *
 *   Rejects with ERR_INVALID_STATE, ERR_INVALID_ARG_TYPE, ERR_UNSUPPORTED_PLATFORM, as {@link connections} throws.
 */
export async function serve(server: Server): Promise<void> {
  const { Server: NetServer } = process.getBuiltinModule('node:net')
  if (!(server instanceof NetServer)) throw invalidType('server', 'an instance of net.Server', server)
  const { allowHalfOpen = false, noDelay = false } = server as Server & { allowHalfOpen?: boolean; noDelay?: boolean }
  trackConnections(server)
  const intake = new ConnectionIntake({ allowHalfOpen }, (socket) => {
    if (noDelay) socket.setNoDelay(true)
    server.emit('connection', socket)
  })
  await intake.drained
  using _draining = isHttp(server) ? drainHttp(server) : undefined
  await intake.finished
}

let listened: AsyncQueue<WorkerListener> | undefined

/**
 * Take what a superserver listens on, with `handoff: 'listener'`: for workers that accept themselves, or receive datagrams.
 *
 * From the first call on the superserver knows that this worker is ready. The iteration ends when the superserver wants the worker
 * to go, or has gone itself: close the listeners, finish what is open, and let the process end.
 *
 * @returns the listeners, each the caller's to close
 * @throws as {@link connections}
 */
export function listeners(): AsyncIterableIterator<WorkerListener, undefined> {
  if (listened === undefined) {
    const queue = new AsyncQueue<WorkerListener>()
    const channel = openWorkerChannel(
      ({ name, fd }) => queue.push({ name, fd: wrapFd(fd) }),
      () => queue.end()
    )
    channel.begin()
    listened = queue
  }
  return listened.iterate()
}
