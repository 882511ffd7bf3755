import { clearTimeout, setTimeout } from 'node:timers'
import type { Credentials } from '../socket/index.ts'
import { isInGroup, isUser } from '../socket/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { borrow, takeFds } from '../descriptor/internal.ts'
import { closeFds, native } from '../native/internal.ts'
import { storeError } from './protocol.ts'
import type { Settings } from './settings.ts'

/** The permission to get an entry: a bit of a file mode's digit. */
export const READ = 4
/** The permission to replace or delete an entry. */
export const WRITE = 2

/** Descriptors that are stored under a name. */
export interface Entry {
  readonly name: string
  readonly fds: readonly Descriptor[]
  readonly uid: number
  readonly gid: number
  readonly mode: number
  /** When the entry expires, on the clock of `performance.now()`; Infinity for never. */
  readonly deadline: number
  readonly timer: NodeJS.Timeout | undefined
}

/** Whether an entry's mode grants a permission to a client. Root has every permission, as for files. */
function isAllowed({ uid, gid, mode }: Entry, credentials: Credentials, permission: number): boolean {
  if (isUser(credentials, 0)) return true
  if (isUser(credentials, uid)) return (mode & (permission << 6)) !== 0
  if (isInGroup(credentials, gid)) return (mode & (permission << 3)) !== 0
  return (mode & permission) !== 0
}

/** An entry as the successor receives it, in JSON. Its descriptors accompany it, in order. */
export interface SerializedEntry {
  readonly name: string
  readonly count: number
  readonly uid: number
  readonly gid: number
  readonly mode: number
  /** The time until it expires, in milliseconds; null for never. */
  readonly expires: number | null
}

/** An entry to be stored. */
export type NewEntry = Omit<SerializedEntry, 'count'> & { readonly fds: readonly Descriptor[] }

/** The entries of a store, by name. It owns their descriptors. */
export class Entries {
  readonly #entries = new Map<string, Entry>()
  readonly #limits: Pick<Settings, 'maxFds' | 'maxPerUser'>

  constructor(limits: Pick<Settings, 'maxFds' | 'maxPerUser'>) {
    this.#limits = limits
  }

  /** Returns the entries on which a client has any of the permissions. */
  visible(credentials: Credentials, permission: number): Entry[] {
    return [...this.#entries.values()].filter((entry) => isAllowed(entry, credentials, permission))
  }

  /** Returns an entry; throws `ENOENT` if there is none, and `EACCES` if the client lacks the permission. */
  find(name: string, credentials: Credentials, permission: number): Entry {
    const entry = this.#entries.get(name)
    if (entry === undefined) throw storeError('ENOENT', 'there is no entry of this name', name)
    if (!isAllowed(entry, credentials, permission))
      throw storeError('EACCES', 'the permissions of the entry deny this', name)
    return entry
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  /** Throws `ENOSPC` or `EDQUOT` if storing `count` descriptors of a user under a name would exceed a limit. */
  checkQuota(name: string, count: number, uid: number): void {
    const others = [...this.#entries.values()].filter((entry) => entry.name !== name)
    const sum = (entries: readonly Entry[]) => entries.reduce((total, { fds }) => total + fds.length, count)
    if (sum(others) > this.#limits.maxFds) {
      throw storeError('ENOSPC', `the store keeps at most ${this.#limits.maxFds} descriptors`, name)
    }
    if (uid !== 0 && sum(others.filter((entry) => entry.uid === uid)) > this.#limits.maxPerUser) {
      throw storeError('EDQUOT', `the store keeps at most ${this.#limits.maxPerUser} descriptors for one user`, name)
    }
  }

  /** Stores an entry. Closes the descriptors of an entry that had the name. */
  put({ name, fds, uid, gid, mode, expires }: NewEntry): void {
    this.delete(name)
    // The predecessor has sent the entries that it had.
    for (const fd of fds) native.setSender(fd[borrow](), uid)
    const timer = expires === null ? undefined : setTimeout(() => this.delete(name), expires).unref()
    const deadline = expires === null ? Infinity : performance.now() + expires
    this.#entries.set(name, { name, fds, uid, gid, mode, deadline, timer })
  }

  /** Removes an entry; the caller owns its descriptors. */
  take({ name, fds, timer }: Entry): readonly Descriptor[] {
    clearTimeout(timer)
    this.#entries.delete(name)
    return fds
  }

  /** Removes the entry of a name and closes its descriptors. */
  delete(name: string): void {
    const entry = this.#entries.get(name)
    if (entry !== undefined) closeFds(takeFds(this.take(entry)))
  }

  /** Returns all entries for a successor, and their descriptors, which the store still owns. */
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

  /** Removes all entries and closes their descriptors. */
  close(): void {
    for (const name of this.#entries.keys()) this.delete(name)
  }
}

/** Returns the time until a deadline in milliseconds, at least 1; null for never. */
export function expiryOf(deadline: number): number | null {
  return deadline === Infinity ? null : Math.max(Math.ceil(deadline - performance.now()), 1)
}
