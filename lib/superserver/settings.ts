import { availableParallelism } from 'node:os'
import { dirname, isAbsolute, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  boolean,
  MAX_INT,
  integer,
  invalidType,
  invalidValue,
  outOfRange,
  groupOf,
  identityOf
} from '../base/internal.ts'
import { type ListenSource, type Source, isDatagram, sourceOf } from '../socket/internal.ts'
import { type ProgramDescription, resourceByName } from '../native/internal.ts'
import { WORKER } from './worker-environment.ts'

/** A limit on what a process may use: both of setrlimit(2)'s numbers, or the soft and the hard one. */
export type ResourceLimit = number | readonly [soft: number, hard: number]

/** Who serves, and how. */
export interface ServiceOptions {
  /** What is listened on. */
  listen: ListenSource | readonly ListenSource[]
  /** A Node module to be run as worker, by its path or URL: it takes its connections by `connections()` or `serve()`. */
  module?: string | URL | undefined
  /** The arguments of `module`. */
  args?: readonly string[] | undefined
  /** Node's own arguments for `module` (default: this process's, without `--eval` and `--print`). */
  execArgv?: readonly string[] | undefined
  /** In the place of `module` any program: the path of its executable, which is not searched for, and its arguments. */
  command?: readonly string[] | undefined
  /**
   * `'workers'`: some long-lived processes, which speak the protocol of PROTOCOL.md (default for `module`). `'nowait'`: a
   * process for each connection, which is its descriptors 0, 1 and 2 (default for `command`). `'wait'`: one process, whose
   * descriptors 0, 1 and 2 are the listener, or the socket of datagrams (default for `command` with these); the next when it
   * has ended.
   */
  mode?: 'workers' | 'nowait' | 'wait' | undefined
  /**
   * What workers get: each `'connection'` (default), which goes to the least busy one; or the `'listener'`, from which they
   * accept themselves: faster, but what a worker accepted dies with it, and no limit holds.
   */
  handoff?: 'connection' | 'listener' | undefined
  /** How many workers (default: as many as can run at the same time, `os.availableParallelism()`). */
  workers?: number | undefined
  /** Whom processes run as: a name, or a number (default: as this process). Taking on another user is root's. */
  user?: string | number | undefined
  /** Their group: a name, or a number (default: that of `user`, in the user database). */
  group?: string | number | undefined
  /** Their supplementary groups, with `user` or `group` (default: none). */
  groups?: readonly (string | number)[] | undefined
  /** Their file mode creation mask (default: this process's). */
  umask?: number | undefined
  /** Their working directory, which `user` must be able to enter (default: this process's). */
  cwd?: string | undefined
  /** Their environment (default: this process's, without what a service manager has told it alone). */
  env?: Readonly<Record<string, string | undefined>> | undefined
  /**
   * Limits on what each may use, by their names in lower case: `{ nofile: 1024, core: [0, 0] }`; `Infinity` (in a file
   * `"unlimited"`) for none. Without them this process's: Node raises its own `nofile` as far as it may.
   */
  rlimits?: Readonly<Record<string, ResourceLimit>> | undefined
  /** Whether they can gain no rights by what they execute, such as sudo (default true; Linux). */
  noNewPrivileges?: boolean | undefined
  /** The most connections that wait to be accepted (default 511); the kernel cuts it to its own limit. */
  backlog?: number | undefined
  /** The permissions of a Unix domain socket's file, such as 0o660 (default: what the umask leaves of 0o777). */
  socketMode?: number | undefined
  /** The most connections at a time (default: no limit but that of descriptors); further ones wait in the backlog. */
  maxConnections?: number | undefined
  /** The most connections of one worker at a time (default: no limit); likewise. */
  maxPerWorker?: number | undefined
  /**
   * The most connections of one client at a time (default: no limit): of an IP address, or of a user of this machine. Further
   * ones are closed at once.
   */
  maxPerClient?: number | undefined
  /** The most processes that `nowait` and `wait` start within a minute (default 256, as inetd); then they pause. */
  maxSpawns?: number | undefined
  /** How long they pause, in milliseconds (default 10,000). Connections wait in the backlog meanwhile. */
  pause?: number | undefined
  /** How long a worker may take until it is ready, in milliseconds (default 30,000). */
  readyTimeout?: number | undefined
  /**
   * How long a worker may take to acknowledge a connection, in milliseconds (default 30,000). One that takes longer hangs: it is
   * killed, and its connections that are not acknowledged go to others.
   */
  acknowledgeTimeout?: number | undefined
  /**
   * How long a process may take to finish what it has, in milliseconds (default 30,000). Then a worker is killed; the programs of
   * `nowait` and `wait` are left to themselves, as inetd leaves them.
   */
  drainTimeout?: number | undefined
}

/** What processes get of a connection. */
export type Handoff = 'connection' | 'listener' | 'nowait' | 'wait'

/** What is known of a service, checked. */
export interface Settings {
  readonly name: string
  readonly sources: readonly Source[]
  readonly handoff: Handoff
  readonly program: ProgramDescription
  readonly workers: number
  readonly backlog: number | undefined
  readonly socketMode: number | undefined
  readonly maxConnections: number
  readonly maxPerWorker: number
  readonly maxPerClient: number
  readonly maxSpawns: number
  readonly pause: number
  readonly readyTimeout: number
  readonly acknowledgeTimeout: number
  readonly drainTimeout: number
}

/** No limit, for the native side. */
const UNLIMITED = -1

const every: readonly Handoff[] = ['connection', 'listener', 'nowait', 'wait']
const workers: readonly Handoff[] = ['connection', 'listener']
const programs: readonly Handoff[] = ['nowait', 'wait']
const connections: readonly Handoff[] = ['connection', 'nowait']

/** Which options there are, and what each is for. */
const known: Readonly<Record<keyof ServiceOptions, readonly Handoff[]>> = {
  listen: every,
  module: every,
  args: every,
  execArgv: every,
  command: every,
  mode: every,
  handoff: every,
  workers,
  user: every,
  group: every,
  groups: every,
  umask: every,
  cwd: every,
  env: every,
  rlimits: every,
  noNewPrivileges: every,
  backlog: every,
  socketMode: every,
  maxConnections: connections,
  maxPerWorker: ['connection'],
  maxPerClient: connections,
  maxSpawns: programs,
  pause: programs,
  readyTimeout: workers,
  acknowledgeTimeout: ['connection'],
  drainTimeout: every
}

const modes: Readonly<Record<Handoff, string>> = {
  connection: "mode 'workers' with handoff 'connection'",
  listener: "mode 'workers' with handoff 'listener'",
  nowait: "mode 'nowait'",
  wait: "mode 'wait'"
}

/** Throws for an option that means nothing where it is: a limit that is misspelt, or not kept, would be none. */
function checkKnown(given: ServiceOptions, at: At, handoff: Handoff): void {
  for (const [option, value] of Object.entries(given)) {
    const handoffs = Object.hasOwn(known, option) ? known[option as keyof ServiceOptions] : undefined
    if (handoffs === undefined) throw invalidValue(at(option), 'is no option of a service')
    if (value !== undefined && !handoffs.includes(handoff)) {
      const reason = `is for ${handoffs.map((name) => modes[name]).join(', or ')}`
      throw invalidValue(at(option), `${reason}. This service has ${modes[handoff]}`)
    }
  }
}

/** Checks the options of a service; relative paths begin in `folder`. */
export function settingsOf(name: string, options: unknown, argument: string, folder: string): Settings {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalidType(argument, 'of type object', options)
  }
  const given = options as ServiceOptions
  const at = (option: string) => `${argument}.${option}`
  const count = (option: keyof ServiceOptions, otherwise: number, least = 1, most = MAX_INT) =>
    given[option] === undefined ? otherwise : integer(at(option), given[option], least, most)
  const sources = sourcesOf(given.listen, at('listen'))
  const handoff = handoffOf(given, at, sources.every(isDatagram))
  checkKnown(given, at, handoff)
  const datagrams = sources.findIndex(isDatagram)
  if (datagrams >= 0 && handoff !== 'wait' && handoff !== 'listener') {
    const reason = "has no connections: datagrams are for mode 'wait', or for workers with handoff 'listener'"
    throw invalidValue(`${at('listen')}[${datagrams}]`, reason)
  }
  return {
    name,
    sources,
    handoff,
    program: programOf(given, at, handoff, folder),
    workers: count('workers', availableParallelism(), 1, 4096),
    backlog: given.backlog === undefined ? undefined : count('backlog', 0, 0),
    socketMode: given.socketMode === undefined ? undefined : count('socketMode', 0, 0, 0o777),
    maxConnections: count('maxConnections', UNLIMITED),
    maxPerWorker: count('maxPerWorker', UNLIMITED),
    maxPerClient: count('maxPerClient', UNLIMITED),
    maxSpawns: count('maxSpawns', 256),
    pause: count('pause', 10_000, 0),
    readyTimeout: count('readyTimeout', 30_000),
    acknowledgeTimeout: count('acknowledgeTimeout', 30_000),
    drainTimeout: count('drainTimeout', 30_000, 0)
  }
}

type At = (option: string) => string

function handoffOf({ module, command, mode, handoff }: ServiceOptions, at: At, datagrams: boolean): Handoff {
  if ((module === undefined) === (command === undefined)) {
    throw invalidValue(at('module'), "or 'command' has to be given, and not both")
  }
  const otherwise = module !== undefined ? 'workers' : datagrams ? 'wait' : 'nowait'
  const chosen: unknown = mode === undefined ? otherwise : mode
  if (chosen !== 'workers' && chosen !== 'nowait' && chosen !== 'wait') {
    throw invalidValue(at('mode'), `must be 'workers', 'nowait' or 'wait'. Received ${JSON.stringify(chosen)}`)
  }
  if (chosen !== 'workers') {
    if (handoff !== undefined) throw invalidValue(at('handoff'), "is for mode 'workers'")
    return chosen
  }
  const kind: unknown = handoff === undefined ? 'connection' : handoff
  if (kind === 'connection' || kind === 'listener') return kind
  throw invalidValue(at('handoff'), `must be 'connection' or 'listener'. Received ${JSON.stringify(kind)}`)
}

function sourcesOf(listen: unknown, argument: string): readonly Source[] {
  const given: readonly unknown[] = Array.isArray(listen) ? listen : [listen]
  if (given.length === 0) throw invalidValue(argument, 'must name what to listen on')
  const sources = given.map((source, index) =>
    sourceOf(Array.isArray(listen) ? `${argument}[${index}]` : argument, source)
  )
  const names = sources.map((source) => source.name)
  const twice = names.findIndex((name, index) => names.indexOf(name) < index)
  if (twice >= 0) throw invalidValue(`${argument}[${twice}]`, `is there twice: '${names[twice]}'`)
  return sources
}

function programOf(given: ServiceOptions, at: At, handoff: Handoff, folder: string): ProgramDescription {
  const { cwd, umask, noNewPrivileges = true } = given
  if (cwd !== undefined) textOf(at('cwd'), cwd)
  boolean(at('noNewPrivileges'), noNewPrivileges)
  const command = given.command === undefined ? moduleCommand(given, at, folder) : commandOf(given, at, folder)
  return {
    path: command[0]!,
    arguments: command,
    environment: environmentOf(given.env, at('env'), handoff),
    ...(cwd !== undefined && { directory: resolve(folder, cwd) }),
    ...(umask !== undefined && { umask: integer(at('umask'), umask, 0, 0o777) }),
    limits: limitsOf(given.rlimits, at('rlimits')),
    ...credentialOf(given, at),
    noNewPrivileges
  }
}

function textOf(argument: string, value: unknown): string {
  if (typeof value !== 'string') throw invalidType(argument, 'of type string', value)
  if (value.includes('\0')) throw invalidValue(argument, 'must not contain a NUL, which would end it')
  return value
}

function textsOf(argument: string, value: unknown): string[] {
  if (!Array.isArray(value)) throw invalidType(argument, 'an instance of Array', value)
  return value.map((text, index) => textOf(`${argument}[${index}]`, text))
}

function commandOf({ command, args, execArgv }: ServiceOptions, at: At, folder: string): string[] {
  if (args !== undefined) throw invalidValue(at('args'), "is for 'module': a command has its arguments with it")
  if (execArgv !== undefined) throw invalidValue(at('execArgv'), "is for 'module'")
  const [path, ...rest] = textsOf(at('command'), command)
  if (path === undefined || !path.includes('/')) {
    throw invalidValue(
      `${at('command')}[0]`,
      `must be the path of an executable: it is not searched for. Received ${JSON.stringify(path)}`
    )
  }
  return [isAbsolute(path) ? path : resolve(folder, path), ...rest]
}

function moduleCommand({ module, args, execArgv }: ServiceOptions, at: At, folder: string): string[] {
  let path: string
  if (module instanceof URL && module.protocol !== 'file:')
    throw invalidValue(at('module'), 'must be a path or a file: URL')
  if (module instanceof URL || (typeof module === 'string' && module.startsWith('file:'))) path = fileURLToPath(module)
  else path = resolve(folder, textOf(at('module'), module))
  const nodeArgs = execArgv === undefined ? ownArguments() : textsOf(at('execArgv'), execArgv)
  const own = args === undefined ? [] : textsOf(at('args'), args)
  return [process.execPath, ...nodeArgs, path, ...own]
}

/** The arguments of this Node, without those that are a program. */
function ownArguments(): string[] {
  const kept: string[] = []
  for (let i = 0; i < process.execArgv.length; i++) {
    const arg = process.execArgv[i]!
    if (/^(?:-e|-p|-pe|--eval|--print|--input-type)$/.test(arg)) i++
    else if (!/^--(?:eval|print|input-type)=/.test(arg)) kept.push(arg)
  }
  return kept
}

/** What tells a process of who has started it, a service manager or another Node, and is not for those that it starts. */
const ownVariables: ReadonlySet<string> = new Set([
  'NOTIFY_SOCKET',
  'LISTEN_PID',
  'LISTEN_FDS',
  'LISTEN_FDNAMES',
  'LISTEN_PIDFDID',
  'WATCHDOG_PID',
  'WATCHDOG_USEC',
  'NODE_CHANNEL_FD',
  'NODE_CHANNEL_SERIALIZATION_MODE',
  'NODE_UNIQUE_ID'
])

function environmentOf(env: unknown, argument: string, handoff: Handoff): string[] {
  if (env !== undefined && (typeof env !== 'object' || env === null || Array.isArray(env))) {
    throw invalidType(argument, 'of type object', env)
  }
  const given = Object.entries(env ?? process.env).filter(([, value]) => value !== undefined)
  const variables = given
    .filter(([name]) => name !== WORKER && (env !== undefined || !ownVariables.has(name)))
    .map(([name, value]) => `${textOf(argument, name)}=${textOf(`${argument}.${name}`, value)}`)
  if (handoff === 'connection' || handoff === 'listener') variables.push(`${WORKER}=3`)
  return variables
}

function limitsOf(rlimits: unknown, argument: string): ProgramDescription['limits'] {
  if (rlimits === undefined) return []
  if (typeof rlimits !== 'object' || rlimits === null) throw invalidType(argument, 'of type object', rlimits)
  return Object.entries(rlimits as Record<string, unknown>).map(([name, value]) => {
    const resource = resourceByName(name)
    if (resource < 0) throw invalidValue(`${argument}.${name}`, 'is no limit of this system')
    const pair: unknown[] = Array.isArray(value) ? value : [value, value]
    if (pair.length !== 2) throw invalidValue(`${argument}.${name}`, 'must be a number, or the soft and the hard one')
    const [soft, hard] = pair.map((number) => limitOf(`${argument}.${name}`, number)) as [number, number]
    if (soft > hard) throw outOfRange(`${argument}.${name}`, 'no more, soft, than the hard one', soft)
    return { resource, soft, hard }
  })
}

function limitOf(argument: string, value: unknown): number {
  // JSON knows no Infinity.
  if (value === Infinity || value === 'unlimited') return Infinity
  return integer(argument, value, 0, Number.MAX_SAFE_INTEGER)
}

function credentialOf({ user, group, groups }: ServiceOptions, at: At): Pick<ProgramDescription, 'credential'> {
  const identity = identityOf(user, group, at('').slice(0, -1))
  if (groups === undefined) return identity === undefined ? {} : { credential: { ...identity, groups: [] } }
  if (!Array.isArray(groups)) throw invalidType(at('groups'), 'an instance of Array', groups)
  if (user === undefined && group === undefined) throw invalidValue(at('groups'), "needs 'user' or 'group' with it")
  const numbers = groups.map((name: unknown, index) => groupOf(`${at('groups')}[${index}]`, name))
  const own = { uid: process.geteuid!(), gid: process.getegid!() }
  return { credential: { ...(identity ?? own), groups: numbers } }
}

/** The folder in which relative paths of a file begin. */
export function folderOf(file: string): string {
  return dirname(resolve(file))
}
