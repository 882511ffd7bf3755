import { EventEmitter } from 'node:events'
import { Descriptor } from '../descriptor/index.ts'
import { alreadyConnected } from '../stream/internal.ts'
import { invalidType } from '../base/internal.ts'
import { borrow } from '../descriptor/internal.ts'
import { type UnixServer, listen, type UnixSocket } from '../socket/index.ts'
import { USocket } from './usocket.ts'

/** Options of {@link UServer.listen}. */
export interface UServerListenOptions {
  /** Where: a path, or an abstract address, which begins with `'\0'`. */
  path: string
  /** The most connections that wait to be accepted (default 511). */
  backlog?: number | null | undefined
}

/**
 * A server with the interface of usocket 1.1. Its events are `'listening'`, `'connection'` with a {@link USocket}, and `'error'`.
 *
 * What is different from usocket: `listen` replaces only what a dead process left at the path, not a live socket and no other
 * file; an error while accepting, such as `EMFILE`, pauses the server, and `resume` goes on.
 */
export class UServer extends EventEmitter {
  /** Whether connections are accepted now, if it listens: see {@link UServer.pause}. */
  paused = false
  #server: UnixServer | undefined
  #opening: object | undefined
  /** Settles when the last attempt to listen has ended. */
  #settled: Promise<void> | undefined
  #accepting: AbortController | undefined
  #referenced = true

  /** Whether it listens. */
  get listening(): boolean {
    return this.#server !== undefined
  }

  /** The number of the listening socket, which stays this object's; undefined while there is none. */
  get fd(): number | undefined {
    return this.#server?.[borrow]()
  }

  /**
   * Listen. `'listening'` is emitted when that is done, `'error'` if it failed.
   *
   * @param path where, or `{ path, backlog }`
   * @param backlog the most connections that wait to be accepted; or the callback
   * @param callback a listener of `'listening'`
   * @returns the server
   * @throws ERR_INVALID_STATE where it listens already; ERR_INVALID_ARG_TYPE
   */
  listen(path: string | UServerListenOptions, backlog?: number | (() => void) | null, callback?: () => void): this {
    if (this.#server !== undefined || this.#opening !== undefined) throw alreadyConnected('server listens')
    const options =
      typeof path === 'object' ? path : { path, backlog: typeof backlog === 'number' ? backlog : undefined }
    if (typeof options.path !== 'string') throw invalidType('path', 'of type string', options.path)
    const called = typeof backlog === 'function' ? backlog : callback
    if (typeof called === 'function') this.once('listening', called)
    this.#settled = this.#open(this.#settled, options.path, options.backlog ? { backlog: options.backlog } : undefined)
    return this
  }

  async #open(
    before: Promise<void> | undefined,
    path: string,
    options: { backlog: number } | undefined
  ): Promise<void> {
    const opening = {}
    this.#opening = opening
    await before // it may have bound the same path, although it was closed meanwhile
    if (this.#opening !== opening) return
    let server: UnixServer
    try {
      server = await listen(path, options)
    } catch (error) {
      if (this.#opening !== opening) return
      this.#opening = undefined
      process.nextTick(() => this.emit('error', error))
      return
    }
    if (this.#opening !== opening) {
      leave(server) // it was closed meanwhile
      return
    }
    this.#opening = undefined
    this.#server = server
    if (!this.#referenced) server.unref()
    this.emit('listening')
    void this.#accept()
  }

  /** Accept no more for now: connections wait in the backlog. */
  pause(): void {
    this.paused = true
    this.#accepting?.abort()
  }

  /** Accept again. */
  resume(): void {
    this.paused = false
    void this.#accept()
  }

  /** Stop listening. Connections go on; the socket's file stays where it is, as of usocket. */
  close(): void {
    this.#opening = undefined
    this.#accepting?.abort()
    if (this.#server !== undefined) leave(this.#server)
    this.#server = undefined
  }

  /** Let the server keep the process alive, as it does at first. */
  ref(): this {
    this.#referenced = true
    this.#server?.ref()
    return this
  }

  /** Let the process end although the server listens. */
  unref(): this {
    this.#referenced = false
    this.#server?.unref()
    return this
  }

  /** Accepts until it is paused or closed; one call at a time. */
  async #accept(): Promise<void> {
    const server = this.#server
    if (server === undefined || this.paused || this.#accepting?.signal.aborted === false) return
    const accepting = new AbortController()
    this.#accepting = accepting
    while (!accepting.signal.aborted) {
      let connection: UnixSocket
      try {
        connection = await server.accept({ signal: accepting.signal })
      } catch (error) {
        if (accepting.signal.aborted) return
        this.pause()
        process.nextTick(() => this.emit('error', error))
        return
      }
      const socket = new USocket()
      socket.adopt(connection)
      process.nextTick(() => {
        if (!this.emit('connection', socket)) socket.destroy()
      })
    }
  }
}

/** Closes a server, and leaves its file. */
function leave(server: UnixServer): void {
  Descriptor.from(server.release()).closeSync()
}
