import { clearTimeout, setTimeout } from 'node:timers'
import type { Credentials } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { takeFds } from '../descriptor/internal.ts'
import { closeFds } from '../native/internal.ts'
import { storeError } from './errors.ts'
import { type Entry, isAllowed } from './entry.ts'
import type { Settings } from './settings.ts'

/** What is told of an entry to a successor, as JSON; its descriptors go beside it, in order. */
export interface SerializedEntry {
  readonly name: string
  readonly count: number
  readonly uid: number
  readonly gid: number
  readonly mode: number
  /** In how many milliseconds it goes; null for never. */
  readonly expires: number | null
}

/** What is to be kept. */
export type NewEntry = Omit<SerializedEntry, 'count'> & { readonly fds: readonly Descriptor[] }

/** The entries of a store, by name. It owns their descriptors. */
export class Entries {
  readonly #entries = new Map<string, Entry>()
  readonly #limits: Pick<Settings, 'maxFds' | 'maxPerUser'>

  constructor(limits: Pick<Settings, 'maxFds' | 'maxPerUser'>) {
    this.#limits = limits
  }

  /** Those with which somebody may do something. */
  visible(credentials: Credentials, permission: number): Entry[] {
    return [...this.#entries.values()].filter((entry) => isAllowed(entry, credentials, permission))
  }

  /** The entry of a name; throws where there is none, or it is not for whoever asks. */
  find(name: string, credentials: Credentials, permission: number): Entry {
    const entry = this.#entries.get(name)
    if (entry === undefined) throw storeError('ENOENT', 'nothing is kept under the name', name)
    if (!isAllowed(entry, credentials, permission)) throw storeError('EACCES', 'its owner does not allow that', name)
    return entry
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  /** Throws where so many more descriptors of a user, in the place of an entry, would be too many. */
  checkQuota(name: string, count: number, uid: number): void {
    const others = [...this.#entries.values()].filter((entry) => entry.name !== name)
    const sum = (entries: readonly Entry[]) => entries.reduce((total, { fds }) => total + fds.length, count)
    if (sum(others) > this.#limits.maxFds) {
      throw storeError('ENOSPC', `the store keeps at most ${this.#limits.maxFds} descriptors`, name)
    }
    if (uid !== 0 && sum(others.filter((entry) => entry.uid === uid)) > this.#limits.maxPerUser) {
      throw storeError('EDQUOT', `a user may have at most ${this.#limits.maxPerUser} descriptors kept`, name)
    }
  }

  /** Keeps descriptors, in the place of what had the name. */
  put({ name, fds, uid, gid, mode, expires }: NewEntry): void {
    this.delete(name)
    const timer = expires === null ? undefined : setTimeout(() => this.delete(name), expires).unref()
    const deadline = expires === null ? Infinity : performance.now() + expires
    this.#entries.set(name, { name, fds, uid, gid, mode, deadline, timer })
  }

  /** Keeps an entry no more; its descriptors are the caller's. */
  take({ name, fds, timer }: Entry): readonly Descriptor[] {
    clearTimeout(timer)
    this.#entries.delete(name)
    return fds
  }

  /** Keeps what has a name no more, and closes it. */
  delete(name: string): void {
    const entry = this.#entries.get(name)
    if (entry !== undefined) closeFds(takeFds(this.take(entry)))
  }

  /** What a successor is told, and the descriptors, which stay. */
  serialize(): { serialized: SerializedEntry[]; fds: Descriptor[] } {
    const entries = [...this.#entries.values()]
    const serialized = entries.map(({ name, fds, uid, gid, mode, deadline }) => ({
      name,
      count: fds.length,
      uid,
      gid,
      mode,
      expires: expiryOf(deadline)
    }))
    return { serialized, fds: entries.flatMap(({ fds }) => fds) }
  }

  /** Closes all. */
  close(): void {
    for (const name of this.#entries.keys()) this.delete(name)
  }
}

/** In how many milliseconds a deadline is; null for never. */
export function expiryOf(deadline: number): number | null {
  return deadline === Infinity ? null : Math.max(Math.ceil(deadline - performance.now()), 1)
}
