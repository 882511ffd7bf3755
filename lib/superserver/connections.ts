import type { Socket } from 'node:net'
import { boolean, optionsOf, Iteration, end, Queue } from '../base/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { wrapFd } from '../descriptor/internal.ts'
import { ConnectionIntake, openSocketOf } from './connection-intake.ts'
import { openWorkerChannel } from './worker-channel.ts'

/** Options of {@link connections}. */
export interface ConnectionsOptions {
  /** Whether the sockets stay writable after their peer has ended its sending half (default false). */
  allowHalfOpen?: boolean | undefined
}

/** A listener or datagram socket that the superserver has sent to this worker. */
export interface WorkerListener {
  /** Its `listen` source in the superserver's options, such as `'tcp:0.0.0.0:80'`. */
  readonly name: string
  /** The socket. The caller owns it and must close it. */
  readonly fd: Descriptor
}

/** The number of queued connections at which the worker stops receiving. */
const AHEAD = 16

/** A queue of received items with an async iterator. */
class AsyncQueue<T> {
  readonly #items = new Queue<T>()
  readonly #waiting = new Queue<(result: IteratorResult<T, undefined>) => void>()
  /** Called with the number of queued items after each change. */
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

/** A queue of connections. A connection that fails while it is queued is dropped, as if it had never been accepted. */
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

let iterated: SocketQueue | undefined

/**
 * Iterates over the connections that a superserver passes to this worker, with either `handoff`.
 *
 * The first call reports to the superserver that this worker is ready. The iteration ends when the superserver drains this worker,
 * or has exited: finish the open connections, and let the process exit. Leaving the loop early loses nothing: the next call
 * continues.
 *
 * A connection that the iterator returns was acknowledged, and belongs to this worker. The worker reports its end when the socket is
 * closed. A connection that was closed or reset while it was queued is skipped.
 *
 * @param options `allowHalfOpen`
 * @returns the connections. The caller owns each one and must close it
 * @throws ERR_INVALID_STATE in a process that is not a worker, or after `serve` or `listeners` was called; ERR_INVALID_ARG_TYPE;
 *   ERR_UNSUPPORTED_PLATFORM, also on Bun, whose sockets cannot be made of a descriptor
 */
export function connections(options?: ConnectionsOptions): AsyncIterableIterator<Socket, undefined> {
  const { allowHalfOpen = false } = optionsOf(options) ?? {}
  boolean('options.allowHalfOpen', allowHalfOpen)
  if (iterated === undefined) {
    const queue = new SocketQueue()
    const intake = new ConnectionIntake({
      waitsForAccepted: false,
      open: (fd, name) => openSocketOf(fd, name, allowHalfOpen),
      serve(socket, _name, track) {
        track?.(socket)
        queue.push(socket)
      }
    })
    queue.onLength = (length) => (intake.paused = length >= AHEAD)
    void intake.drained.then(() => queue.end())
    iterated = queue
  }
  return iterated.iterate()
}

let listened: AsyncQueue<WorkerListener> | undefined

/**
 * Iterates over the sockets that a superserver listens on, with `handoff: 'listener'`: for workers that accept connections or receive
 * datagrams themselves.
 *
 * The first call reports to the superserver that this worker is ready. The iteration ends when the superserver drains this worker,
 * or has exited: close the listeners, finish the open connections, and let the process exit.
 *
 * @returns the listeners. The caller owns each one and must close it
 * @throws as {@link connections}
 */
export function listeners(): AsyncIterableIterator<WorkerListener, undefined> {
  if (listened === undefined) {
    const queue = new AsyncQueue<WorkerListener>()
    const channel = openWorkerChannel({
      take: ({ name, fd }) => queue.push({ name, fd: wrapFd(fd) }),
      serves: () => false,
      end: () => queue.end()
    })
    channel.sendReady(false)
    listened = queue
  }
  return listened.iterate()
}
