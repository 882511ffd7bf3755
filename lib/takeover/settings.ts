import { resolve } from 'node:path'
import type { Address, SocketFileOptions } from '../address/index.ts'
import { addressOf } from '../address/internal.ts'
import type { Abortable, Bytes } from '../base/index.ts'
import { boolean, MAX_INT, integer, invalidReturn, invalidType, invalidValue } from '../base/internal.ts'
import type { TcpListenerOptions, UnixListenerOptions, Credentials } from '../socket/index.ts'
import type { FdSource } from '../descriptor/index.ts'
import { type ListenSource, type Source, isUser, listenerSourceOf } from '../socket/internal.ts'

/** The state that a process passes to its successor beside the listeners. */
export interface TakeoverState {
  /** Bytes for the successor (default: none). */
  data?: Bytes | undefined
  /** Descriptors, at most 4,048. Each `Descriptor` among them is closed here after it was sent; numbers stay the caller's. */
  fds?: readonly FdSource[] | undefined
}

/** A {@link ListenSource} with the options of its listener, which sockets that are open already ignore. */
export interface SourceOptions extends SocketFileOptions {
  /** The socket to listen on. */
  source: ListenSource
  /** The maximum number of connections that wait to be accepted. Datagram sockets ignore it. */
  backlog?: number | undefined
  /** Not with a source. */
  path?: never
  /** Not with a source. */
  port?: never
}

/** Options of {@link takeover}. */
export interface TakeoverOptions extends Abortable {
  /** The address of the Unix domain socket over which processes take over from each other. Use it for nothing else. */
  path: Address
  /**
   * The name of the service (default: empty). A process whose name differs is refused, at either end: it would replace another service.
   */
  service?: string | undefined
  /**
   * The sockets to listen on, by names of your choice. Sockets that the predecessor has open come from it; the others are opened.
   *
   * Beside a {@link ListenSource} it accepts one with options, `{ source, backlog, mode }`, and the options of `bindListener`:
   * `{ port, host }` or `{ path, mode }`, with `backlog`. The default backlog is 4,096 here, because connections wait while the
   * listeners change hands. The kernel limits it further.
   */
  listen?: Readonly<Record<string, ListenSource | SourceOptions | TcpListenerOptions | UnixListenerOptions>> | undefined
  /** The permissions of the socket file at `path` (default 0o600). */
  mode?: number | undefined
  /**
   * Decides whether the process at the other end of `path` is accepted, as successor or as predecessor (default: if it runs as this
   * process's user or as root).
   *
   * @param credentials the credentials of that process, from the kernel
   */
  allow?: ((credentials: Credentials) => boolean | Promise<boolean>) | undefined
  /**
   * Returns the state for a successor. It is called while this process still serves.
   *
   * @param signal aborted if that successor does not become ready: resume the work that was suspended for it
   */
  state?: ((signal: AbortSignal) => Bytes | TakeoverState | Promise<Bytes | TakeoverState>) | undefined
  /** Whether this process accepts the predecessor's live connections, by {@link Predecessor.connections} (default false). */
  connections?: boolean | undefined
  /**
   * The time to wait for a predecessor, which may be busy with another successor, and the time within which a successor must become
   * ready, in milliseconds (default 60,000).
   */
  timeout?: number | undefined
  /**
   * The time that a server of {@link Takeover.serve} has to finish its connections, in milliseconds (default 30,000). Then the remaining
   * ones are destroyed.
   */
  drainTimeout?: number | undefined
}

/** Validated options. */
export interface Settings {
  readonly path: Address
  readonly service: string
  readonly sources: ReadonlyMap<string, Source>
  readonly mode: number | undefined
  readonly allow: (credentials: Credentials) => Promise<boolean>
  readonly state: TakeoverOptions['state']
  readonly connections: boolean
  readonly timeout: number
  readonly drainTimeout: number
}

const DEFAULT_TIMEOUT = 60_000
const DEFAULT_DRAIN_TIMEOUT = 30_000
const OWNER_ONLY = 0o600

/** Validates the options of `takeover`. */
export function settingsOf(options: TakeoverOptions): Settings {
  const { path, listen = {}, mode = OWNER_ONLY, allow = isSameUserOrRoot, state, connections = false } = options
  const { timeout = DEFAULT_TIMEOUT, drainTimeout = DEFAULT_DRAIN_TIMEOUT, service = '' } = options
  addressOf('options.path', path, 'bind')
  if (typeof service !== 'string') throw invalidType('options.service', 'of type string', service)
  if (typeof listen !== 'object' || listen === null) throw invalidType('options.listen', 'of type object', listen)
  if (typeof allow !== 'function') throw invalidType('options.allow', 'of type function', allow)
  if (state !== undefined && typeof state !== 'function') throw invalidType('options.state', 'of type function', state)
  boolean('options.connections', connections)
  const isAbstract = path.startsWith('\0')
  return {
    path: isAbstract ? path : resolve(path), // this process and its successor may change their directories
    service,
    sources: sourcesOf(listen),
    mode: isAbstract ? undefined : integer('options.mode', mode, 0, 0o777),
    async allow(credentials) {
      const allowed: unknown = await allow(credentials)
      if (typeof allowed === 'boolean') return allowed
      throw invalidReturn('options.allow', 'a boolean', allowed)
    },
    state,
    connections,
    timeout: integer('options.timeout', timeout, 1, MAX_INT),
    drainTimeout: integer('options.drainTimeout', drainTimeout, 0, MAX_INT)
  }
}

function sourcesOf(listen: object): ReadonlyMap<string, Source> {
  const sources = new Map<string, Source>()
  const names = new Map<string, string>()
  for (const [name, value] of Object.entries(listen)) {
    const source = listenerSourceOf(`options.listen.${name}`, value)
    const isFree = 'port' in source && source.port === 0 // each one is a different port
    const other = isFree ? undefined : names.get(source.name)
    if (other !== undefined) throw invalidValue(`options.listen.${name}`, `is the same as '${other}': '${source.name}'`)
    names.set(source.name, name)
    sources.set(name, source)
  }
  return sources
}

function isSameUserOrRoot(credentials: Credentials): boolean {
  return isUser(credentials, 0) || isUser(credentials, process.geteuid!())
}
