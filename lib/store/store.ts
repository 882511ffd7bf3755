import type { Address } from '../address/index.ts'
import { addressOf } from '../address/internal.ts'
import type { Abortable } from '../base/index.ts'
import {
  boolean,
  signalOf,
  MAX_INT,
  integer,
  optionsOf,
  descriptorNameOf,
  invalidValue,
  protocolError,
  groupOf
} from '../base/internal.ts'
import type { ChannelMessage } from '../channel/index.ts'
import { connect } from '../socket/index.ts'
import type { Descriptor, FdSource, Kind } from '../descriptor/index.ts'
import { takeFds, wrapFd, putFds } from '../descriptor/internal.ts'
import { closeFds, systemError, fds as numbers, native } from '../native/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { restoreReason, storeClosed } from './errors.ts'
import { StoreConnection } from './connection.ts'
import { MAX_ENTRY_FDS, MOVED, type StoreRequest } from './protocol.ts'

/** Options of {@link Store.put}. */
export interface PutOptions extends Abortable {
  /** How long they are kept, in milliseconds (default: until they are deleted, or the store ends). */
  expires?: number | undefined
  /**
   * Who may get them (read), and replace or delete them (write): permissions as of a file, for this user, the group, and others (default
   * 0o600).
   */
  mode?: number | undefined
  /** The group that `mode` speaks of, by name or number: one of this process's (default: its own). */
  group?: string | number | undefined
  /** Whether what is kept under this name already is closed for them (default false: `EEXIST`). */
  replace?: boolean | undefined
}

/** Options of {@link Store.get}. */
export interface GetOptions extends Abortable {
  /**
   * Whether they are not kept any more from then on (default false). The store forgets them when it answers: where this call is aborted then,
   * the descriptor table is full or the process ends, nobody has them. To be safe, get them, and {@link Store.delete} them afterwards.
   */
  remove?: boolean | undefined
}

/** What is kept under a name. */
export interface StoreEntry {
  /** The name. */
  readonly name: string
  /** What the descriptors are. */
  readonly kinds: readonly Kind[]
  /** The user that has put them, by number. */
  readonly uid: number
  /** The group that `mode` speaks of, by number. */
  readonly gid: number
  /** Who may get them, and replace or delete them, as permissions of a file. */
  readonly mode: number
  /** In how many milliseconds they go; null for never. */
  readonly expires: number | null
}

const made = Symbol('made')
const OWNER_ONLY = 0o600

/** How often a request is made again because the store has moved: each time it has another process. */
const MAX_MOVES = 10

/**
 * A descriptor store of another process: what {@link connectStore} has found. A connection that is lost is made again by the next call, so
 * that a store may be restarted; one that hands on to its successor is not noticed at all.
 *
 * It does not keep the process alive, but for the time that a call takes.
 */
export class Store implements Disposable {
  readonly #address: Address
  #connection: StoreConnection | undefined
  #closed = false

  /** Use {@link connectStore}. */
  private constructor(address: Address, key: symbol) {
    if (key !== made) throw invalidValue('key', 'is private: use connectStore()')
    this.#address = address
  }

  /** @internal */
  static async open(address: Address, signal: AbortSignal | undefined): Promise<Store> {
    const store = new Store(address, made)
    await store.#connect(signal)
    return store
  }

  /**
   * Have descriptors kept under a name.
   *
   * @param name 1 to 255 printable ASCII characters, without a colon and a backslash
   * @param fds one or several descriptors, at most 253, which stay the caller's, and may be closed as soon as this has returned
   * @param options `expires`, `mode`, `group`, `replace`, `signal`
   * @returns resolves when they are kept
   *
   *   Rejects with `EEXIST` where the name is taken; `EACCES` where it may not be replaced; `ENOSPC` and `EDQUOT` where they would be too
   *   many; `EPERM` for a group that is not this process's; `ECONNRESET` if the store ends meanwhile; as {@link connectStore};
   *   ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE; ERR_SOCKET_CLOSED; AbortError
   */
  async put(name: string, fds: FdSource | readonly FdSource[], options?: PutOptions): Promise<void> {
    const signal = signalOf(optionsOf(options))
    const { expires = null, mode = OWNER_ONLY, group, replace = false } = options ?? {}
    boolean('options.replace', replace)
    const request: StoreRequest = {
      ask: 'put',
      name: descriptorNameOf(name),
      expires: expires === null ? null : integer('options.expires', expires, 1, MAX_INT),
      mode: integer('options.mode', mode, 0, 0o777),
      group: group === undefined ? null : groupOf('options.group', group),
      replace
    }
    // What the numbers mean now, however often it has to be sent.
    const duplicates = duplicatesOf(Array.isArray(fds) ? fds : [fds])
    try {
      await this.#ask(request, duplicates, signal)
    } finally {
      closeFds(takeFds(duplicates))
    }
  }

  /**
   * Get descriptors that are kept.
   *
   * @param name their name
   * @param options `remove`, `signal`
   * @returns resolves to the descriptors, in order; each is the caller's to close
   *
   *   Rejects with `ENOENT` where nothing has that name; `EACCES` where it is not for this process; ERR_CONTROL_TRUNCATED where the
   *   descriptor table is full; otherwise as {@link Store.put}
   */
  async get(name: string, options?: GetOptions): Promise<readonly Descriptor[]> {
    const signal = signalOf(optionsOf(options))
    const { remove = false } = options ?? {}
    boolean('options.remove', remove)
    const { fds } = await this.#ask({ ask: 'get', name: descriptorNameOf(name), remove }, [], signal)
    return fds
  }

  /**
   * Tell what is kept that this process may get or delete.
   *
   * @param options `signal`
   * @returns resolves to the entries, the oldest first
   *
   *   Rejects as {@link Store.put}
   */
  async list(options?: Abortable): Promise<readonly StoreEntry[]> {
    const { value } = await this.#ask({ ask: 'list' }, [], signalOf(optionsOf(options)))
    if (!Array.isArray(value)) throw protocolError('the store answered with something unknown')
    return value as StoreEntry[]
  }

  /**
   * Have descriptors kept no more: they are closed there.
   *
   * @param name their name
   * @param options `signal`
   * @returns resolves when they are closed
   *
   *   Rejects with `ENOENT` where nothing has that name; `EACCES` where it is not for this process; otherwise as {@link Store.put}
   */
  async delete(name: string, options?: Abortable): Promise<void> {
    await this.#ask({ ask: 'delete', name: descriptorNameOf(name) }, [], signalOf(optionsOf(options)))
  }

  /** Close the connection. What is kept stays. */
  close(): void {
    this.#closed = true
    this.#connection?.close()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  async #ask(
    request: StoreRequest,
    fds: readonly Descriptor[],
    signal: AbortSignal | undefined
  ): Promise<ChannelMessage> {
    for (let moves = 0; ; moves++) {
      const connection = await this.#connect(signal)
      try {
        return await connection.request(request, fds, signal)
      } catch (error) {
        if (this.#closed) throw storeClosed()
        const { code } = error as NodeJS.ErrnoException
        // EPIPE: it was not sent. Otherwise it may have been done.
        if ((code !== MOVED && code !== 'EPIPE') || moves === MAX_MOVES) {
          if ('name' in request) restoreReason(error, request.name)
          throw error
        }
        connection.retire()
      }
    }
  }

  /** The connection of now. */
  async #connect(signal: AbortSignal | undefined): Promise<StoreConnection> {
    if (this.#closed) throw storeClosed()
    const connection = this.#current
    if (connection !== undefined) return connection
    const socket = await connect(this.#address, { signal })
    if (this.#closed || this.#current !== undefined) {
      socket.close() // another call has been faster
      return this.#connect(signal)
    }
    return (this.#connection = new StoreConnection(socket))
  }

  get #current(): StoreConnection | undefined {
    return this.#connection?.retired === true ? undefined : this.#connection
  }
}

function duplicatesOf(sources: readonly FdSource[]): readonly Descriptor[] {
  const count = putFds(sources, 'fds', MAX_ENTRY_FDS)
  if (count === 0) throw invalidValue('fds', 'must name a descriptor at least')
  const code = native.duplicate(count)
  if (code < 0) throw systemError(code, 'fcntl')
  return [...numbers.subarray(0, count)].map(wrapFd)
}

/**
 * Connect to a descriptor store: the other end of {@link serveStore}.
 *
 * @param address where it is
 * @param options `signal`
 * @returns resolves to the store, which is the caller's to close
 *
 *   Rejects with `ENOENT`, `ECONNREFUSED` where there is none; `EACCES`; AbortError; ERR_UNSUPPORTED_PLATFORM
 */
export async function connectStore(address: Address, options?: Abortable): Promise<Store> {
  openReactor()
  addressOf('address', address, 'connect')
  return Store.open(address, signalOf(optionsOf(options)))
}
