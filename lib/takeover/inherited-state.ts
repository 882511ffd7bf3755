import { lstatSync } from 'node:fs'
import { type FileId, claimFile } from '../address/internal.ts'
import { protocolError } from '../base/internal.ts'
import { Channel, type ChannelMessage } from '../channel/index.ts'
import { deserializeError } from '../channel/internal.ts'
import type { Kind } from '../descriptor/index.ts'
import { borrow } from '../descriptor/internal.ts'
import { yieldToLoop } from '../event-loop/internal.ts'
import type { UnixSocket, UnixServer } from '../socket/index.ts'
import { ListeningSocket, type Source, isDatagram, otherService, pathIsLink } from '../socket/internal.ts'
import { Predecessor } from './predecessor.ts'
import { SUCCESSOR_LIMITS, type SuccessorRequest, VERSION, isListenersReply, isObject } from './protocol.ts'
import type { Settings } from './settings.ts'

/** The sockets that a process keeps open for its successor. */
export class HandoverSockets {
  /** The listener at `path`. */
  readonly control: UnixServer
  /** Duplicates of the listeners, by name. */
  readonly listeners: Map<string, ListeningSocket>

  constructor(control: UnixServer, listeners = new Map<string, ListeningSocket>()) {
    this.control = control
    this.listeners = listeners
  }

  /** Closes all sockets, and removes the files of those that belong to this process. */
  close(): void {
    this.control.close()
    for (const listening of this.listeners.values()) listening.close()
    this.listeners.clear()
  }
}

/** The sockets and state received from a predecessor that still serves. */
export class InheritedState {
  readonly sockets: HandoverSockets
  readonly predecessor: Predecessor
  readonly #channel: Channel
  /** The sockets whose files this process removes later, once it has taken over. */
  readonly #files: readonly (readonly [fd: number, file: FileId])[]
  /** The reason why the predecessor has given up on this process. */
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
    void this.#receiveCancellation()
  }

  /** Requests the listeners and the state from the serving process; resolves to null if it exits before it has answered. */
  static async request(socket: UnixSocket, settings: Settings, signal: AbortSignal): Promise<InheritedState | null> {
    const channel = new Channel(socket, SUCCESSOR_LIMITS)
    try {
      const request: SuccessorRequest = {
        ask: 'listeners',
        version: VERSION,
        service: settings.service,
        listen: [...settings.sources].map(([name, { name: source }]) => ({ name, source })),
        connections: settings.connections
      }
      const reply = await channel.request(request, null, { signal })
      try {
        checkService(reply.value, settings)
        const state = await channel.request({ ask: 'state' }, null, { signal })
        try {
          return InheritedState.#fromReplies(channel, reply, state, settings)
        } catch (error) {
          state.close()
          throw error
        }
      } catch (error) {
        reply.close()
        throw error
      }
    } catch (error) {
      const exited = await hasExited(channel, error)
      channel.close()
      if (exited) return null
      throw error
    }
  }

  static #fromReplies(
    channel: Channel,
    reply: ChannelMessage,
    state: ChannelMessage,
    settings: Settings
  ): InheritedState {
    const sources = [...settings.sources]
    const { value } = reply
    if (!isListenersReply(value, sources.length)) throw unknownReply()
    const inherited = sources.flatMap(([name, source], place) => {
      const given = value.listeners[place]!
      return given === null ? [] : [{ name, source, file: given.file }]
    })
    const [control, ...others] = reply.fds
    const connections = settings.connections ? others.pop() : undefined
    const fits =
      control?.kind === 'unix-listener' &&
      others.length === inherited.length &&
      inherited.every(({ source }, place) => matchesKind(source, others[place]!.kind)) &&
      (connections === undefined ? !settings.connections : connections.kind === 'unix-stream')
    if (!fits) throw protocolError('the predecessor sent other descriptors than those requested')
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

  /** Reports to the predecessor that this process serves. Succeeds also if the predecessor has exited. */
  async confirm(): Promise<void> {
    if (this.#cancelled !== undefined) throw this.#cancelled
    this.#channel.ref()
    try {
      await this.#channel.request({ ask: 'ready' })
    } catch (error) {
      if (this.#cancelled !== undefined) throw this.#cancelled
      if (!(await hasExited(this.#channel, error))) throw error
    } finally {
      this.#channel.unref()
    }
    for (const [fd, file] of this.#files) claimFile(fd, file)
  }

  /** Gives up. The predecessor continues to serve. */
  close(): void {
    this.#channel.close()
    this.predecessor.close()
  }

  async #receiveCancellation(): Promise<void> {
    try {
      for await (using message of this.#channel) {
        const { value } = message
        if (isObject(value) && typeof value.cancelled === 'string') this.#cancelled = deserializeError(value.cancelled)
      }
    } catch {
      // The predecessor has exited.
    }
  }
}

/** Throws if the serving process is another service, or the path is a link to its socket. Another user can have made that link. */
function checkService(reply: unknown, { path, service, sources }: Settings): void {
  if (!isListenersReply(reply, sources.size)) throw unknownReply()
  if ((reply.service ?? '') !== service) throw otherService(path, reply.service ?? '', service)
  if (path.startsWith('\0')) return
  const status = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  if (status?.isSymbolicLink() === true) throw pathIsLink(path)
  // Another process can have replaced the link since. The file is missing if it was removed.
  const id = status === undefined ? null : ((status.dev << 64n) | status.ino).toString(16).padStart(32, '0')
  if (id !== null && reply.control !== null && reply.control !== id) throw pathIsLink(path)
}

function unknownReply(): Error {
  return protocolError('the predecessor sent an unknown reply')
}

/** Returns whether a request failed because the peer has exited. An error that its `state` function throws can have the same code. */
async function hasExited(channel: Channel, error: unknown): Promise<boolean> {
  const { code } = error as { code?: unknown }
  if (code !== 'ECONNRESET' && code !== 'EPIPE') return false
  return Promise.race([channel.closed.then(() => true), yieldToLoop().then(() => false)])
}

function matchesKind(source: Source, kind: Kind): boolean {
  if (isDatagram(source)) return kind === 'udp' || kind === 'unix-dgram'
  return kind === 'tcp-listener' || kind === 'unix-listener'
}
