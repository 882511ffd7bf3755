import type { Socket, SocketConstructorOpts } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkRuntime } from '../base/internal.ts'
import { openHandle } from '../descriptor/internal.ts'
import { giveFd, native } from '../native/internal.ts'
import { closeListener } from '../handover/internal.ts'
import { type AcceptShape, Acceptor, warnOfService } from '../socket/internal.ts'
import { type WorkerChannel, type Assignment, openWorkerChannel } from './worker-channel.ts'

/** The delay after a failed accept, in milliseconds. */
const RETRY_DELAY_MS = 100

/** What a process does with its connections. */
export interface ConnectionHandler<T> {
  /** Makes an object of a connection's descriptor, which that object owns. The descriptor stays open if it throws. */
  open(fd: number, name: string): T
  /**
   * Serves a connection. Calls `track` with its socket before the program's code runs, which may throw; does not call it for a connection
   * that was refused, or passed to another process.
   */
  serve(connection: T, name: string, track: (socket: Socket) => void): void
  /** Takes a datagram socket, which the handler owns; returns false for a listener. */
  bind?(fd: number, name: string): boolean
  /** Returns whether connections of a source are served at present (default: always). Others go to another worker. */
  serves?(name: string): boolean
}

/** Receives connections: those that the superserver passes, and those accepted from the listeners that it passes. */
export class ConnectionIntake<T> {
  handler: ConnectionHandler<T>
  readonly #acceptors = new Set<Acceptor>()
  readonly channel: WorkerChannel
  /** The open sockets, with what reports the end of one. */
  readonly #open = new Map<Socket, () => void>()
  readonly #onClose = closeListener((socket) => {
    const ended = this.#open.get(socket)
    this.#open.delete(socket)
    ended?.()
    this.#finishIfDone()
  })
  #paused = false
  #resume = () => {}
  #resumed: Promise<void> = Promise.resolve()
  /** Resolves when the superserver will send nothing more. */
  readonly drained: Promise<void>
  /** Resolves when all connections are closed as well. */
  readonly finished: Promise<void>
  #finish!: () => void

  constructor(handler: ConnectionHandler<T>) {
    checkSockets()
    this.handler = handler
    let drain!: () => void
    this.drained = new Promise((resolve) => (drain = resolve))
    this.finished = new Promise((resolve) => (this.#finish = resolve))
    this.channel = openWorkerChannel({
      take: (given) => this.#take(given),
      serves: (name) => this.handler.serves?.(name) ?? true,
      end: () => {
        for (const acceptor of this.#acceptors) acceptor.close()
        this.#resume()
        drain()
        this.#finishIfDone()
      }
    })
    this.channel.sendReady(true)
  }

  /** Stops or resumes receiving and accepting. Connections wait in the superserver, or in the accept queue. */
  set paused(on: boolean) {
    if (on === this.#paused) return
    this.channel.paused = this.#paused = on
    if (on) this.#resumed = new Promise((resolve) => (this.#resume = resolve))
    else this.#resume()
  }

  #take({ name, fd, id }: Assignment): void {
    if (id === undefined) {
      if (this.handler.bind?.(fd, name) !== true) void this.#accept(fd, name)
    } else this.#connect(fd, name, () => this.channel.reportClosed(id))
  }

  #connect(fd: number, name: string, ended: () => void): void {
    let connection: T
    try {
      connection = giveFd(fd, () => this.handler.open(fd, name))
    } catch (error) {
      native.close(fd)
      ended()
      throw error
    }
    let isTracked = false
    const track = (socket: Socket) => {
      isTracked = true
      this.#open.set(socket, ended)
      socket.on('close', this.#onClose)
    }
    try {
      this.handler.serve(connection, name, track)
    } finally {
      if (!isTracked) ended()
    }
  }

  /**
   * Accepts connections of a listener until the superserver drains this worker. While the descriptor table is full, clients wait in the
   * accept queue: libuv, by which a `net.Server` accepts, would close their connections (uv__emfile_trick in src/unix/stream.c).
   */
  async #accept(listener: number, name: string): Promise<void> {
    const acceptor = new Acceptor(listener, undefined)
    this.#acceptors.add(acceptor)
    if (this.channel.draining) acceptor.close()
    const connect: AcceptShape<void> = (fd) => {
      try {
        this.#connect(fd, name, ignore)
      } catch (error) {
        // The program's error: it becomes an uncaught exception, and other connections are still served.
        queueMicrotask(() => {
          throw error
        })
      }
    }
    while (!acceptor.closed) {
      try {
        await acceptor.accept(this, connect, undefined)
        if (this.#paused) await this.#resumed
      } catch (error) {
        if (acceptor.closed) return
        warnOfService('A worker of a superserver cannot accept connections, which wait', error)
        await sleep(RETRY_DELAY_MS)
      }
    }
  }

  #finishIfDone(): void {
    if (this.channel.draining && this.#open.size === 0) this.#finish()
  }
}

function ignore(): void {}

let NetSocket: typeof Socket | undefined

/** Creates a socket of a connection's descriptor. */
export function openSocketOf(fd: number, name: string, allowHalfOpen: boolean, highWaterMark?: number): Socket {
  NetSocket ??= process.getBuiltinModule('node:net').Socket
  const isTcp = name.startsWith('tcp:')
  const isKnown = (isTcp || name.startsWith('unix:')) && process.versions.deno === undefined
  // With a descriptor Node finds out by five system calls what it is.
  const options = isKnown
    ? { handle: openHandle(fd, isTcp), readable: true, writable: true, allowHalfOpen }
    : { fd, readable: true, writable: true, allowHalfOpen }
  const sizes = { readableHighWaterMark: highWaterMark, writableHighWaterMark: highWaterMark }
  // @types/node declares neither a handle nor sizes.
  return new NetSocket((highWaterMark === undefined ? options : { ...options, ...sizes }) as SocketConstructorOpts)
}

/** Throws ERR_UNSUPPORTED_PLATFORM on a runtime whose sockets cannot be made of a descriptor. */
export function checkSockets(): void {
  checkRuntime('Bun', "Bun's net.Socket is made of no descriptor: run workers on Node or Deno")
}
