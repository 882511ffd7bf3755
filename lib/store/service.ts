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
import { type Deposit, Entries, type Told, expiryOf } from './entries.ts'
import { CHANGE, GET } from './entry.ts'
import { MAX_BYTES, MAX_ENTRY_FDS, MOVED, type Wish } from './protocol.ts'
import { type ServeStoreOptions, type Settings, settingsOf } from './settings.ts'
import type { StoreEntry } from './store.ts'

/** The most requests of one client that are handled at a time; further ones wait in its socket. */
const MOST_REQUESTS = 16

/** How long clients have to go to a successor by themselves, in milliseconds. */
const PATIENCE = 1000

/** What {@link serveStore} does, until it is closed, or a successor serves. */
export class StoreService implements Disposable {
  /** Resolves when a successor has everything, and all clients have gone there. */
  readonly superseded: Promise<void>
  readonly #settings: Settings
  readonly #place: Takeover
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
    this.#place = place
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
    this.#place.close()
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
      void this.#place.superseded.then(() => resolve())
    })
    const { told, fds } = this.#entries.tell()
    // By their numbers: a Descriptor would be given away.
    return { data: JSON.stringify(told), fds: fds.map((fd) => fd[borrow]()) }
  }

  /** Sends the clients to the successor. */
  async #move(): Promise<void> {
    this.#moved = true
    const gone = [...this.#channels].map(async (channel) => {
      channel.send({ moved: true }).catch(() => {}) // it has gone already
      await channel.closed
    })
    this.#listener.close()
    await Promise.race([Promise.all(gone), sleep(PATIENCE)])
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
      const limits = { maxBytes: MAX_BYTES, maxFds: MAX_ENTRY_FDS, maxPending: MOST_REQUESTS }
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

  async #answer(request: ChannelRequest, who: Credentials): Promise<ChannelReply | void> {
    const wish = request.value as Wish
    if (typeof wish !== 'object' || wish === null) throw protocolError('a client asked for something unknown')
    if (wish.ask !== 'put') request.close()
    if (wish.ask === 'list') return { value: this.#list(who) }
    if (!isDescriptorName(wish.name)) throw protocolError('a client gave no name, or none that could be one')
    if (wish.ask !== 'get' || wish.remove) await this.#frozen
    if (this.#moved || this.#closed) throw Object.assign(new Error('The store has moved'), { code: MOVED })
    switch (wish.ask) {
      case 'put':
        return this.#put(wish, request.fds, who)
      case 'get':
        return this.#get(wish, who)
      case 'delete':
        this.#entries.find(wish.name, who, CHANGE)
        return this.#entries.delete(wish.name)
      default:
        throw protocolError('a client asked for something unknown')
    }
  }

  #put(wish: Wish & { ask: 'put' }, fds: readonly Descriptor[], who: Credentials): void {
    const deposit = depositOf(wish, fds, who)
    const { name } = wish
    if (this.#entries.has(name)) {
      if (!wish.replace) throw storeError('EEXIST', 'something is kept under the name', name)
      this.#entries.find(name, who, CHANGE)
    }
    this.#entries.checkRoom(name, fds.length, who.uid)
    this.#entries.put(deposit)
  }

  #get({ name, remove }: Wish & { ask: 'get' }, who: Credentials): ChannelReply {
    const entry = this.#entries.find(name, who, GET)
    if (remove) {
      this.#entries.find(name, who, CHANGE)
      return { fds: this.#entries.take(entry) }
    }
    return { fds: entry.fds.map((fd) => fd[borrow]()) } // by number: a Descriptor would be given away
  }

  #list(who: Credentials): StoreEntry[] {
    return this.#entries.visible(who, GET | CHANGE).map(({ name, fds, uid, gid, mode, deadline }) => ({
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
function depositOf(wish: Wish & { ask: 'put' }, fds: readonly Descriptor[], who: Credentials): Deposit {
  const { name, expires, mode, group } = wish
  if (fds.length === 0) throw protocolError('a client put no descriptors')
  if (expires !== null) integer('expires', expires, 1, MAX_INT)
  if (group !== null) integer('group', group, 0, 0xffff_fffe)
  const gid = group ?? who.gid
  if (who.uid !== 0 && gid !== who.gid && who.groups?.includes(gid) !== true) {
    throw storeError('EPERM', `its group can only be one of yours, not ${gid}`, name)
  }
  return { name, fds, uid: who.uid, gid, mode: integer('mode', mode, 0, 0o777), expires }
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
  const told = JSON.parse(Buffer.from(predecessor.state).toString()) as Told[]
  let from = 0
  for (const { count, ...entry } of told) {
    entries.put({ ...entry, fds: predecessor.fds.slice(from, from + count) })
    from += count
  }
}
