import type { Socket } from 'node:net'
import { clearTimeout, setTimeout } from 'node:timers'
import type { Abortable, Bytes } from '../base/index.ts'
import { bytesOf, optionsOf, invalidReturn, protocolError } from '../base/internal.ts'
import { Channel, type ChannelReply, type ChannelRequest } from '../channel/index.ts'
import { type Credentials, type UnixSocket, socketpair } from '../socket/index.ts'
import { Descriptor } from '../descriptor/index.ts'
import { borrow } from '../descriptor/internal.ts'
import { handOver } from '../handover/index.ts'
import type { ListeningSocket } from '../socket/internal.ts'
import { type FileId, claimFile, handFileOn } from '../address/internal.ts'
import { serializeError } from '../channel/internal.ts'
import { notReadyInTime, takeoverState } from './errors.ts'
import { connectionMessage } from './connection-message.ts'
import type { HandoverSockets } from './handover-sockets.ts'
import {
  type Cancellation,
  type ListenersReply,
  LIMITS,
  VERSION,
  type SuccessorRequest,
  isObject,
  isSuccessorRequest
} from './protocol.ts'
import type { Settings, TakeoverState } from './settings.ts'

/** Options of {@link Successor.handOver}. */
export interface SuccessorHandOverOptions extends Abortable {
  /** What the connection is called there (default `''`). */
  name?: string | undefined
  /** What is known of it, for the successor to understand (default: nothing). */
  state?: Bytes | undefined
}

/** The process that serves in this one's place, and is ready. */
export class Successor {
  /** Who it is: the kernel's word about who has connected. */
  readonly credentials: Credentials
  readonly #connections: UnixSocket | undefined

  /** @internal */
  constructor(credentials: Credentials, connections: UnixSocket | undefined) {
    this.credentials = credentials
    this.#connections = connections
  }

  /** Whether it takes live connections: what its `connections` option says. */
  get takesConnections(): boolean {
    return this.#connections !== undefined
  }

  /**
   * Hand a live connection over, as `handOver` does: its descriptor, and what Node has already read of it.
   *
   * @param socket the connection: TCP or Unix domain. Leave it alone from the call on
   * @param options `name`, `state`, `signal`
   * @returns resolves when the kernel has taken it, and the socket is destroyed here
   *
   *   Rejects as `handOver`, and the socket goes on working; ERR_INVALID_STATE where the successor takes none; `EPIPE`
   *   where it has gone.
   */
  async handOver(socket: Socket, options?: SuccessorHandOverOptions): Promise<void> {
    const { name = '', state = '', signal } = optionsOf(options) ?? {}
    const message = connectionMessage(name, state)
    if (this.#connections === undefined) throw takeoverState('The successor has not asked for connections')
    await handOver(this.#connections, socket, message, { signal })
  }

  /** @internal No more connections will come. */
  close(): void {
    this.#connections?.close()
  }
}

/** The attempt of a process to become the successor of this one. */
export class TakeoverAttempt {
  /** Resolves when it is the successor; to null where it is not, and everything here is as it was. */
  readonly outcome: Promise<Successor | null>
  readonly #channel: Channel
  readonly #credentials: Credentials
  readonly #sockets: HandoverSockets
  readonly #settings: Settings
  readonly #timer: NodeJS.Timeout
  readonly #abortion = new AbortController()
  #settle!: (successor: Successor | null) => void
  /** Why it cannot succeed any more. */
  #failure: Error | undefined
  #listenersSent = false
  /** The sockets whose files were left to it. */
  #handed: (readonly [fd: number, file: FileId])[] = []
  #connections: UnixSocket | undefined

  constructor(socket: UnixSocket, credentials: Credentials, sockets: HandoverSockets, settings: Settings) {
    this.#sockets = sockets
    this.#settings = settings
    this.#credentials = credentials
    this.outcome = new Promise((resolve) => (this.#settle = resolve))
    this.#channel = new Channel(socket, LIMITS).unref().onRequest((request) => this.#answer(request))
    this.#timer = setTimeout(() => this.#cancel(), settings.timeout).unref()
    void this.#untilClosed()
  }

  /** Ends it, and leaves it what it has: this process is about to end. */
  abandon(): void {
    this.#handed = []
    this.#fail(takeoverState('The process has ended its service'))
    this.#channel.close()
  }

  async #untilClosed(): Promise<void> {
    await this.#channel.closed
    this.#fail(takeoverState('The successor has gone'))
    this.#channel.close()
  }

  /** A process that has taken too long is told, so that it does not take this one's end for its turn. */
  #cancel(): void {
    const error = notReadyInTime(this.#settings.timeout)
    const told: Cancellation = { cancelled: serializeError(error) }
    this.#channel.send(told).catch(() => {}) // it has gone
    this.#fail(error)
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return
    this.#failure = error
    clearTimeout(this.#timer)
    this.#abortion.abort(error)
    for (const [fd, file] of this.#handed) claimFile(fd, file)
    this.#connections?.close()
    this.#settle(null)
  }

  async #answer(request: ChannelRequest): Promise<ChannelReply | void> {
    request.close() // nobody wants its descriptors
    const { value } = request
    if (this.#failure !== undefined) throw this.#failure
    if (!isSuccessorRequest(value)) throw protocolError('a successor asked for something unknown')
    if (value.ask === 'listeners') return this.#sendListeners(value)
    if (!this.#listenersSent) throw protocolError('a successor asked for it too early')
    return value.ask === 'state' ? this.#sendState() : this.#succeed()
  }

  #sendListeners(request: SuccessorRequest & { ask: 'listeners' }): ChannelReply {
    if (request.version !== VERSION) {
      throw protocolError(`this process speaks version ${VERSION} of the protocol, not ${request.version}`)
    }
    if (this.#listenersSent) throw protocolError('a successor asked for listeners twice')
    this.#listenersSent = true
    const matched = matchListeners(this.#sockets.listeners, request.listen)
    const { control } = this.#sockets
    const numbers = [control[borrow](), ...matched.flatMap((listening) => listening?.fd ?? [])]
    this.#handed = numbers.map((fd) => [fd, handFileOn(fd)])
    const files = this.#handed.map(([, file]) => file)
    const value: ListenersReply = {
      pid: process.pid,
      control: files.shift()!,
      listeners: matched.map((listening) => (listening === undefined ? null : { file: files.shift()! }))
    }
    if (!request.connections) return { value, fds: numbers }
    const [ours, theirs] = socketpair()
    this.#connections = ours.unref()
    return { value, fds: [...numbers, Descriptor.from(theirs.release())] }
  }

  async #sendState(): Promise<ChannelReply> {
    const state = (await this.#settings.state?.(this.#abortion.signal)) ?? ''
    if (isObject(state) && !(state instanceof Uint8Array)) {
      const { data = '', fds } = state as TakeoverState
      return { value: bytesOf(data, 'options.state().data'), fds }
    }
    if (typeof state === 'string' || state instanceof Uint8Array) return { value: bytesOf(state) }
    throw invalidReturn('options.state', 'bytes or an object', state)
  }

  #succeed(): void {
    clearTimeout(this.#timer)
    this.#failure = takeoverState('The successor is ready already') // from now on its end is not ours to care about
    this.#settle(new Successor(this.#credentials, this.#connections))
  }
}

/** For each request what is the same, under that name rather than under another. */
function matchListeners(
  listeners: ReadonlyMap<string, ListeningSocket>,
  requests: readonly { readonly name: string; readonly source: string }[]
): (ListeningSocket | undefined)[] {
  const left = new Set(listeners.values())
  return requests.map(({ name, source }) => {
    const named = listeners.get(name)
    const candidates = named === undefined ? [...left] : [named, ...left]
    const chosen = candidates.find((listening) => listening.name === source && left.has(listening))
    if (chosen !== undefined) left.delete(chosen)
    return chosen
  })
}
