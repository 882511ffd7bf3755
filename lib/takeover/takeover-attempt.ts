import { constants } from 'node:os'
import { setTimeout } from 'node:timers'
import { type FileId, claimFile, disownFile } from '../address/internal.ts'
import { InputTimer, bytesOf, invalidReturn, protocolError, invalidState } from '../base/internal.ts'
import { Channel, type ChannelReply, type ChannelRequest } from '../channel/index.ts'
import { serializeError } from '../channel/internal.ts'
import { borrow, wrapFd } from '../descriptor/internal.ts'
import { type Credentials, type UnixSocket, socketpair } from '../socket/index.ts'
import { type ListeningSocket, otherService, takeSocketFd } from '../socket/internal.ts'
import type { HandoverSockets } from './inherited-state.ts'
import {
  type Cancellation,
  PREDECESSOR_LIMITS,
  type ListenersReply,
  type SuccessorRequest,
  VERSION,
  isObject,
  isSuccessorRequest
} from './protocol.ts'
import type { Settings, TakeoverState } from './settings.ts'
import { Successor } from './successor.ts'
import type { SystemError } from '../native/index.ts'

/** The time within which a process that tries to take over makes its first request, in milliseconds. */
const SILENCE_MS = 5000

/** The time after which the connection of a process that timed out is closed, in milliseconds. */
const CLOSING_MS = 1000

/** The attempt of another process to take over from this one. */
export class TakeoverAttempt {
  /** Resolves to the successor when it is ready; to null if the attempt failed, and this process continues to serve. */
  readonly outcome: Promise<Successor | null>
  readonly #channel: Channel
  readonly #credentials: Credentials
  readonly #sockets: HandoverSockets
  readonly #settings: Settings
  readonly #timer: InputTimer
  /** Ends the attempt of a process that requests nothing, because others wait for their turn. */
  readonly #silence: InputTimer
  readonly #abortion = new AbortController()
  #settle!: (successor: Successor | null) => void
  /** The reason why the attempt cannot succeed any more. */
  #failure: Error | undefined
  #listenersSent = false
  /** The sockets whose files the other process removes, if the attempt succeeds. */
  #handed: (readonly [fd: number, file: FileId])[] = []
  #connections: UnixSocket | undefined

  constructor(socket: UnixSocket, credentials: Credentials, sockets: HandoverSockets, settings: Settings) {
    this.#sockets = sockets
    this.#settings = settings
    this.#credentials = credentials
    this.outcome = new Promise((resolve) => (this.#settle = resolve))
    this.#channel = new Channel(socket, PREDECESSOR_LIMITS).unref().onRequest((request) => this.#answer(request))
    this.#timer = new InputTimer(settings.timeout, () => this.#cancel(settings.timeout)).unref()
    const silence = Math.min(settings.timeout, SILENCE_MS)
    this.#silence = new InputTimer(silence, () => this.#cancel(silence)).unref()
    void this.#untilClosed()
  }

  /** Ends the attempt because this process stops serving. The other process keeps what it has received. */
  abandon(): void {
    this.#handed = []
    this.#fail(invalidState('The process has ended its service'))
    this.#channel.close()
  }

  async #untilClosed(): Promise<void> {
    await this.#channel.closed
    this.#fail(invalidState('The successor has disconnected'))
    this.#channel.close()
  }

  /** Fails an attempt that timed out. The other process is notified: otherwise it would take this one's exit for its turn. */
  #cancel(milliseconds: number): void {
    const error = notReadyInTime(milliseconds)
    const cancellation: Cancellation = { cancelled: serializeError(error) }
    this.#channel.send(cancellation).catch(() => {}) // it has exited
    setTimeout(() => this.#channel.close(), CLOSING_MS).unref()
    this.#fail(error)
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return
    this.#failure = error
    this.#timer[Symbol.dispose]()
    this.#silence[Symbol.dispose]()
    this.#abortion.abort(error)
    for (const [fd, file] of this.#handed) claimFile(fd, file)
    this.#connections?.close()
    this.#settle(null)
  }

  async #answer(request: ChannelRequest): Promise<ChannelReply | void> {
    request.close() // its descriptors are not needed
    const { value } = request
    if (this.#failure !== undefined) throw this.#failure
    if (!isSuccessorRequest(value)) throw protocolError('the successor sent an unknown request')
    if (value.ask === 'listeners') return this.#sendListeners(value)
    if (!this.#listenersSent) throw protocolError('the successor sent a request before that for the listeners')
    return value.ask === 'state' ? this.#sendState() : this.#succeed()
  }

  #sendListeners(request: SuccessorRequest & { ask: 'listeners' }): ChannelReply {
    if (request.version !== VERSION) {
      throw protocolError(`this process speaks version ${VERSION} of the protocol, not ${request.version}`)
    }
    const { service } = this.#settings
    if ((request.service ?? '') !== service) throw otherService(this.#settings.path, service, request.service)
    if (this.#listenersSent) throw protocolError('the successor requested the listeners twice')
    this.#listenersSent = true
    this.#silence[Symbol.dispose]()
    const matched = matchListeners(this.#sockets.listeners, request.listen)
    const { control } = this.#sockets
    const numbers = [control[borrow](), ...matched.flatMap((listening) => listening?.fd ?? [])]
    this.#handed = numbers.map((fd) => [fd, disownFile(fd)])
    const files = this.#handed.map(([, file]) => file)
    const value: ListenersReply = {
      pid: process.pid,
      service,
      control: files.shift()!,
      listeners: matched.map((listening) => (listening === undefined ? null : { file: files.shift()! }))
    }
    if (!request.connections) return { value, fds: numbers }
    const [ours, theirs] = socketpair()
    this.#connections = ours.unref()
    return { value, fds: [...numbers, wrapFd(takeSocketFd(theirs))] }
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
    this.#timer[Symbol.dispose]()
    this.#failure = invalidState('The successor is ready already') // its exit does not matter any more
    this.#settle(new Successor(this.#credentials, this.#connections))
  }
}

/** Returns for each requested listener the open one with the same source, preferably the one of the same name. */
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

/** Returns the error of a successor that was not ready in time. */
function notReadyInTime(milliseconds: number): SystemError {
  const error = new Error(`ETIMEDOUT: the successor was not ready within ${milliseconds} ms, takeover`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall: 'takeover' })
}
