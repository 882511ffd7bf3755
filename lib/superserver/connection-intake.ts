import type { Socket, SocketConstructorOpts } from 'node:net'
import { setTimeout } from 'node:timers'
import { checkRuntime } from '../base/internal.ts'
import { openHandle } from '../descriptor/internal.ts'
import { PollHandle } from '../event-loop/internal.ts'
import { AGAIN, giveFd, native, systemError } from '../native/internal.ts'
import { warnOfService } from '../socket/internal.ts'
import { type WorkerChannel, type Assignment, openWorkerChannel } from './worker-channel.ts'

/** The delay after a failed accept, in milliseconds. */
const RETRY_DELAY_MS = 100
/** The maximum number of connections that one wake accepts. The others are for other workers, which accept meanwhile. */
const CONNECTIONS_PER_WAKE = 2

/**
 * Accepts the connections of a listener as they arrive. While the descriptor table is full, clients wait in the accept queue: libuv, by which
 * a `net.Server` accepts, would close their connections (uv__emfile_trick in src/unix/stream.c).
 */
class PassedListener extends PollHandle {
  /** Called with the number of a connection that an object of Node's is about to take: see `setLeaving`. */
  readonly #accepted: (fd: number) => void
  #paused: boolean
  #hasFailed = false

  constructor(fd: number, paused: boolean, accepted: (fd: number) => void) {
    super(fd)
    this.#paused = paused
    this.#accepted = accepted
    this.update()
  }

  /** Whether nothing is accepted for now. */
  set paused(on: boolean) {
    this.#paused = on
    this.update()
  }

  protected get waitsForInput(): boolean {
    return !this.#paused && !this.#hasFailed && !this.closed
  }

  protected flushInput(): void {
    for (let count = 0; count < CONNECTIONS_PER_WAKE && this.waitsForInput; count++) {
      const fd = native.accept(this.fd, 1)
      if (fd === AGAIN) return
      if (fd < 0) return this.fail(() => systemError(fd, 'accept'))
      this.#accepted(fd)
    }
  }

  /** Warns, and tries again after a delay. */
  protected fail(error: () => Error): void {
    warnOfService('A worker of a superserver cannot accept connections, which wait', error())
    this.#hasFailed = true
    setTimeout(() => {
      this.#hasFailed = false
      this.update()
    }, RETRY_DELAY_MS)
  }

  protected end(): number[] {
    return []
  }
}

/** What a process does with its connections. */
export interface ConnectionHandler<T> {
  /** Makes an object of a connection's descriptor, which that object owns. The descriptor stays open if it throws. */
  open(fd: number, name: string): T
  /** Whether the handler itself waits for the end of the connections that this process accepts. */
  readonly waitsForAccepted: boolean
  /**
   * Serves a connection. Calls `track`, unless it is undefined, with its socket before the program's code runs, which may throw; does not call
   * it for a connection that was refused, or passed to another process.
   */
  serve(connection: T, name: string, track: ((socket: Socket) => void) | undefined): void
  /** Takes a datagram socket, which the handler owns; returns false for a listener. */
  bind?(fd: number, name: string): boolean
  /** Returns whether connections of a source are served at present (default: always). Others go to another worker. */
  serves?(name: string): boolean
}

/** Receives connections: those that the superserver passes, and those accepted from the listeners that it passes. */
export class ConnectionIntake<T> {
  handler: ConnectionHandler<T>
  readonly #listeners: PassedListener[] = []
  readonly channel: WorkerChannel
  /** The number of open connections. */
  #open = 0
  #paused = false
  /** Resolves when the superserver will send nothing more. */
  readonly drained: Promise<void>
  /** Resolves when all connections are closed as well, but those for which the handler waits. */
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
        for (const listener of this.#listeners) listener.close()
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
    for (const listener of this.#listeners) listener.paused = on
  }

  #take({ name, fd, id }: Assignment): void {
    if (id === undefined) {
      if (this.handler.bind?.(fd, name) !== true) this.#listen(fd, name)
    } else this.#connect(fd, name, id)
  }

  /** Serves a connection that the superserver has passed. */
  #connect(fd: number, name: string, id: number): void {
    let isTracked = false
    const track = (socket: Socket) => {
      isTracked = true
      this.#track(socket, () => this.channel.reportClosed(id))
    }
    try {
      this.handler.serve(this.#openPassed(fd, name), name, track)
    } finally {
      if (!isTracked) this.channel.reportClosed(id)
    }
  }

  #openPassed(fd: number, name: string): T {
    try {
      return giveFd(fd, () => this.handler.open(fd, name))
    } catch (error) {
      native.close(fd)
      throw error
    }
  }

  /** Serves a connection that `PassedListener` has accepted. */
  #serveAccepted(fd: number, name: string): void {
    const { handler } = this
    let connection: T
    try {
      connection = handler.open(fd, name)
    } catch (error) {
      native.close(fd)
      throw error
    }
    native.release(fd)
    handler.serve(connection, name, handler.waitsForAccepted ? undefined : (socket) => this.#track(socket, ignore))
  }

  #track(socket: Socket, closed: () => void): void {
    this.#open++
    socket.on('close', () => {
      this.#open--
      closed()
      this.#finishIfDone()
    })
  }

  /** Accepts connections of a listener until the superserver drains this worker. */
  #listen(fd: number, name: string): void {
    const listener = new PassedListener(fd, this.#paused, (connection) => {
      try {
        this.#serveAccepted(connection, name)
      } catch (error) {
        // The program's error: it becomes an uncaught exception, and other connections are still served.
        queueMicrotask(() => {
          throw error
        })
      }
    })
    this.#listeners.push(listener)
    if (this.channel.draining) listener.close()
  }

  #finishIfDone(): void {
    if (this.channel.draining && this.#open === 0) this.#finish()
  }
}

function ignore(): void {}

let NetSocket: typeof Socket | undefined
const isDeno = process.versions.deno !== undefined

/** Creates a socket of a connection's descriptor. */
export function openSocketOf(fd: number, name: string, allowHalfOpen: boolean, highWaterMark?: number): Socket {
  NetSocket ??= process.getBuiltinModule('node:net').Socket
  const isTcp = name.startsWith('tcp:')
  const isKnown = (isTcp || name.startsWith('unix:')) && !isDeno
  return new NetSocket({
    // With a descriptor Node finds out by five system calls what it is.
    handle: isKnown ? openHandle(fd, isTcp) : undefined,
    fd: isKnown ? undefined : fd,
    readable: true,
    writable: true,
    allowHalfOpen,
    readableHighWaterMark: highWaterMark,
    writableHighWaterMark: highWaterMark
  } as SocketConstructorOpts) // @types/node declares neither a handle nor sizes
}

/** Throws ERR_UNSUPPORTED_PLATFORM on a runtime whose sockets cannot be made of a descriptor. */
export function checkSockets(): void {
  checkRuntime('Bun', "Bun's net.Socket is made of no descriptor: run workers on Node or Deno")
}
