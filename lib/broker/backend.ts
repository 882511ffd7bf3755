import { Channel } from '../channel/index.ts'
import type { UnixSocket } from '../socket/index.ts'
import { KeepAlive } from '../event-loop/internal.ts'
import { MAX_MESSAGE_BYTES } from './request-message.ts'
import { withCode } from '../base/internal.ts'

/** One channel to a broker process. */
export interface Session {
  readonly channel: Channel
  isLost: boolean
}

/** A broker process as `Broker` uses it: the helper, or the peer of a connection. */
export interface Backend {
  /** The process at the other end; null if it is unknown or not running. */
  readonly pid: number | null
  readonly closed: boolean
  /** Returns the current session. */
  session(): Promise<Session>
  /** Called when a session's peer has closed its channel or died. */
  onSessionLost(session: Session): void
  /** Keeps the process alive while calls are pending. */
  readonly keepAlive: KeepAlive
  close(): void
  closeLater(): Promise<void>
}

/** A broker process that this process connected to: one session, which is not replaced. */
export class RemoteBackend implements Backend {
  readonly #session: Session
  readonly pid: number | null
  readonly keepAlive: KeepAlive

  constructor(socket: UnixSocket) {
    this.pid = socket.peer().pid
    this.#session = { channel: new Channel(socket, { maxBytes: MAX_MESSAGE_BYTES, maxFds: 1 }).unref(), isLost: false }
    const { channel } = this.#session
    this.keepAlive = new KeepAlive((on) => (on ? channel.ref() : channel.unref()))
  }

  get closed(): boolean {
    return this.#session.channel.socket.closed
  }

  session(): Promise<Session> {
    return this.closed ? Promise.reject(brokerClosed()) : Promise.resolve(this.#session)
  }

  onSessionLost(): void {} // the caller connects again

  close(): void {
    this.#session.channel.close()
  }

  closeLater(): Promise<void> {
    return this.#session.channel[Symbol.asyncDispose]()
  }
}

/** Returns the error for a call on a closed broker, or on one that was closed while the call was pending. */
export function brokerClosed(): Error {
  return withCode(new Error('The broker is closed'), 'ERR_SOCKET_CLOSED')
}
