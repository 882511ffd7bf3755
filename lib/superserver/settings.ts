import { availableParallelism } from 'node:os'
import type { SocketFileOptions } from '../address/index.ts'
import {
  MAX_INT,
  boolean,
  checkRuntime,
  groupOf,
  integer,
  invalidType,
  invalidValue,
  shown,
  uidOf,
  withCode
} from '../base/internal.ts'
import { type Source, isDatagram, sourceOf } from '../socket/internal.ts'
import { type OptionPath, type ServiceProgram, programOf } from './program.ts'
import type { ServiceOptions } from './service-options.ts'
import type { ListenAlias, ReadyCondition } from './passed-socket.ts'

/** How connections reach a process: the mode, or with workers the handoff. */
export type Handoff = 'connection' | 'listener' | 'nowait' | 'wait'

/** Validated options of a service. */
export interface Settings {
  readonly name: string
  readonly sources: readonly Source[]
  readonly handoff: Handoff
  readonly reusePort: boolean
  readonly program: ServiceProgram
  readonly workers: number
  readonly backlog: number | undefined
  readonly socketFile: SocketFileOptions
  readonly maxConnections: number
  readonly maxPerWorker: number
  readonly maxPerClient: number
  readonly maxSpawns: number
  readonly pause: number
  readonly readyTimeout: number
  readonly acknowledgeTimeout: number
  readonly drainTimeout: number
  readonly maxServed: number
  readonly maxMemory: number
  readonly listenAs: ReadonlyMap<string, ListenAlias>
  readonly ready: ReadyCondition
}

/** The native side's number for no limit. */
const UNLIMITED = -1

const every: readonly Handoff[] = ['connection', 'listener', 'nowait', 'wait']
const workerHandoffs: readonly Handoff[] = ['connection', 'listener']
const programs: readonly Handoff[] = ['nowait', 'wait']
const connections: readonly Handoff[] = ['connection', 'nowait']

/** The handoffs that each option applies to. */
const known: Readonly<Record<keyof ServiceOptions, readonly Handoff[]>> = {
  listen: every,
  listenAs: workerHandoffs,
  module: every,
  preload: workerHandoffs,
  ready: workerHandoffs,
  args: every,
  execArgv: every,
  command: every,
  mode: every,
  handoff: every,
  reusePort: ['listener'],
  workers: workerHandoffs,
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
  socketOwner: every,
  socketGroup: every,
  maxConnections: connections,
  maxPerWorker: ['connection'],
  maxPerClient: connections,
  maxServed: ['connection'],
  maxMemory: workerHandoffs,
  maxSpawns: programs,
  pause: programs,
  readyTimeout: workerHandoffs,
  acknowledgeTimeout: ['connection'],
  drainTimeout: every
}

const modes: Readonly<Record<Handoff, string>> = {
  connection: "mode 'workers' with handoff 'connection'",
  listener: "mode 'workers' with handoff 'listener'",
  nowait: "mode 'nowait'",
  wait: "mode 'wait'"
}

/** Throws for an unknown option, and for one that does not apply: a misspelt or unenforced limit would be no limit. */
function checkKnown(given: ServiceOptions, at: OptionPath, handoff: Handoff): void {
  for (const [option, value] of Object.entries(given)) {
    const handoffs = Object.hasOwn(known, option) ? known[option as keyof ServiceOptions] : undefined
    if (handoffs === undefined) throw invalidValue(at(option), 'is no option of a service')
    if (value !== undefined && !handoffs.includes(handoff)) {
      const reason = `is for ${handoffs.map((name) => modes[name]).join(', or ')}`
      throw invalidValue(at(option), `${reason}. This service has ${modes[handoff]}`)
    }
  }
}

/** Validates the options of a service. Relative paths begin in `folder`. */
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
  if (given.module !== undefined && handoff === 'connection') {
    const instead = `set ${at('handoff')} to 'listener', or run the module on Node or Deno by ${at('command')}`
    checkRuntime(
      'Bun',
      `Workers on Bun receive no connections, because net.Socket of Bun reads no received descriptor: ${instead}`
    )
  }
  const datagrams = sources.findIndex(isDatagram)
  if (datagrams >= 0 && handoff !== 'wait' && handoff !== 'listener') {
    const reason = "has no connections: datagrams are for mode 'wait', or for workers with handoff 'listener'"
    throw invalidValue(`${at('listen')}[${datagrams}]`, reason)
  }
  const reusePort = reusePortOf(given.reusePort, sources, at)
  return {
    name,
    sources: reusePort ? sources.map((source) => ({ ...source, reusePort })) : sources,
    handoff,
    reusePort,
    program: programOf(given, at, workerHandoffs.includes(handoff), folder),
    workers: count('workers', availableParallelism(), 1, 4096),
    backlog: given.backlog === undefined ? undefined : count('backlog', 0, 0),
    socketFile: {
      mode: given.socketMode === undefined ? undefined : count('socketMode', 0, 0, 0o777),
      owner: given.socketOwner === undefined ? undefined : uidOf(at('socketOwner'), given.socketOwner),
      group: given.socketGroup === undefined ? undefined : groupOf(at('socketGroup'), given.socketGroup)
    },
    maxConnections: count('maxConnections', UNLIMITED),
    maxPerWorker: count('maxPerWorker', UNLIMITED),
    maxPerClient: count('maxPerClient', UNLIMITED),
    maxSpawns: count('maxSpawns', 256),
    pause: count('pause', 10_000, 0),
    readyTimeout: count('readyTimeout', 30_000),
    acknowledgeTimeout: count('acknowledgeTimeout', 30_000),
    drainTimeout: count('drainTimeout', 30_000, 0),
    maxServed: count('maxServed', UNLIMITED),
    maxMemory: memoryOf(given.maxMemory, at),
    listenAs: aliasesOf(given, sources, at),
    ready: readyOf(given, at)
  }
}

/** Returns the `maxMemory` option; Infinity without one. */
function memoryOf(maxMemory: unknown, at: OptionPath): number {
  if (maxMemory === undefined) return Infinity
  const bytes = integer(at('maxMemory'), maxMemory, 1, Number.MAX_SAFE_INTEGER)
  if (process.platform === 'linux') return bytes
  const text = `maxMemory needs Linux: ${process.platform} has no /proc/PID/status`
  throw withCode(new Error(text), 'ERR_UNSUPPORTED_PLATFORM')
}

/** Returns the `ready` option. */
function readyOf({ ready, preload }: ServiceOptions, at: OptionPath): ReadyCondition {
  if (ready === undefined) return 'listening'
  if (preload !== true) throw invalidValue(at('ready'), "needs 'preload' with it")
  const given: unknown = ready
  if (given === 'listening' || given === 'message') return given
  throw invalidValue(at('ready'), `must be 'listening' or 'message'. Received ${shown(given)}`)
}

/** Returns the `reusePort` option. */
function reusePortOf(given: unknown, sources: readonly Source[], at: OptionPath): boolean {
  const reusePort = boolean(at('reusePort'), given ?? false)
  if (!reusePort) return false
  const other = sources.find(({ kind }) => kind !== 'tcp')
  if (other !== undefined) {
    throw invalidValue(
      at('reusePort'),
      `is for TCP ports that the superserver opens itself. '${other.name}' is not one`
    )
  }
  if (process.platform === 'linux') return true
  const text = `reusePort needs Linux, whose SO_REUSEPORT distributes connections: this is ${process.platform}`
  throw withCode(new Error(text), 'ERR_UNSUPPORTED_PLATFORM')
}

/** Returns the `listenAs` option, by the names of the sources. */
function aliasesOf(
  { listenAs, preload }: ServiceOptions,
  sources: readonly Source[],
  at: OptionPath
): ReadonlyMap<string, ListenAlias> {
  if (listenAs === undefined) return new Map()
  if (preload !== true) throw invalidValue(at('listenAs'), "needs 'preload' with it")
  const given: readonly unknown[] = Array.isArray(listenAs) ? listenAs : [listenAs]
  if (given.length > sources.length) throw invalidValue(at('listenAs'), "has more elements than 'listen'")
  const aliases = given
    .map((as, index): [string, unknown] => [sources[index]!.name, as])
    .filter(([, as]) => as !== null)
  return new Map(aliases.map(([name, as]) => [name, as === '*' ? as : integer(at('listenAs'), as, 1, 65_535)]))
}

function handoffOf({ module, command, mode, handoff }: ServiceOptions, at: OptionPath, datagrams: boolean): Handoff {
  if ((module === undefined) === (command === undefined)) {
    throw invalidValue(at('module'), "or 'command' has to be given, and not both")
  }
  const otherwise = module !== undefined ? 'workers' : datagrams ? 'wait' : 'nowait'
  const chosen: unknown = mode === undefined ? otherwise : mode
  if (chosen !== 'workers' && chosen !== 'nowait' && chosen !== 'wait') {
    throw invalidValue(at('mode'), `must be 'workers', 'nowait' or 'wait'. Received ${shown(chosen)}`)
  }
  if (chosen !== 'workers') {
    if (handoff !== undefined) throw invalidValue(at('handoff'), "is for mode 'workers'")
    return chosen
  }
  const kind: unknown = handoff === undefined ? 'connection' : handoff
  if (kind === 'connection' || kind === 'listener') return kind
  throw invalidValue(at('handoff'), `must be 'connection' or 'listener'. Received ${shown(kind)}`)
}

function sourcesOf(listen: unknown, argument: string): readonly Source[] {
  const given: readonly unknown[] = Array.isArray(listen) ? listen : [listen]
  if (given.length === 0) throw invalidValue(argument, 'must name what to listen on')
  const sources = given.map((source, index) =>
    sourceOf(Array.isArray(listen) ? `${argument}[${index}]` : argument, source)
  )
  const names = sources.map((source) => source.name)
  const twice = names.findIndex((name, index) => names.indexOf(name) < index)
  if (twice >= 0) throw invalidValue(`${argument}[${twice}]`, `is listed twice: '${names[twice]}'`)
  return sources
}
