import { setTimeout as sleep } from 'node:timers/promises'
import type { Address } from '../address/index.ts'
import { MAX_INT, integer, optionsOf, isDescriptorName, invalidType, protocolError } from '../base/internal.ts'
import { Channel, type ChannelReply, type ChannelRequest } from '../channel/index.ts'
import type { Credentials, UnixServer, UnixSocket } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { notAllowed, serveConnections } from '../socket/internal.ts'
import { borrow } from '../descriptor/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { storeError } from './errors.ts'
import { type Takeover, takeover } from '../takeover/index.ts'
import { type NewEntry, Entries, type SerializedEntry, expiryOf } from './entries.ts'
import { WRITE, READ } from './entry.ts'
import { MAX_BYTES, MAX_ENTRY_FDS, MOVED, type StoreRequest } from './protocol.ts'
import { type ServeStoreOptions, type Settings, settingsOf } from './settings.ts'
import type { StoreEntry } from './store.ts'

/** The most requests of one client that are handled at a time; further ones wait in its socket. */
const MAX_PENDING_REQUESTS = 16

/** How long clients have to go to a successor by themselves, in milliseconds. */
const MIGRATION_TIMEOUT_MS = 1000

/** What {@link serveStore} does, until it is closed, or a successor serves. */
export class StoreService implements Disposable {
  /** Resolves when a successor has everything, and all clients have gone there. */
  readonly superseded: Promise<void>
  readonly #settings: Settings
  readonly #takeover: Takeover
  readonly #listener: UnixServer
  readonly #entries: Entries
  readonly #channels = new Set<Channel>()
  #closed = false
  #moved = false
  /** Settles when it is known whether the successor that is starting serves; nothing is changed until then. */
  #frozen: Promise<void> | undefined

  /** @internal */
  constructor(settings: Settings, place: Takeover, entries: Entries, onState: (freeze: Freeze) => void) {
    this.#settings = settings
    this.#takeover = place
    this.#entries = entries
    this.#listener = place.listeners.store!.toUnixServer()
    onState((signal) => this.#freeze(signal))
    this.superseded = place.superseded.then(() => this.#move())
    void serveConnections('store', this.#listener, (socket) => this.#serve(socket))
  }

  /** Where clients find it. */
  get address(): Address {
    return this.#listener.address
  }

  /** Whether it was closed, or a successor serves. */
  get closed(): boolean {
    return this.#closed
  }

  /** Stop: close the listener, the connections, and everything that is kept. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#takeover.close()
    this.#listener.close()
    for (const channel of this.#channels) channel.close()
    this.#entries.close()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** What a successor gets; until it serves, or has failed, nothing is changed. */
  #freeze(signal: AbortSignal): { data: string; fds: readonly number[] } {
    this.#frozen = new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(), { once: true })
      void this.#takeover.superseded.then(() => resolve())
    })
    const { serialized, fds } = this.#entries.serialize()
    // By their numbers: a Descriptor would be given away.
    return { data: JSON.stringify(serialized), fds: fds.map((fd) => fd[borrow]()) }
  }

  /** Sends the clients to the successor. */
  async #move(): Promise<void> {
    this.#moved = true
    const gone = [...this.#channels].map(async (channel) => {
      channel.send({ moved: true }).catch(() => {}) // it has gone already
      await channel.closed
    })
    this.#listener.close()
    await Promise.race([Promise.all(gone), sleep(MIGRATION_TIMEOUT_MS)])
    this.close()
  }

  async #serve(socket: UnixSocket): Promise<void> {
    let channel: Channel
    let answer: (request: ChannelRequest) => Promise<ChannelReply | void>
    try {
      const credentials = socket.peer()
      const allowed = this.#settings.allow(credentials)
      answer = async (request) => {
        if (!(await allowed)) throw notAllowed(this.#settings.path, credentials.uid)
        return this.#answer(request, credentials)
      }
      const limits = { maxBytes: MAX_BYTES, maxFds: MAX_ENTRY_FDS, maxPending: MAX_PENDING_REQUESTS }
      channel = new Channel(socket, limits).unref()
      allowed.catch(() => {}) // told with each answer
    } catch {
      socket.close() // it has gone already
      return
    }
    this.#channels.add(channel)
    channel.onRequest(async (request) => {
      try {
        return await answer(request)
      } catch (error) {
        request.close()
        throw error
      }
    })
    await channel.closed
    this.#channels.delete(channel)
    channel.close()
  }

  async #answer(incoming: ChannelRequest, credentials: Credentials): Promise<ChannelReply | void> {
    const request = incoming.value as StoreRequest
    if (typeof request !== 'object' || request === null) throw protocolError('a client asked for something unknown')
    if (request.ask !== 'put') incoming.close()
    if (request.ask === 'list') return { value: this.#list(credentials) }
    if (!isDescriptorName(request.name)) throw protocolError('a client gave no name, or none that could be one')
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
        throw protocolError('a client asked for something unknown')
    }
  }

  #put(request: StoreRequest & { ask: 'put' }, fds: readonly Descriptor[], credentials: Credentials): void {
    const entry = newEntryOf(request, fds, credentials)
    const { name } = request
    if (this.#entries.has(name)) {
      if (!request.replace) throw storeError('EEXIST', 'something is kept under the name', name)
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
    return { fds: entry.fds.map((fd) => fd[borrow]()) } // by number: a Descriptor would be given away
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

/** Gives a successor what it is told, and holds changes back. */
type Freeze = (signal: AbortSignal) => { data: string; fds: readonly number[] }

/** What a client wants to be kept, checked. */
function newEntryOf(
  request: StoreRequest & { ask: 'put' },
  fds: readonly Descriptor[],
  credentials: Credentials
): NewEntry {
  const { name, expires, mode, group } = request
  if (fds.length === 0) throw protocolError('a client put no descriptors')
  if (expires !== null) integer('expires', expires, 1, MAX_INT)
  if (group !== null) integer('group', group, 0, 0xffff_fffe)
  const gid = group ?? credentials.gid
  if (credentials.uid !== 0 && gid !== credentials.gid && credentials.groups?.includes(gid) !== true) {
    throw storeError('EPERM', `its group can only be one of yours, not ${gid}`, name)
  }
  return { name, fds, uid: credentials.uid, gid, mode: integer('mode', mode, 0, 0o777), expires }
}

/**
 * Keep descriptors for other processes, by name, for as long as this one runs: as systemd's file descriptor store does, for machines and
 * services without it.
 *
 * Where a store serves at the same `takeover` address already, this one takes its place, with everything that it keeps; its clients
 * notice nothing.
 *
 * Who asks is told by the kernel: the credentials of who made the connection. An entry belongs to who has put it, and has
 * permissions as a file has: to read is to get it, to write is to replace or delete it. Nobody can get at an entry of a user by taking its
 * name.
 *
 * While it can accept nothing, for want of a descriptor for one, clients wait in its backlog, and a process warning tells of it, once.
 *
 * @param options `path`, `mode`, `allow`, `maxFds`, `maxPerUser`, `takeover`, `signal`
 * @returns resolves to what ends it, when it serves. It keeps the process alive
 *
 *   Rejects with `EADDRINUSE`, `EACCES`, … of the addresses; as {@link takeover} rejects; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE,
 *   ERR_OUT_OF_RANGE; AbortError
 */
export async function serveStore(options: ServeStoreOptions): Promise<StoreService> {
  openReactor()
  const given = optionsOf(options)
  if (given === undefined) throw invalidType('options', 'of type object', options)
  const settings = settingsOf(given)
  let freeze!: Freeze
  const place = await takeover({
    path: settings.takeover,
    listen: { store: { path: settings.path, mode: settings.mode } },
    state: (signal) => freeze(signal),
    signal: given.signal
  })
  const entries = new Entries(settings)
  try {
    fill(entries, place)
    await place.ready()
    return new StoreService(settings, place, entries, (by) => (freeze = by))
  } catch (error) {
    entries.close()
    for (const fd of [...(place.predecessor?.fds ?? []), place.listeners.store!]) fd.closeSync()
    place.close()
    throw error
  }
}

/** Keeps what a predecessor has kept. */
function fill(entries: Entries, { predecessor }: Takeover): void {
  if (predecessor === null) return
  const serialized = JSON.parse(Buffer.from(predecessor.state).toString()) as SerializedEntry[]
  let from = 0
  for (const { count, ...entry } of serialized) {
    entries.put({ ...entry, fds: predecessor.fds.slice(from, from + count) })
    from += count
  }
}
