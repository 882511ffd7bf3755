import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import type { Address } from '../address/index.ts'
import {
  Places,
  type InspectionArguments,
  inspected,
  inspection,
  stateOf,
  uncloneable,
  MAX_INT,
  integer,
  optionsOf,
  isDescriptorName,
  invalidType,
  protocolError
} from '../base/internal.ts'
import { Channel, type ChannelReply, type ChannelRequest } from '../channel/index.ts'
import type { Credentials, UnixServer, UnixSocket } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { refuse } from '../channel/internal.ts'
import {
  type ServiceConnection,
  ServiceConnections,
  clientDenied,
  isInGroup,
  isUser,
  serveConnections,
  tooManyConnections,
  warnOfService
} from '../socket/internal.ts'
import { borrow } from '../descriptor/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { native } from '../native/internal.ts'
import { storeError, MAX_BYTES, MAX_ENTRY_FDS, MOVED, type StoreRequest } from './protocol.ts'
import { type Takeover, takeover } from '../takeover/index.ts'
import { type NewEntry, Entries, type SerializedEntry, expiryOf, WRITE, READ } from './entries.ts'
import { type ServeStoreOptions, type Settings, settingsOf } from './settings.ts'
import type { StoreEntry } from './store.ts'

/** The maximum number of requests of one client that are handled concurrently. Further requests stay in its socket. */
const MAX_PENDING_REQUESTS = 16

const LIMITS = {
  maxBytes: MAX_BYTES,
  maxFds: MAX_ENTRY_FDS,
  messages: false,
  maxPending: MAX_PENDING_REQUESTS
} as const

/**
 * The time that clients have to move to a successor, in milliseconds. They cannot send requests afterwards, and have the same time again to read
 * the answers before their connections are closed.
 */
const MIGRATION_TIMEOUT_MS = 1000

/** A running store: the result of {@link serveStore}. */
export class StoreService implements Disposable {
  /** Resolves when a successor has all entries and the clients have moved to it. The service is closed then. */
  readonly superseded: Promise<void>
  /** @internal */
  protected readonly uncloneable = uncloneable
  readonly #settings: Settings
  readonly #takeover: Takeover
  readonly #listener: UnixServer
  readonly #entries: Entries
  readonly #channels = new Places<Channel>()
  readonly #connections: ServiceConnections
  /** The number of connections that are being served, also before they are channels. */
  #serving = 0
  /** Called when there are none. */
  #onIdle: (() => void) | undefined
  #closed = false
  #moved = false
  /** Resolves when a starting successor serves or has failed. Changes of entries wait for it. */
  #frozen: Promise<void> | undefined

  /** @internal */
  constructor(
    settings: Settings,
    place: Takeover,
    entries: Entries,
    connections: ServiceConnections,
    onState: (freeze: Freeze) => void
  ) {
    this.#settings = settings
    this.#connections = connections
    this.#takeover = place
    this.#entries = entries
    this.#listener = place.listeners.store!.toUnixServer()
    onState((signal) => this.#freeze(signal))
    this.superseded = place.superseded.then(() => this.#move())
    void serveConnections('store', this.#listener, (socket) => this.#serve(socket))
  }

  /** The address that clients connect to. */
  get address(): Address {
    return this.#listener.address
  }

  /** Whether the service was closed, or has moved to a successor. */
  get closed(): boolean {
    return this.#closed
  }

  /** Closes the listener, the connections and all stored descriptors. Does nothing if already closed. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#takeover.close()
    this.#listener.close()
    for (const channel of this.#channels) channel.close()
    this.#entries.close()
  }

  /** Closes the service, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    return inspected('StoreService', () => ({ address: this.address, state: stateOf(this) }), args)
  }

  /** Returns the state for a successor, and holds changes back until the successor serves or has failed. */
  #freeze(signal: AbortSignal): { data: string; fds: readonly number[] } {
    this.#frozen = new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(), { once: true })
      void this.#takeover.superseded.then(() => resolve())
    })
    const { serialized, fds } = this.#entries.serialize()
    // As numbers: sending a Descriptor would transfer it.
    return { data: JSON.stringify(serialized), fds: fds.map((fd) => fd[borrow]()) }
  }

  /** Moves the clients to the successor, then closes the service. */
  async #move(): Promise<void> {
    this.#moved = true
    for (const channel of this.#channels) reportMove(channel)
    this.#listener.close()
    await turn() // an accept that has resolved is served
    const idle = new Promise<void>((resolve) => (this.#onIdle = resolve))
    if (this.#serving === 0) return this.close()
    await Promise.race([idle, sleep(MIGRATION_TIMEOUT_MS)])
    // Later requests fail with EPIPE, upon which clients connect again. Those that the socket holds are answered.
    for (const { socket } of this.#channels) if (!socket.closed) native.shutdown(socket.fd, 'read')
    await Promise.race([idle, sleep(MIGRATION_TIMEOUT_MS)])
    this.close()
  }

  async #serve(socket: UnixSocket): Promise<void> {
    this.#serving++
    try {
      const credentials = socket.peer()
      const connection = this.#connections.admit(credentials, () => socket.close())
      if (connection === undefined) return refuse(socket, tooManyConnections())
      try {
        await this.#serveClient(socket, credentials, connection)
      } finally {
        this.#connections.remove(connection)
      }
    } catch {
      socket.close() // the client has already disconnected
    } finally {
      this.#serving--
      if (this.#serving === 0) this.#onIdle?.()
    }
  }

  async #serveClient(socket: UnixSocket, credentials: Credentials, connection: ServiceConnection): Promise<void> {
    let channel: Channel
    try {
      const isAllowed = await this.#isAllowed(credentials)
      if (!isAllowed) refuse(socket, clientDenied(this.#settings.path, credentials))
      if (this.#closed) socket.close() // while `allow` decided
      if (socket.closed) return
      channel = new Channel(socket, LIMITS).unref()
    } catch {
      socket.close() // the client has already disconnected
      return
    }
    const place = this.#channels.add(channel)
    if (this.#moved) reportMove(channel) // while `allow` decided
    channel.onRequest(async (request) => {
      try {
        await this.#connections.noteRequest(connection, request.signal)
        return await this.#reply(request, credentials)
      } catch (error) {
        request.close()
        throw answerOf(error)
      }
    })
    await channel.closed
    this.#channels.remove(channel, place)
    channel.close()
  }

  /** Returns whether `allow` accepts a client. What it throws is a warning here, and not sent to the client. */
  async #isAllowed(credentials: Credentials): Promise<boolean> {
    try {
      return await this.#settings.allow(credentials)
    } catch (error) {
      warnOfService('store', error)
      return false
    }
  }

  async #reply(incoming: ChannelRequest, credentials: Credentials): Promise<ChannelReply | void> {
    const request = incoming.value as StoreRequest
    if (typeof request !== 'object' || request === null) throw protocolError('a client sent an unknown request')
    if (request.ask !== 'put') incoming.close()
    if (request.ask === 'list') return { value: this.#list(credentials) }
    if (!isDescriptorName(request.name)) throw protocolError('a client sent no valid name')
    if (request.ask !== 'get' || request.remove) await this.#frozen
    if (this.#moved || this.#closed) throw Object.assign(new Error('The store has moved'), { code: MOVED })
    switch (request.ask) {
      case 'put':
        return this.#put(request, incoming.fds, credentials)
      case 'get':
        return this.#get(request, credentials)
      case 'delete':
        this.#entries.find(request.name, credentials, WRITE)
        return this.#entries.delete(request.name)
      default:
        throw protocolError('a client sent an unknown request')
    }
  }

  #put(request: StoreRequest & { ask: 'put' }, fds: readonly Descriptor[], credentials: Credentials): void {
    const entry = newEntryOf(request, fds, credentials)
    const { name } = request
    if (this.#entries.has(name)) {
      if (!request.replace) throw storeError('EEXIST', 'an entry of this name exists', name)
      this.#entries.find(name, credentials, WRITE)
    }
    this.#entries.checkQuota(name, fds.length, credentials.uid)
    this.#entries.put(entry)
  }

  #get({ name, remove }: StoreRequest & { ask: 'get' }, credentials: Credentials): ChannelReply {
    const entry = this.#entries.find(name, credentials, READ)
    if (remove) {
      this.#entries.find(name, credentials, WRITE)
      return { fds: this.#entries.take(entry) }
    }
    return { fds: entry.fds.map((fd) => fd[borrow]()) } // as numbers: sending a Descriptor would transfer it
  }

  #list(credentials: Credentials): StoreEntry[] {
    return this.#entries.visible(credentials, READ | WRITE).map(({ name, fds, uid, gid, mode, deadline }) => ({
      name,
      uid,
      gid,
      mode,
      kinds: fds.map((fd) => fd.kind),
      expires: expiryOf(deadline)
    }))
  }
}

/** Has a client connect to the successor, after the answers that it still waits for. */
function reportMove(channel: Channel): void {
  channel.send({ moved: true }).catch(() => {}) // the client has already disconnected
}

/** Returns what a client gets of an error: a refusal as it is, and nothing of a failure, which is a warning here. */
function answerOf(error: unknown): unknown {
  if (typeof (error as NodeJS.ErrnoException).code === 'string') return error
  warnOfService('store', error)
  return Object.assign(new Error('The store has failed'), { code: 'EIO' })
}

/** Returns the state for a successor, and holds changes back until `signal` aborts or the successor serves. */
type Freeze = (signal: AbortSignal) => { data: string; fds: readonly number[] }

/** Validates a `put` request and returns its entry. */
function newEntryOf(
  request: StoreRequest & { ask: 'put' },
  fds: readonly Descriptor[],
  credentials: Credentials
): NewEntry {
  const { name, expires, mode, group } = request
  if (fds.length === 0) throw protocolError('a client sent a put request without descriptors')
  if (expires !== null) integer('expires', expires, 1, MAX_INT)
  if (group !== null) integer('group', group, 0, 0xffff_fffe)
  if (credentials.unknownUid === true) {
    throw storeError('EPERM', 'your user is outside of the user namespace of the store, so it can own no entry', name)
  }
  const gid = group ?? credentials.gid
  if (group !== null && !isUser(credentials, 0) && !isInGroup(credentials, gid)) {
    throw storeError('EPERM', `its group can only be one of yours, not ${gid}`, name)
  }
  return { name, fds, uid: credentials.uid, gid, mode: integer('mode', mode, 0, 0o777), expires }
}

/**
 * Serves a descriptor store: it keeps descriptors for other processes, by name, as systemd's file descriptor store does.
 *
 * If a store already serves at the same `takeover` address, the new one takes over its listener and all its entries. Clients
 * do not notice.
 *
 * The kernel reports the credentials of the process that made each connection. An entry belongs to the user that put it and
 * has the permissions of a file: read permission allows getting it, write permission replacing or deleting it. Another user
 * cannot replace an entry in order to reuse its name.
 *
 * While no descriptor is free to accept a connection, clients wait in the backlog, and one process warning reports it.
 *
 * @param options `path`, `mode`, `allow`, `maxFds`, `maxPerUser`, `maxConnections`, `maxConnectionsPerUser`, `takeover`, `signal`
 * @returns resolves to the service when it accepts connections. The service keeps the process alive
 *
 *   Rejects with `EADDRINUSE`, `EACCES` and others as bind(2); as `takeover` of fdpass/takeover; ERR_INVALID_ARG_TYPE;
 *   ERR_INVALID_ARG_VALUE; ERR_OUT_OF_RANGE; AbortError
 *
 * @example
 * ```js
 * import { memfd } from 'fdpass'
 * import { connectStore, serveStore } from 'fdpass/store'
 *
 * const service = await serveStore({ path: './example.store' }) // usually in a process of its own
 * const store = await connectStore('./example.store')
 * const memory = memfd({ data: 'kept' })
 * await store.put('memory', memory)
 * memory.closeSync()
 * const [fd] = await store.get('memory')
 * console.log(await fd.text()) // kept
 * fd.closeSync()
 * store.close()
 * await service.close()
 * ```
 */
export async function serveStore(options: ServeStoreOptions): Promise<StoreService> {
  openReactor()
  const given = optionsOf(options)
  if (given === undefined) throw invalidType('options', 'of type object', options)
  const settings = settingsOf(given)
  const connections = new ServiceConnections(given)
  let freeze!: Freeze
  const place = await takeover({
    path: settings.takeover,
    service: 'fdpass/store',
    listen: { store: { path: settings.path, mode: settings.mode } },
    state: (signal) => freeze(signal),
    signal: given.signal
  })
  const entries = new Entries(settings)
  try {
    restore(entries, place)
    await place.ready()
    return new StoreService(settings, place, entries, connections, (by) => (freeze = by))
  } catch (error) {
    entries.close()
    for (const fd of [...(place.predecessor?.fds ?? []), place.listeners.store!]) fd.closeSync()
    place.close()
    throw error
  }
}

/** Adds the predecessor's entries. */
function restore(entries: Entries, { predecessor }: Takeover): void {
  if (predecessor === null) return
  const serialized = JSON.parse(Buffer.from(predecessor.state).toString()) as SerializedEntry[]
  let from = 0
  for (const { count, ...entry } of serialized) {
    entries.put({ ...entry, fds: predecessor.fds.slice(from, from + count) })
    from += count
  }
}
