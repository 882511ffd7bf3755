import { EventEmitter } from 'node:events'
import { disownFile } from '../address/internal.ts'
import { invalidType, invalidState } from '../base/internal.ts'
import { borrow } from '../descriptor/internal.ts'
import { type UnixServer, listen, type UnixSocket } from '../socket/index.ts'
import { USocket } from './usocket.ts'

/** Options of {@link UServer.listen}. */
export interface UServerListenOptions {
  /** The address: a path, or an abstract address, which begins with `'\0'`. */
  path: string
  /** The maximum number of connections that wait to be accepted (default 511). */
  backlog?: number | null | undefined
}

/**
 * A server with the interface of usocket 1.1. Its events are `'listening'`, `'connection'` with a {@link USocket}, and `'error'`.
 *
 * Differences from usocket: `listen` replaces only the socket file of a process that has ended, never a live socket or another
 * file. An error while accepting, such as `EMFILE`, pauses the server until `resume` is called.
 */
export class UServer extends EventEmitter {
  /** Whether the server is paused and accepts no connections: see {@link UServer.pause}. */
  paused = false
  #server: UnixServer | undefined
  #opening: object | undefined
  /** Resolves when the last attempt to listen has ended. */
  #settled: Promise<void> | undefined
  #accepting: AbortController | undefined
  #referenced = true

  /** Whether the server is listening. */
  get listening(): boolean {
    return this.#server !== undefined
  }

  /** The number of the listening socket, which this object owns; undefined while the server is not listening. */
  get fd(): number | undefined {
    return this.#server?.[borrow]()
  }

  /**
   * Starts to listen, and emits `'listening'` afterwards, or `'error'` if that failed.
   *
   * @param path the address, or `{ path, backlog }`
   * @param backlog the maximum number of connections that wait to be accepted; or the callback
   * @param callback a listener of `'listening'`
   * @returns the server
   * @throws ERR_INVALID_STATE if it is listening or starting to listen; ERR_INVALID_ARG_TYPE
   */
  listen(path: string | UServerListenOptions, backlog?: number | (() => void) | null, callback?: () => void): this {
    if (this.#server !== undefined || this.#opening !== undefined)
      throw invalidState('The server is already listening or starting to listen')
    const options =
      typeof path === 'object' ? path : { path, backlog: typeof backlog === 'number' ? backlog : undefined }
    if (typeof options.path !== 'string') throw invalidType('path', 'of type string', options.path)
    const called = typeof backlog === 'function' ? backlog : callback
    if (typeof called === 'function') this.once('listening', called)
    this.#settled = this.#open(this.#settled, options.path, options.backlog ? { backlog: options.backlog } : undefined)
    return this
  }

  async #open(
    previous: Promise<void> | undefined,
    path: string,
    options: { backlog: number } | undefined
  ): Promise<void> {
    const opening = {}
    this.#opening = opening
    await previous // an attempt that `close` abandoned may still bind the same path
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
      closeAndKeepFile(server) // `close` was called meanwhile
      return
    }
    this.#opening = undefined
    this.#server = server
    if (!this.#referenced) server.unref()
    this.emit('listening')
    void this.#accept()
  }

  /** Stops accepting. Connections wait in the backlog. */
  pause(): void {
    this.paused = true
    this.#accepting?.abort()
  }

  /** Accepts connections again. */
  resume(): void {
    this.paused = false
    void this.#accept()
  }

  /** Stops listening. Connections stay open, and the socket's file stays in place, as with usocket. */
  close(): void {
    this.#opening = undefined
    this.#accepting?.abort()
    if (this.#server !== undefined) closeAndKeepFile(this.#server)
    this.#server = undefined
  }

  /** Keeps the process alive while the server is listening. This is the default. */
  ref(): this {
    this.#referenced = true
    this.#server?.ref()
    return this
  }

  /** Lets the process exit while the server is listening. */
  unref(): this {
    this.#referenced = false
    this.#server?.unref()
    return this
  }

  /** Accepts connections until the server is paused or closed. One such loop runs at a time. */
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

/** Closes a server without removing its socket file. */
function closeAndKeepFile(server: UnixServer): void {
  disownFile(server[borrow]())
  server.close()
}
