import { resolve } from 'node:path'
import type { Address } from '../address/index.ts'
import { addressOf } from '../address/internal.ts'
import type { Abortable } from '../base/index.ts'
import { integer, invalidReturn, invalidType, invalidValue } from '../base/internal.ts'
import type { Credentials } from '../socket/index.ts'

/** The maximum number of descriptors of a store: as many as one take-over can pass. */
const MAX_FDS = 4000
const DEFAULT_FDS = 1024
const DEFAULT_PER_USER = 256
const OWNER_ONLY = 0o600

/** Options of {@link serveStore}. */
export interface ServeStoreOptions extends Abortable {
  /** The address that clients connect to: a Unix socket. */
  path: Address
  /** The permissions of the file of `path` (default 0o600: this user only). Not for an abstract address. */
  mode?: number | undefined
  /**
   * Accepts or rejects a client (default: accepts every client that the file's permissions admit). The permissions of each
   * entry apply in addition.
   *
   * @param credentials the credentials of the process that made the connection
   */
  allow?: ((credentials: Credentials) => boolean | Promise<boolean>) | undefined
  /** The maximum number of stored descriptors (default 1,024; at most 4,000). */
  maxFds?: number | undefined
  /** The maximum number of stored descriptors of one user (default 256). For root only `maxFds` applies. */
  maxPerUser?: number | undefined
  /**
   * The maximum number of connections (default 1,024, or half of the free descriptor table if that is less). If there are as many, the one
   * that has sent no request for longest is closed in favour of a new one, after a second; otherwise the new one is refused with `EAGAIN`.
   */
  maxConnections?: number | undefined
  /** The same for one user, except root and this process's user (default 128, or an eighth of the free descriptor table). */
  maxConnectionsPerUser?: number | undefined
  /** The address at which predecessor and successor connect (default: `path` followed by `.takeover`). */
  takeover?: Address | undefined
}

/** The validated options. */
export interface Settings {
  readonly path: Address
  readonly mode: number | undefined
  readonly allow: (credentials: Credentials) => Promise<boolean>
  readonly maxFds: number
  readonly maxPerUser: number
  readonly takeover: Address
}

/** Validates the options of `serveStore`. */
export function settingsOf(options: ServeStoreOptions): Settings {
  const { path, mode, allow = () => true, maxFds = DEFAULT_FDS, maxPerUser = DEFAULT_PER_USER } = options
  addressOf('options.path', path, 'bind')
  const { takeover = `${path}.takeover` } = options
  addressOf('options.takeover', takeover, 'bind')
  if (takeover === path) throw invalidValue('options.takeover', "must differ from the store's own address")
  if (typeof allow !== 'function') throw invalidType('options.allow', 'of type function', allow)
  const isAbstract = path.startsWith('\0')
  if (isAbstract && mode !== undefined) throw invalidValue('options.mode', 'is for a path: this socket has no file')
  return {
    path: isAbstract ? path : resolve(path),
    mode: isAbstract ? undefined : integer('options.mode', mode ?? OWNER_ONLY, 0, 0o777),
    async allow(credentials) {
      const allowed: unknown = await allow(credentials)
      if (typeof allowed === 'boolean') return allowed
      throw invalidReturn('options.allow', 'a boolean', allowed)
    },
    maxFds: integer('options.maxFds', maxFds, 1, MAX_FDS),
    maxPerUser: integer('options.maxPerUser', maxPerUser, 1, MAX_FDS),
    takeover
  }
}
