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
  fds,
  outcome,
  text,
  native
} from '../native/internal.ts'
import type { SystemError } from '../native/index.ts'
import { protocolError } from '../base/internal.ts'
import { Handle, openReactor } from '../event-loop/internal.ts'
import { notAWorker } from './errors.ts'
import { WORKER } from './worker-environment.ts'

/** Something that a worker was assignment. */
export interface Assignment {
  /** What is listened on, as the superserver's options name it. */
  readonly name: string
  /** A connection or a listener, by its number; the native side owns it. */
  readonly fd: number
  /** Which connection; undefined for a listener. */
  readonly id: number | undefined
}

/** How many frames one wake takes. */
const PER_WAKE = 64

/** How many bytes an id takes. */
const ID = 4

/** The native code of the type 'stream'. */
const STREAM = 0

/** A connection whose acknowledgement has not gone yet, or a frame that nobody waits for. */
type Unsent = Assignment | undefined

/**
 * A worker's side of its channel. A connection is acknowledged when it is taken, and served when the kernel has the
 * acknowledgement: whoever was not told would give it to another one too.
 */
export class WorkerChannel extends Handle {
  readonly #take: (assignment: Assignment) => void
  readonly #end: () => void
  /** The frames that wait to be sent, in order. */
  readonly #unsent: Unsent[] = []
  /** The connections whose end is still to be told. */
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

  /** Tells that this worker is ready: by the first message, which may be empty. */
  begin(): void {
    native.channelPush(this.fd, MESSAGE, BYTES, 0, 0)
    this.#unsent.push(undefined)
    this.#flush()
    this.update()
  }

  /** Whether there will be nothing more. */
  get draining(): boolean {
    return this.#draining
  }

  /** Tells the end of a connection. With the next acknowledgements, or when this turn of the loop is over. */
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
    for (let from = 0; from < this.#closedIds.length; from += MOST_BYTES / ID) {
      const ids = this.#closedIds.slice(from, from + MOST_BYTES / ID)
      ids.forEach((id, index) => text.writeUInt32BE(id, index * ID))
      native.channelPush(this.fd, MESSAGE, BYTES, 0, ids.length * ID)
      this.#unsent.push(undefined)
    }
    this.#closedIds = []
  }

  /** Sends what waits, and serves what is acknowledged. */
  #flush(): void {
    if (this.closed || this.#unsent.length === 0) return
    const gone = native.channelFlush(this.fd)
    const code = gone < 0 ? gone : outcome[0]!
    if (code !== 0 && code !== AGAIN && code !== BUSY) return this.#lose(() => systemError(code, 'sendmsg'))
    for (const assignment of this.#unsent.splice(0, gone)) if (assignment !== undefined) this.#serve(assignment)
  }

  /** Takes nothing, for the time being. */
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
    for (let i = 0; i < PER_WAKE && more; i++) {
      const length = native.channelReceive(this.fd)
      if (length === AGAIN) break
      if (length === END) {
        this.#drain()
        break
      }
      if (length < 0)
        return this.#lose(() =>
          length === BROKEN ? protocolError('what came is no frame') : systemError(length, 'recvmsg')
        )
      more = outcome[5] !== 0 // otherwise the reactor tells of more
      this.#receive(length)
    }
    if (this.#closedIds.length > 0) this.#queueClosed()
    this.#flush()
    this.#closeIfDone()
  }

  #receive(length: number): void {
    const [count, kind, id, fd] = [outcome[0]!, outcome[2]!, outcome[4]! >>> 0, fds[0]!]
    const name = text.toString('utf8', 0, length)
    if (kind === REQUEST && count === 1) {
      native.channelPush(this.fd, RESPONSE, BYTES, id, 0)
      this.#open++
      this.#unsent.push({ name, fd, id })
    } else if (kind === REQUEST) {
      // The table is full: another worker may have room.
      const told = '{"message":"the descriptor was lost"}'
      native.channelPush(this.fd, ERROR, JSON_TEXT, id, text.write(told))
      this.#unsent.push(undefined)
    } else if (count === 1) {
      this.#serve({ name, fd, id: undefined })
    }
  }

  #serve(assignment: Assignment): void {
    try {
      this.#take(assignment)
    } catch (error) {
      // Nobody here can handle it, and the others have to be served.
      queueMicrotask(() => {
        throw error
      })
    }
  }

  /** Nothing more will come: what is there is finished. */
  #drain(): void {
    this.#draining = true
    this.#end()
  }

  /** The channel is of no use any more. Where the superserver has gone, nobody is to be told; anything else nobody here can handle. */
  #lose(error: () => SystemError): void {
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
    this.#lose(error as () => SystemError)
  }

  protected end(): number[] {
    return this.#unsent.flatMap((assignment) => assignment?.fd ?? [])
  }
}

/** Opens this worker's channel, once in a process: the environment tells its number. */
export function openWorkerChannel(take: (assignment: Assignment) => void, end: () => void): WorkerChannel {
  openReactor()
  const value = process.env[WORKER]
  delete process.env[WORKER] // what this process starts is no worker
  const fd = value === undefined ? Number.NaN : Number(value)
  if (!Number.isInteger(fd) || native.socketType(fd) !== STREAM) throw notAWorker()
  adopt(WORKER, fd)
  native.socketType(fd) // known as a socket that is owned here, from now on
  return new WorkerChannel(fd, take, end)
}
