import { resolve } from 'node:path'
import type { Address } from '../address/index.ts'
import { addressOf } from '../address/internal.ts'
import type { Abortable, Bytes } from '../base/index.ts'
import { boolean, MAX_INT, integer, invalidReturn, invalidType, invalidValue } from '../base/internal.ts'
import type { TcpListenerOptions, UnixListenerOptions, Credentials } from '../socket/index.ts'
import type { FdSource } from '../descriptor/index.ts'
import { type ListenSource, type Source, listenerSourceOf } from '../socket/internal.ts'

/** What a process leaves to its successor beside its listeners. */
export interface TakeoverState {
  /** Bytes that the successor understands (default: none). */
  data?: Bytes | undefined
  /** Descriptors, at most 4,048. Those that are a `Descriptor` are given away: they are closed here. */
  fds?: readonly FdSource[] | undefined
}

/** Options of {@link takeover}. */
export interface TakeoverOptions extends Abortable {
  /** Where this process meets its predecessor, and its successor: the address of a Unix domain socket of its own. */
  path: Address
  /**
   * What is listened on, by names of your own: what the predecessor has open, and is the same, comes from there; the rest is opened.
   * Beside {@link ListenSource}, what `bindListener` takes: `{ port, host }` or `{ path, mode }`, with `backlog` (default 4,096 here: connections
   * wait while the listeners change hands; the kernel cuts it to its own limit).
   */
  listen?: Readonly<Record<string, ListenSource | TcpListenerOptions | UnixListenerOptions>> | undefined
  /** The permissions of the file of `path` (default 0o600). */
  mode?: number | undefined
  /**
   * Decides about the process at the other end of `path`: a successor, given who has connected, or a predecessor, given who
   * has opened `path` first (default: this process's user, and root).
   *
   * @param credentials of that process, as the kernel tells
   */
  allow?: ((credentials: Credentials) => boolean | Promise<boolean>) | undefined
  /**
   * Gives what a successor gets beside the listeners, while this process still serves.
   *
   * @param signal aborted if that successor does not become ready: what was held back for it goes on
   */
  state?: ((signal: AbortSignal) => Bytes | TakeoverState | Promise<Bytes | TakeoverState>) | undefined
  /** Whether live connections of the predecessor are wanted: {@link Predecessor.connections} (default false). */
  connections?: boolean | undefined
  /**
   * How long to wait for a predecessor, which may be busy with another successor, and how long a successor may take until it
   * is ready, in milliseconds (default 60,000).
   */
  timeout?: number | undefined
}

/** The options, checked. */
export interface Settings {
  readonly path: Address
  readonly sources: ReadonlyMap<string, Source>
  readonly mode: number | undefined
  readonly allow: (credentials: Credentials) => Promise<boolean>
  readonly state: TakeoverOptions['state']
  readonly connections: boolean
  readonly timeout: number
}

const DEFAULT_TIMEOUT = 60_000
const OWNER_ONLY = 0o600

/** Checks the options of `takeover`. */
export function settingsOf(options: TakeoverOptions): Settings {
  const { path, listen = {}, mode = OWNER_ONLY, allow = isTrusted, state, connections = false } = options
  const { timeout = DEFAULT_TIMEOUT } = options
  addressOf('options.path', path, 'bind')
  if (typeof listen !== 'object' || listen === null) throw invalidType('options.listen', 'of type object', listen)
  if (typeof allow !== 'function') throw invalidType('options.allow', 'of type function', allow)
  if (state !== undefined && typeof state !== 'function') throw invalidType('options.state', 'of type function', state)
  boolean('options.connections', connections)
  const isAbstract = path.startsWith('\0')
  return {
    path: isAbstract ? path : resolve(path), // this process and its successor may change their directories
    sources: sourcesOf(listen),
    mode: isAbstract ? undefined : integer('options.mode', mode, 0, 0o777),
    async allow(credentials) {
      const allowed: unknown = await allow(credentials)
      if (typeof allowed === 'boolean') return allowed
      throw invalidReturn('options.allow', 'a boolean', allowed)
    },
    state,
    connections,
    timeout: integer('options.timeout', timeout, 1, MAX_INT)
  }
}

function sourcesOf(listen: object): ReadonlyMap<string, Source> {
  const sources = new Map<string, Source>()
  const names = new Map<string, string>()
  for (const [name, value] of Object.entries(listen)) {
    const source = listenerSourceOf(`options.listen.${name}`, value)
    const isFree = 'port' in source && source.port === 0 // each is another port
    const other = isFree ? undefined : names.get(source.name)
    if (other !== undefined) throw invalidValue(`options.listen.${name}`, `is the same as '${other}': '${source.name}'`)
    names.set(source.name, name)
    sources.set(name, source)
  }
  return sources
}

function isTrusted({ uid }: Credentials): boolean {
  return uid === 0 || uid === process.geteuid!()
}
