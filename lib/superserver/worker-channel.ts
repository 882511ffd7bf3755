import { setImmediate } from 'node:timers'
import { BYTES, JSON_TEXT, ERROR, MESSAGE, REQUEST, RESPONSE } from '../channel/internal.ts'
import { adopt } from '../descriptor/internal.ts'
import {
  closeFds,
  systemError,
  AGAIN,
  BROKEN,
  BUSY,
  END,
  MOST_BYTES,
  fdAt,
  flushResult,
  frameResult,
  text,
  native
} from '../native/internal.ts'
import type { SystemError } from '../native/index.ts'
import { protocolError } from '../base/internal.ts'
import { PollHandle, openReactor } from '../event-loop/internal.ts'
import { notAWorker } from './errors.ts'
import { WORKER } from './worker-environment.ts'

/** A connection or a listener that the superserver has sent to this worker. */
export interface Assignment {
  /** The `listen` source in the superserver's options that it came from. */
  readonly name: string
  /** The descriptor number, which the environment's table owns. */
  readonly fd: number
  /** The connection's id; undefined for a listener. */
  readonly id: number | undefined
}

/** The most frames that one event receives. */
const MAX_FRAMES_PER_EVENT = 64

/** The length of an id in bytes. */
const ID_BYTES = 4

/** A queued frame: the acknowledgement of a connection, or undefined for any other frame. */
type Unsent = Assignment | undefined

/**
 * A worker's end of its channel.
 *
 * A connection is served only after the kernel has taken its acknowledgement. Otherwise the superserver could reassign a
 * connection that this worker is reading from.
 */
export class WorkerChannel extends PollHandle {
  readonly #take: (assignment: Assignment) => void
  readonly #end: () => void
  /** The frames that are queued to be sent, in order. */
  readonly #unsent: Unsent[] = []
  /** The ids of closed connections that are not reported yet. */
  #closedIds: number[] = []
  #reporting = false
  #draining = false
  #paused = false
  #open = 0

  constructor(fd: number, take: (assignment: Assignment) => void, end: () => void) {
    super(fd)
    this.#take = take
    this.#end = end
    native.channelOpen(fd, MOST_BYTES, 1)
  }

  /** Sends the first message, which is empty: it reports that this worker is ready. */
  sendReady(): void {
    native.channelPush(this.fd, MESSAGE, BYTES, 0, 0)
    this.#unsent.push(undefined)
    this.#flush()
    this.update()
  }

  /** Whether the superserver will send nothing more. */
  get draining(): boolean {
    return this.#draining
  }

  /** Reports that a connection was closed: with the next acknowledgements, or at the end of this loop iteration. */
  reportClosed(id: number): void {
    this.#open--
    this.#closedIds.push(id)
    if (this.#reporting) return
    this.#reporting = true
    setImmediate(() => {
      this.#reporting = false
      if (this.closed) return
      this.#queueClosed()
      this.#flush()
      this.update()
      this.#closeIfDone()
    })
  }

  #queueClosed(): void {
    for (let from = 0; from < this.#closedIds.length; from += MOST_BYTES / ID_BYTES) {
      const ids = this.#closedIds.slice(from, from + MOST_BYTES / ID_BYTES)
      ids.forEach((id, index) => text.writeUInt32BE(id, index * ID_BYTES))
      native.channelPush(this.fd, MESSAGE, BYTES, 0, ids.length * ID_BYTES)
      this.#unsent.push(undefined)
    }
    this.#closedIds = []
  }

  /** Sends queued frames, and serves the connections whose acknowledgements were sent. */
  #flush(): void {
    if (this.closed || this.#unsent.length === 0) return
    const sent = native.channelFlush(this.fd)
    const code = sent < 0 ? sent : flushResult.stopped
    if (code !== 0 && code !== AGAIN && code !== BUSY) return this.#failWith(() => systemError(code, 'sendmsg'))
    for (const assignment of this.#unsent.splice(0, sent)) if (assignment !== undefined) this.#serve(assignment)
  }

  /** Stops or resumes receiving. */
  set paused(on: boolean) {
    this.#paused = on
    this.update()
  }

  protected get waitsForInput(): boolean {
    return !this.#draining && !this.#paused && !this.closed
  }

  protected override get busy(): boolean {
    return !this.#draining || this.waitsForRoom
  }

  protected override get waitsForRoom(): boolean {
    return this.#unsent.length > 0
  }

  protected override flushOutput(): void {
    this.#flush()
    this.#closeIfDone()
  }

  protected flushInput(): void {
    let more = true
    for (let i = 0; i < MAX_FRAMES_PER_EVENT && more; i++) {
      const length = native.channelReceive(this.fd)
      if (length === AGAIN) break
      if (length === END) {
        this.#drain()
        break
      }
      if (length < 0)
        return this.#failWith(() =>
          length === BROKEN ? protocolError('what came is no frame') : systemError(length, 'recvmsg')
        )
      more = frameResult.hasMore // otherwise the event loop reports further frames
      this.#receive(length)
    }
    if (this.#closedIds.length > 0) this.#queueClosed()
    this.#flush()
    this.#closeIfDone()
  }

  #receive(length: number): void {
    const { fdCount: count, kind, id } = frameResult
    const fd = fdAt(0)
    const name = text.toString('utf8', 0, length)
    if (kind === REQUEST && count === 1) {
      native.channelPush(this.fd, RESPONSE, BYTES, id, 0)
      this.#open++
      this.#unsent.push({ name, fd, id })
    } else if (kind === REQUEST) {
      // The descriptor table was full: another worker may have room for the connection.
      const reason = '{"message":"the descriptor was lost"}'
      native.channelPush(this.fd, ERROR, JSON_TEXT, id, text.write(reason))
      this.#unsent.push(undefined)
    } else if (count === 1) {
      this.#serve({ name, fd, id: undefined })
    }
  }

  #serve(assignment: Assignment): void {
    try {
      this.#take(assignment)
    } catch (error) {
      // The program's error: it becomes an uncaught exception, and other connections are still served.
      queueMicrotask(() => {
        throw error
      })
    }
  }

  /** Handles end-of-stream: the superserver sends nothing more. */
  #drain(): void {
    this.#draining = true
    this.#end()
  }

  /** Closes a channel that failed. Unless the superserver has exited, its error becomes an uncaught exception. */
  #failWith(error: () => SystemError): void {
    this.#fail()
    const failure = error()
    if (failure.code === 'EPIPE' || failure.code === 'ECONNRESET') return
    queueMicrotask(() => {
      throw failure
    })
  }

  #fail(): void {
    for (const assignment of this.#unsent.splice(0)) if (assignment !== undefined) closeFds([assignment.fd])
    this.#open = 0
    const wasDraining = this.#draining
    this.#draining = true
    this.close()
    if (!wasDraining) this.#end()
  }

  #closeIfDone(): void {
    if (this.#draining && this.#open === 0 && this.#unsent.length === 0 && this.#closedIds.length === 0) this.close()
  }

  protected fail(error: () => Error): void {
    this.#failWith(error as () => SystemError)
  }

  protected end(): number[] {
    return this.#unsent.flatMap((assignment) => assignment?.fd ?? [])
  }
}

/** Opens this worker's channel, whose descriptor number is in the environment. Works once in a process. */
export function openWorkerChannel(take: (assignment: Assignment) => void, end: () => void): WorkerChannel {
  openReactor()
  const value = process.env[WORKER]
  delete process.env[WORKER] // its own child processes are not workers
  const fd = value === undefined ? Number.NaN : Number(value)
  if (!Number.isInteger(fd) || native.socketType(fd) !== 'stream') throw notAWorker()
  adopt(WORKER, fd)
  native.socketType(fd) // registers it as a socket of this environment
  return new WorkerChannel(fd, take, end)
}
