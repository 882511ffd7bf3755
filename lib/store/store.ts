import { Channel, type ChannelMessage } from '../channel/index.ts'
import type { Descriptor, FdSource, Kind } from '../descriptor/index.ts'
import { KeepAlive, openReactor } from '../event-loop/internal.ts'
import { type UnixSocket, connect } from '../socket/index.ts'
import type { Address } from '../address/index.ts'
import { addressOf } from '../address/internal.ts'
import type { Abortable } from '../base/index.ts'
import {
  type InspectionArguments,
  inspected,
  inspection,
  uncloneable,
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
import { takeFds, wrapFd, putFds } from '../descriptor/internal.ts'
import { closeFds, duplicateShared } from '../native/internal.ts'
import { MAX_BYTES, MAX_ENTRY_FDS, type StoreRequest, restoreReason, storeClosed, MOVED } from './protocol.ts'

const LIMITS = { maxBytes: MAX_BYTES, maxFds: MAX_ENTRY_FDS } as const

/** A connection to a store, until the store closes it or reports that it has moved. */
class StoreConnection {
  readonly #channel: Channel
  readonly #keepAlive: KeepAlive
  #pending = 0
  #retired = false

  constructor(socket: UnixSocket) {
    const channel = new Channel(socket, LIMITS).unref()
    this.#channel = channel
    this.#keepAlive = new KeepAlive((on) => (on ? channel.ref() : channel.unref()))
    void this.#watch()
  }

  /** Whether the connection accepts no new requests. */
  get retired(): boolean {
    return this.#retired
  }

  async request(
    request: StoreRequest,
    fds: readonly Descriptor[],
    signal: AbortSignal | undefined
  ): Promise<ChannelMessage> {
    using _keptAlive = this.#keepAlive.acquire()
    this.#pending++
    try {
      return await this.#channel.request(request, fds, { signal })
    } finally {
      this.#pending--
      this.#closeIfIdle()
    }
  }

  /** Accepts no new requests, and closes when the pending ones have settled. */
  retire(): void {
    this.#retired = true
    this.#closeIfIdle()
  }

  close(): void {
    this.#retired = true
    this.#channel.close()
  }

  #closeIfIdle(): void {
    if (this.#retired && this.#pending === 0) this.#channel.close()
  }

  /** Retires at the first message, which always reports that the store has moved, and at the end. */
  async #watch(): Promise<void> {
    const message = await this.#channel.receive().catch(() => null)
    message?.close()
    this.retire()
  }
}

/** Options of {@link Store.put}. */
export interface PutOptions extends Abortable {
  /** The time until the entry expires, in milliseconds (default: never). */
  expires?: number | undefined
  /**
   * The entry's permissions for this user, the group and others: read to get it, write to replace or delete it (default
   * 0o600).
   */
  mode?: number | undefined
  /** The entry's group: the name or gid of one of this process's groups (default: its effective group). */
  group?: string | number | undefined
  /** Whether an existing entry of this name is closed and replaced (default false: rejects with `EEXIST`). */
  replace?: boolean | undefined
}

/** Options of {@link Store.get}. */
export interface GetOptions extends Abortable {
  /**
   * Whether the store removes the entry (default false). It does so when it replies: if this call is aborted then, the
   * descriptor table is full, or the process exits, the descriptors are lost. To avoid that, get the entry first, and call
   * {@link Store.delete} afterwards.
   */
  remove?: boolean | undefined
}

/** A stored entry, as {@link Store.list} returns it. */
export interface StoreEntry {
  /** The entry's name. */
  readonly name: string
  /** The kind of each descriptor, in order. */
  readonly kinds: readonly Kind[]
  /** The uid of the user that put the entry. */
  readonly uid: number
  /** The gid of the entry's group. */
  readonly gid: number
  /** The entry's permissions: read to get it, write to replace or delete it. */
  readonly mode: number
  /** The time until the entry expires, in milliseconds; null for never. */
  readonly expires: number | null
}

const constructorKey = Symbol('constructorKey')
const OWNER_ONLY = 0o600

/** The maximum number of retries of a request because the store has moved to a successor. */
const MAX_MOVES = 10

/**
 * A client of a descriptor store: the result of {@link connectStore}. After the connection was lost, the next call connects
 * again, so the store may be restarted. A take-over of the store by a successor causes no error.
 *
 * Only a pending call keeps the process alive.
 */
export class Store implements Disposable {
  /** @internal */
  protected readonly uncloneable = uncloneable
  readonly #address: Address
  #connection: StoreConnection | undefined
  #closed = false

  /** Not callable: use {@link connectStore}. */
  private constructor(address: Address, key: symbol) {
    if (key !== constructorKey) throw invalidValue('key', 'is private: use connectStore()')
    this.#address = address
  }

  /** @internal */
  static async open(address: Address, signal: AbortSignal | undefined): Promise<Store> {
    const store = new Store(address, constructorKey)
    await store.#connect(signal)
    return store
  }

  /**
   * Stores duplicates of descriptors under a name.
   *
   * @param name 1 to 255 printable ASCII characters, except colon and backslash
   * @param fds one to 253 descriptors. The caller still owns them, and may close them as soon as this call has returned
   * @param options `expires`, `mode`, `group`, `replace`, `signal`
   * @returns resolves when the store has the entry
   *
   *   Rejects with `EEXIST` if the name is in use; `EACCES` if the existing entry may not be replaced; `ENOSPC` or `EDQUOT` if
   *   a limit of the store would be exceeded; `EPERM` if this process is not in the group; `ECONNRESET` if the store exits
   *   during the call; as {@link connectStore}; ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE; ERR_OUT_OF_RANGE;
   *   ERR_SOCKET_CLOSED; AbortError
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
    // The caller may close its descriptors while the request is retried.
    const duplicates = duplicateAll(Array.isArray(fds) ? fds : [fds])
    try {
      await this.#ask(request, duplicates, signal)
    } finally {
      closeFds(takeFds(duplicates))
    }
  }

  /**
   * Returns duplicates of the descriptors of an entry.
   *
   * @param name the entry's name
   * @param options `remove`, `signal`
   * @returns resolves to the descriptors, in order. The caller owns and closes each
   *
   *   Rejects with `ENOENT` if there is no such entry; `EACCES` if its permissions deny this process; ERR_CONTROL_TRUNCATED if
   *   the descriptor table is full; otherwise as {@link Store.put}
   */
  async get(name: string, options?: GetOptions): Promise<readonly Descriptor[]> {
    const signal = signalOf(optionsOf(options))
    const { remove = false } = options ?? {}
    boolean('options.remove', remove)
    const { fds } = await this.#ask({ ask: 'get', name: descriptorNameOf(name), remove }, [], signal)
    return fds
  }

  /**
   * Lists the entries that this process may get, replace or delete.
   *
   * @param options `signal`
   * @returns resolves to the entries, oldest first
   *
   *   Rejects as {@link Store.put}
   */
  async list(options?: Abortable): Promise<readonly StoreEntry[]> {
    const { value } = await this.#ask({ ask: 'list' }, [], signalOf(optionsOf(options)))
    if (!Array.isArray(value) || !value.every(isStoreEntry)) {
      throw protocolError('the store sent an unknown reply')
    }
    return value
  }

  /**
   * Deletes an entry: the store closes its descriptors.
   *
   * @param name the entry's name
   * @param options `signal`
   * @returns resolves when they are closed
   *
   *   Rejects with `ENOENT` if there is no such entry; `EACCES` if its permissions deny this process; otherwise as
   *   {@link Store.put}
   */
  async delete(name: string, options?: Abortable): Promise<void> {
    await this.#ask({ ask: 'delete', name: descriptorNameOf(name) }, [], signalOf(optionsOf(options)))
  }

  /** Closes the connection; pending calls reject with ERR_SOCKET_CLOSED. Stored entries remain. */
  close(): void {
    this.#closed = true
    this.#connection?.close()
  }

  /** Closes the connection, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    return inspected('Store', () => ({ address: this.#address, state: this.#closed ? 'closed' : 'open' }), args)
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
        // Only these two errors prove that the store did not execute the request.
        if ((code !== MOVED && code !== 'EPIPE') || moves === MAX_MOVES) {
          if ('name' in request) restoreReason(error, request.name)
          throw error
        }
        connection.retire()
      }
    }
  }

  /** Returns the current connection; connects if there is none. */
  async #connect(signal: AbortSignal | undefined): Promise<StoreConnection> {
    if (this.#closed) throw storeClosed()
    const connection = this.#current
    if (connection !== undefined) return connection
    const socket = await connect(this.#address, { signal })
    if (this.#closed || this.#current !== undefined) {
      socket.close() // another call has connected meanwhile
      return this.#connect(signal)
    }
    return (this.#connection = new StoreConnection(socket))
  }

  get #current(): StoreConnection | undefined {
    return this.#connection?.retired === true ? undefined : this.#connection
  }
}

const isText = (text: unknown) => typeof text === 'string'

/** Returns whether a value is an entry. The store may be another user's. */
function isStoreEntry(value: unknown): value is StoreEntry {
  if (typeof value !== 'object' || value === null) return false
  const { name, kinds, uid, gid, mode, expires } = value as Partial<Record<keyof StoreEntry, unknown>>
  const numbers = [uid, gid, mode, ...(expires === null ? [] : [expires])]
  return (
    isText(name) && Array.isArray(kinds) && kinds.every(isText) && numbers.every((number) => typeof number === 'number')
  )
}

function duplicateAll(sources: readonly FdSource[]): readonly Descriptor[] {
  const count = putFds(sources, 'fds', MAX_ENTRY_FDS)
  if (count === 0) throw invalidValue('fds', 'must contain at least one descriptor')
  return duplicateShared(count).map(wrapFd)
}

/**
 * Connects to a descriptor store: the other end of {@link serveStore}.
 *
 * @param address the store's address
 * @param options `signal`
 * @returns resolves to the client, which the caller owns and closes
 *
 *   Rejects with `ENOENT` or `ECONNREFUSED` if no store listens there; `EACCES`; AbortError; ERR_UNSUPPORTED_PLATFORM
 */
export async function connectStore(address: Address, options?: Abortable): Promise<Store> {
  openReactor()
  addressOf('address', address, 'connect')
  return Store.open(address, signalOf(optionsOf(options)))
}
