import { writeSync } from 'node:fs'
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
import { MAX_INT, protocolError, invalidState } from '../base/internal.ts'
import { PollHandle, openReactor } from '../event-loop/internal.ts'

import { DRAIN_TIMEOUT, PLACE } from './passed-socket.ts'
import { type WorkerNote, encodeNote } from './worker-note.ts'

/** The environment variable with the descriptor number of a worker's channel. */
export const WORKER = 'FDPASS_WORKER'

/** Whether this process was started as a worker of a superserver. */
export const isWorker: boolean = process.env[WORKER] !== undefined

/** How long a drained worker has. */
export interface Draining {
  /** When the superserver kills this worker, on the clock of `Date.now()`; Infinity if it does not. */
  readonly deadline: number
}

let setDraining!: (draining: Draining) => void

/** This process as a worker of a superserver. */
export interface ThisWorker {
  /** Its place among the workers of its service, from 0 on. Its replacements have the same one. 0 in a process that is not a worker. */
  readonly id: number
  /**
   * Resolves when the superserver sends nothing more: it replaces this worker, or closes, or has exited. Never before `connections()`,
   * `serve()` or `listeners()` was called, or with `fdpass/listen` before the program listens.
   */
  readonly draining: Promise<Draining>
  /**
   * Asks the superserver for a replacement, for instance because this process has collected too much. When the replacement is ready, this
   * worker is drained. Further calls do nothing.
   *
   * @throws ERR_INVALID_STATE in a process that is not a worker, or before it has called `connections()`, `serve()` or `listeners()`
   */
  retire(): void
}

/** This process as a worker of a superserver: see {@link ThisWorker}. */
export const worker: ThisWorker = {
  id: Number(process.env[PLACE] ?? 0),
  draining: new Promise((resolve) => (setDraining = resolve)),
  retire() {
    if (opened === undefined)
      throw invalidState('This process is no worker, or has not called connections(), serve() or listeners()')
    opened.retire()
  }
}

/** The channel of this process. */
let opened: WorkerChannel | undefined

/** A connection or a listener that the superserver has sent to this worker. */
export interface Assignment {
  /** The `listen` source in the superserver's options that it came from. */
  readonly name: string
  /** The descriptor number, which the environment's table owns. */
  readonly fd: number
  /** The connection's id; undefined for a listener. */
  readonly id: number | undefined
}

/** What a worker does with what it receives. */
export interface AssignmentReceiver {
  take(assignment: Assignment): void
  /** Returns whether connections of a source are served at present (default: always). Others are returned. */
  serves?(name: string): boolean
  /** Called when the superserver will send nothing more. */
  end(): void
}

/** The most frames that one event receives. */
const MAX_FRAMES_PER_EVENT = 64

/** A frame's header (PROTOCOL.md). */
const HEADER_BYTES = 16
const FIRST_BYTE = 0xfd
const PROTOCOL_VERSION = 1

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
  readonly #receiver: AssignmentReceiver
  /** The time that this worker has to finish its connections once it is drained, in milliseconds. */
  #drainTimeout: number
  /** The frames that are queued to be sent, in order. */
  readonly #unsent: Unsent[] = []
  /** The ids of closed connections that are not reported yet. */
  #closedIds: number[] = []
  #reporting = false
  #draining = false
  #retires = false
  #paused = false
  #open = 0

  constructor(fd: number, drainTimeout: number, receiver: AssignmentReceiver) {
    super(fd)
    this.#drainTimeout = drainTimeout
    this.#receiver = receiver
    native.channelOpen(fd, MOST_BYTES, 1)
  }

  /**
   * Sends the first message, which is empty: it reports that this worker is ready.
   *
   * @param takesConnections whether this worker takes single connections, also where it is sent listeners
   */
  sendReady(takesConnections: boolean): void {
    if (takesConnections) this.#pushNote({ connections: true })
    native.channelPush(this.fd, MESSAGE, BYTES, 0, 0)
    this.#unsent.push(undefined)
    this.#flush()
    this.update()
  }

  /** Asks for a replacement. */
  retire(): void {
    if (this.closed || this.#draining || this.#retires) return
    this.#retires = true
    this.#pushNote({ retire: true })
    this.#flush()
    this.update()
  }

  #pushNote(note: WorkerNote): void {
    native.channelPush(this.fd, MESSAGE, JSON_TEXT, 0, text.write(encodeNote(note)))
    this.#unsent.push(undefined)
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
      const length = native.channelReceive(this.fd, MAX_INT, MAX_INT)
      if (length === AGAIN) break
      if (length === END) {
        this.#drain()
        break
      }
      if (length < 0)
        return this.#failWith(() =>
          length === BROKEN
            ? protocolError('the superserver sent bytes that are not a frame')
            : systemError(length, 'recvmsg')
        )
      more = frameResult.hasMore // otherwise the event loop reports further frames
      this.#receive(length)
    }
    if (this.#closedIds.length > 0) this.#queueClosed()
    this.#flush()
    this.#closeIfDone()
  }

  #receive(length: number): void {
    const { fdCount: count, kind, id, format } = frameResult
    const fd = fdAt(0)
    const name = text.toString('utf8', 0, length)
    if (kind === REQUEST && count === 1 && this.#receiver.serves?.(name) !== false) {
      native.channelPush(this.fd, RESPONSE, BYTES, id, 0)
      this.#open++
      this.#unsent.push({ name, fd, id })
    } else if (kind === REQUEST) {
      // The program does not listen any more, or the descriptor table was full. Another worker may serve the connection.
      closeFds(Array.from({ length: count }, (_, index) => fdAt(index)))
      const reason = '{"message":"the connection cannot be served"}'
      native.channelPush(this.fd, ERROR, JSON_TEXT, id, text.write(reason))
      this.#unsent.push(undefined)
    } else if (count === 1) {
      this.#serve({ name, fd, id: undefined })
    } else if (format === JSON_TEXT) {
      this.#drainTimeout = (JSON.parse(name) as { drainTimeout: number }).drainTimeout
    }
  }

  #serve(assignment: Assignment): void {
    try {
      this.#receiver.take(assignment)
    } catch (error) {
      // The program's error: it becomes an uncaught exception, and other connections are still served.
      queueMicrotask(() => {
        throw error
      })
    }
  }

  /** Handles the end of the channel: the superserver sends nothing more. */
  #drain(): void {
    if (this.#draining) return
    this.#draining = true
    setDraining({ deadline: Date.now() + this.#drainTimeout })
    this.#receiver.end()
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
    this.close()
    this.#drain()
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

/** Returns whether this worker's channel waits to be opened: the program has not called `connections()`, `serve()` or `listeners()`. */
export function isChannelFree(): boolean {
  return process.env[WORKER] !== undefined
}

/** Sends a note over a worker's channel before it is opened. */
export function noteBeforeReady(note: WorkerNote): void {
  const value = process.env[WORKER]
  if (value === undefined) return
  const data = Buffer.from(encodeNote(note))
  const frame = Buffer.alloc(HEADER_BYTES + data.length)
  frame.set([FIRST_BYTE, PROTOCOL_VERSION, MESSAGE, JSON_TEXT])
  frame.writeUInt32BE(data.length, 4)
  frame.set(data, HEADER_BYTES)
  try {
    writeSync(Number(value), frame)
  } catch {
    // The superserver has exited, or has not received the previous notes. Its error has no reason then.
  }
}

/** Opens this worker's channel, whose descriptor number is in the environment. Works once in a process. */
export function openWorkerChannel(receiver: AssignmentReceiver): WorkerChannel {
  openReactor()
  const { [WORKER]: value, [DRAIN_TIMEOUT]: drainTimeout = Infinity } = process.env
  for (const name of [WORKER, DRAIN_TIMEOUT]) delete process.env[name] // its own child processes are not workers
  const fd = value === undefined ? Number.NaN : Number(value)
  if (!Number.isInteger(fd) || native.socketType(fd) !== 'stream')
    throw invalidState('This process is no worker of a superserver, or its channel has been taken already')
  adopt(WORKER, fd)
  native.socketType(fd) // registers it as a socket of this environment
  opened = new WorkerChannel(fd, Number(drainTimeout), receiver)
  return opened
}
