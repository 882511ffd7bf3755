import { Channel } from '../channel/index.ts'
import type { UnixSocket } from '../socket/index.ts'
import { Hold } from '../base/internal.ts'
import { brokerClosed } from './errors.ts'
import { MAX_WISH } from './wish.ts'

/** A channel to whoever grants wishes, as long as it lasts. */
export interface Session {
  readonly channel: Channel
  isLost: boolean
}

/** Where sessions come from. */
export interface Source {
  /** Who is at the other end, if that is known. */
  readonly pid: number | null
  readonly closed: boolean
  /** The session of now. */
  session(): Promise<Session>
  /** Told of one whose other end is gone. */
  lost(session: Session): void
  /** Counts somebody who waits, which keeps the process alive; the result ends that. */
  wait(): Disposable
  setReferenced(referenced: boolean): void
  close(): void
  closeLater(): Promise<void>
}

/** The one session of a connection. */
export class Connected implements Source {
  readonly #session: Session
  readonly pid: number | null
  readonly #hold: Hold

  constructor(socket: UnixSocket) {
    this.pid = socket.peer().pid
    this.#session = { channel: new Channel(socket, { maxBytes: MAX_WISH, maxFds: 1 }).unref(), isLost: false }
    const { channel } = this.#session
    this.#hold = new Hold((on) => (on ? channel.ref() : channel.unref()))
  }

  get closed(): boolean {
    return this.#session.channel.socket.closed
  }

  session(): Promise<Session> {
    return this.closed ? Promise.reject(brokerClosed()) : Promise.resolve(this.#session)
  }

  lost(): void {} // there is no other

  wait(): Disposable {
    return this.#hold.wait()
  }

  setReferenced(referenced: boolean): void {
    this.#hold.referenced = referenced
  }

  close(): void {
    this.#session.channel.close()
  }

  closeLater(): Promise<void> {
    return this.#session.channel[Symbol.asyncDispose]()
  }
}
