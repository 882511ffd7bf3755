import type { Socket } from 'node:net'
import type { Abortable } from '../base/index.ts'
import { boolean, signalOf, optionsOf, protocolError, Iteration, end } from '../base/internal.ts'
import { receiveNext, openReceived } from '../handover/internal.ts'
import { Channel, type ChannelMessage } from '../channel/index.ts'
import type { Descriptor, Kind } from '../descriptor/index.ts'
import { borrow } from '../descriptor/internal.ts'
import { ListeningSocket, type Source, isDatagram } from '../socket/internal.ts'
import { type FileId, claimFile } from '../address/internal.ts'
import { deserializeError } from '../channel/internal.ts'
import { yieldToLoop } from '../event-loop/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { takeoverState } from './errors.ts'
import { type ConnectionInfo, parseConnection } from './connection-message.ts'
import { HandoverSockets } from './handover-sockets.ts'
import { LIMITS, VERSION, type SuccessorRequest, isListenersReply, isObject } from './protocol.ts'
import type { Settings } from './settings.ts'

/** A live connection that a predecessor has handed over. */
export interface TakenConnection extends ConnectionInfo {
  /** The connection, which is the caller's to close; its first bytes are what the predecessor's Node had read. */
  readonly socket: Socket
}

/** Options of {@link Predecessor.connections}. */
export interface TakenConnectionsOptions extends Abortable {
  /** Whether the sockets stay writable when their peer has ended its half (default false), as an HTTP server wants it. */
  allowHalfOpen?: boolean | undefined
}

/** The process that served until this one was ready. */
export class Predecessor {
  /** Its pid, by its own word. */
  readonly pid: number
  /** The bytes that its `state` option gave; empty if there is none. */
  readonly state: Uint8Array
  /** The descriptors that came with them, which are the caller's to close. */
  readonly fds: readonly Descriptor[]
  readonly #connections: UnixSocket | undefined

  /** @internal */
  constructor(pid: number, state: ChannelMessage, connections: UnixSocket | undefined) {
    this.pid = pid
    this.state = state.value instanceof Uint8Array ? state.value : new Uint8Array()
    this.fds = state.fds
    this.#connections = connections
  }

  /**
   * The live connections that it hands over, as they come, until it has ended or closed its side.
   *
   * @param options `allowHalfOpen`, `signal`
   * @returns the connections, with what the predecessor calls each, and knows of it. An error is thrown as `receiveConnection`
   *   rejects, and a new iteration goes on behind it; leaving it loses nothing
   * @throws ERR_INVALID_STATE without the `connections` option; ERR_INVALID_ARG_TYPE
   */
  connections(options?: TakenConnectionsOptions): AsyncIterableIterator<TakenConnection, undefined> {
    const signal = signalOf(optionsOf(options))
    const { allowHalfOpen = false } = options ?? {}
    boolean('options.allowHalfOpen', allowHalfOpen)
    const channel = this.#connections
    if (channel === undefined) throw takeoverState("Connections were not asked for: takeover's connections option")
    const take = async (): Promise<IteratorResult<TakenConnection, undefined>> => {
      const received = await receiveNext(channel, signal)
      if (received === null) return end
      const [connection, info] = parseConnection(received)
      return { done: false, value: { socket: openReceived(connection, allowHalfOpen), ...info } }
    }
    return new Iteration(channel, take, signal)
  }

  /** @internal */
  close(): void {
    this.#connections?.close()
  }
}

/** What came from a predecessor, as long as it is not settled whose it is. */
export class InheritedState {
  readonly sockets: HandoverSockets
  readonly predecessor: Predecessor
  readonly #channel: Channel
  /** The sockets whose files are to be this process's. */
  readonly #files: readonly (readonly [fd: number, file: FileId])[]
  /** Why the predecessor does not wait any more for this process to become ready. */
  #cancelled: Error | undefined

  private constructor(
    channel: Channel,
    sockets: HandoverSockets,
    predecessor: Predecessor,
    files: readonly (readonly [fd: number, file: FileId])[]
  ) {
    this.#channel = channel.unref()
    this.sockets = sockets
    this.predecessor = predecessor
    this.#files = files
    void this.#listen()
  }

  /** Asks whoever serves now for all that it has; null where it has gone before it answered. */
  static async ask(socket: UnixSocket, settings: Settings, signal: AbortSignal): Promise<InheritedState | null> {
    const channel = new Channel(socket, LIMITS)
    try {
      const request: SuccessorRequest = {
        ask: 'listeners',
        version: VERSION,
        listen: [...settings.sources].map(([name, { name: source }]) => ({ name, source })),
        connections: settings.connections
      }
      const reply = await channel.request(request, null, { signal })
      try {
        const state = await channel.request({ ask: 'state' }, null, { signal })
        try {
          return InheritedState.#take(channel, reply, state, settings)
        } catch (error) {
          state.close()
          throw error
        }
      } catch (error) {
        reply.close()
        throw error
      }
    } catch (error) {
      const gone = await isGone(channel, error)
      channel.close()
      if (gone) return null
      throw error
    }
  }

  static #take(channel: Channel, reply: ChannelMessage, state: ChannelMessage, settings: Settings): InheritedState {
    const sources = [...settings.sources]
    const { value } = reply
    if (!isListenersReply(value, sources.length)) throw protocolError('a predecessor answered with something unknown')
    const inherited = sources.flatMap(([name, source], place) => {
      const given = value.listeners[place]!
      return given === null ? [] : [{ name, source, file: given.file }]
    })
    const [control, ...others] = reply.fds
    const connections = settings.connections ? others.pop() : undefined
    const fits =
      control?.kind === 'unix-listener' &&
      others.length === inherited.length &&
      inherited.every(({ source }, place) => isOf(source, others[place]!.kind)) &&
      (connections === undefined ? !settings.connections : connections.kind === 'unix-stream')
    if (!fits) throw protocolError('a predecessor gave other descriptors than were asked for')
    const sockets = new HandoverSockets(control.toUnixServer())
    try {
      const files: [number, FileId][] = [[sockets.control[borrow](), value.control]]
      inherited.forEach(({ name, source, file }, place) => {
        const listening = ListeningSocket.adopt(source.name, others[place]!)
        sockets.listeners.set(name, listening)
        files.push([listening.fd, file])
      })
      const predecessor = new Predecessor(value.pid, state, connections?.toUnixSocket())
      return new InheritedState(channel, sockets, predecessor, files)
    } catch (error) {
      sockets.close()
      throw error
    }
  }

  /** Tells the predecessor that this process serves from now on. Where it has gone, this process does so all the same. */
  async settle(): Promise<void> {
    if (this.#cancelled !== undefined) throw this.#cancelled
    this.#channel.ref()
    try {
      await this.#channel.request({ ask: 'ready' })
    } catch (error) {
      if (this.#cancelled !== undefined) throw this.#cancelled
      if (!(await isGone(this.#channel, error))) throw error
    } finally {
      this.#channel.unref()
    }
    for (const [fd, file] of this.#files) claimFile(fd, file)
  }

  /** Gives up: the predecessor goes on as if nothing had been. */
  close(): void {
    this.#channel.close()
    this.predecessor.close()
  }

  async #listen(): Promise<void> {
    try {
      for await (using message of this.#channel) {
        const { value } = message
        if (isObject(value) && typeof value.cancelled === 'string') this.#cancelled = deserializeError(value.cancelled)
      }
    } catch {
      // It has gone.
    }
  }
}

/** Whether a request failed because the other end has gone. What its `state` function throws can have the same code. */
async function isGone(channel: Channel, error: unknown): Promise<boolean> {
  const { code } = error as { code?: unknown }
  if (code !== 'ECONNRESET' && code !== 'EPIPE') return false
  return Promise.race([channel.closed.then(() => true), yieldToLoop().then(() => false)])
}

function isOf(source: Source, kind: Kind): boolean {
  if (isDatagram(source)) return kind === 'udp' || kind === 'unix-dgram'
  return kind === 'tcp-listener' || kind === 'unix-listener'
}
