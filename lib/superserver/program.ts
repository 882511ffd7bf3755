import { isAbsolute, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  boolean,
  checkRuntime,
  groupOf,
  identityOf,
  integer,
  invalidType,
  loginVariables,
  invalidValue,
  outOfRange,
  runArguments,
  shown
} from '../base/internal.ts'
import { type ProgramDescription, resourceByName } from '../native/internal.ts'
import { WORKER } from './worker-channel.ts'
import type { ServiceOptions } from './service-options.ts'

/** Returns the path of an option for errors. */
export type OptionPath = (option: string) => string

/** The program of a service. */
export interface ServiceProgram extends ProgramDescription {
  /** How many of its arguments are Node's own. They begin behind the first one. */
  readonly nodeArguments: number
}

/**
 * Validates the options that describe a service's program.
 *
 * @param isWorker whether the program receives a worker's channel as its descriptor 3
 * @param folder where relative paths begin
 */
export function programOf(given: ServiceOptions, at: OptionPath, isWorker: boolean, folder: string): ServiceProgram {
  const { cwd, umask, noNewPrivileges = true } = given
  if (cwd !== undefined) textOf(at('cwd'), cwd)
  boolean(at('noNewPrivileges'), noNewPrivileges)
  const credential = credentialOf(given, at)
  const [nodeArguments, command] =
    given.command === undefined ? moduleCommand(given, at, folder) : [0, commandOf(given, at, folder)]
  return {
    nodeArguments,
    path: command[0]!,
    arguments: command,
    environment: environmentOf(given, at('env'), isWorker),
    ...(cwd !== undefined && { directory: resolve(folder, cwd) }),
    ...(umask !== undefined && { umask: integer(at('umask'), umask, 0, 0o777) }),
    limits: limitsOf(given.rlimits, at('rlimits')),
    ...credential,
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

function commandOf({ command, args, execArgv, preload }: ServiceOptions, at: OptionPath, folder: string): string[] {
  if (preload !== undefined) throw invalidValue(at('preload'), "is for 'module'")
  if (args !== undefined) throw invalidValue(at('args'), "is for 'module': a command has its arguments with it")
  if (execArgv !== undefined) throw invalidValue(at('execArgv'), "is for 'module'")
  const [path, ...rest] = textsOf(at('command'), command)
  if (path === undefined || !path.includes('/')) {
    throw invalidValue(
      `${at('command')}[0]`,
      `must be the path of an executable: it is not searched for. Received ${shown(path)}`
    )
  }
  return [isAbsolute(path) ? path : resolve(folder, path), ...rest]
}

function moduleCommand(
  { module, args, execArgv, preload = false }: ServiceOptions,
  at: OptionPath,
  folder: string
): [nodeArguments: number, command: string[]] {
  let path: string
  if (module instanceof URL && module.protocol !== 'file:')
    throw invalidValue(at('module'), 'must be a path or a file: URL')
  if (module instanceof URL || (typeof module === 'string' && module.startsWith('file:'))) path = fileURLToPath(module)
  else path = resolve(folder, textOf(at('module'), module))
  if (module === '-' || standardInputs.has(path)) {
    throw invalidValue(at('module'), 'must be a file: standard input can be read once, and workers have none')
  }
  const nodeArgs = execArgv === undefined ? [...runArguments, ...ownArguments()] : textsOf(at('execArgv'), execArgv)
  const own = args === undefined ? [] : textsOf(at('args'), args)
  if (boolean(at('preload'), preload)) {
    const why = `${at('preload')} needs Node, of whose net.Server it replaces a method`
    checkRuntime('Bun', why)
    checkRuntime('Deno', `${why}. Without it (--no-preload), the module takes its connections by serve()`)
    nodeArgs.push('--import', import.meta.resolve('fdpass/listen'))
  }
  return [nodeArgs.length, [process.execPath, ...nodeArgs, path, ...own]]
}

/** The paths of standard input. */
const standardInputs: ReadonlySet<string> = new Set(['/dev/stdin', '/dev/fd/0', '/proc/self/fd/0'])

/** The default port of Node's inspector. */
const INSPECTOR_PORT = 9229

/**
 * Returns the arguments of a worker: each one's inspector has a port of its own, counted up from that of this process, as those of node:cluster.
 *
 * @param spawned how many workers were started before
 */
export function argumentsOf({ arguments: args, nodeArguments }: ServiceProgram, spawned: number): string[] {
  return args.map((arg, index) => {
    if (index > nodeArguments) return arg
    const [, option, host = '', port = INSPECTOR_PORT] = /^(--inspect(?:-\w+)?)(?:=([^:]*:)?(\d+))?$/.exec(arg) ?? []
    return option === undefined || port === '0' ? arg : `${option}=${host}${Number(port) + 1 + spawned}`
  })
}

/** Returns the arguments of this Node process, without those that hold a program. */
function ownArguments(): string[] {
  const kept: string[] = []
  for (let i = 0; i < process.execArgv.length; i++) {
    const arg = process.execArgv[i]!
    if (/^(?:-e|-p|-pe|--eval|--print|--input-type)$/.test(arg)) i++
    else if (!/^--(?:eval|print|input-type)=/.test(arg)) kept.push(arg)
  }
  return kept
}

/** Variables that a service manager or a parent Node has set for this process only. */
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

function environmentOf({ env, user }: ServiceOptions, argument: string, isWorker: boolean): string[] {
  if (env !== undefined && (typeof env !== 'object' || env === null || Array.isArray(env))) {
    throw invalidType(argument, 'of type object', env)
  }
  // Those of root would lead a program to files that its user cannot read.
  const login = user === undefined ? {} : loginVariables(user)
  const merged = env === undefined ? { ...process.env, ...login } : { ...login, ...env }
  const given = Object.entries(merged).filter(([, value]) => value !== undefined)
  const variables = given
    .filter(([name]) => name !== WORKER && (env !== undefined || !ownVariables.has(name)))
    .map(([name, value]) => `${textOf(argument, name)}=${textOf(`${argument}.${name}`, value)}`)
  if (isWorker) variables.push(`${WORKER}=3`)
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
  // JSON has no Infinity.
  if (value === Infinity || value === 'unlimited') return Infinity
  return integer(argument, value, 0, Number.MAX_SAFE_INTEGER)
}

function credentialOf({ user, group, groups }: ServiceOptions, at: OptionPath): Pick<ProgramDescription, 'credential'> {
  const identity = identityOf(user, group, at('').slice(0, -1))
  if (groups === undefined) return identity === undefined ? {} : { credential: { ...identity, groups: [] } }
  if (!Array.isArray(groups)) throw invalidType(at('groups'), 'an instance of Array', groups)
  if (user === undefined && group === undefined) throw invalidValue(at('groups'), "needs 'user' or 'group' with it")
  const numbers = groups.map((name: unknown, index) => groupOf(`${at('groups')}[${index}]`, name))
  const own = { uid: process.geteuid!(), gid: process.getegid!() }
  return { credential: { ...(identity ?? own), groups: numbers } }
}
