import { isAbsolute, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { boolean, groupOf, identityOf, integer, invalidType, invalidValue, outOfRange } from '../base/internal.ts'
import { type ProgramDescription, resourceByName } from '../native/internal.ts'
import type { ServiceOptions } from './service-options.ts'
import { WORKER } from './worker-environment.ts'

/** Returns the path of an option for errors. */
export type OptionPath = (option: string) => string

/**
 * Validates the options that describe a service's program.
 *
 * @param isWorker whether the program receives a worker's channel as its descriptor 3
 * @param folder where relative paths begin
 */
export function programOf(
  given: ServiceOptions,
  at: OptionPath,
  isWorker: boolean,
  folder: string
): ProgramDescription {
  const { cwd, umask, noNewPrivileges = true } = given
  if (cwd !== undefined) textOf(at('cwd'), cwd)
  boolean(at('noNewPrivileges'), noNewPrivileges)
  const command = given.command === undefined ? moduleCommand(given, at, folder) : commandOf(given, at, folder)
  return {
    path: command[0]!,
    arguments: command,
    environment: environmentOf(given.env, at('env'), isWorker),
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

function commandOf({ command, args, execArgv }: ServiceOptions, at: OptionPath, folder: string): string[] {
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

function moduleCommand({ module, args, execArgv }: ServiceOptions, at: OptionPath, folder: string): string[] {
  let path: string
  if (module instanceof URL && module.protocol !== 'file:')
    throw invalidValue(at('module'), 'must be a path or a file: URL')
  if (module instanceof URL || (typeof module === 'string' && module.startsWith('file:'))) path = fileURLToPath(module)
  else path = resolve(folder, textOf(at('module'), module))
  const nodeArgs = execArgv === undefined ? ownArguments() : textsOf(at('execArgv'), execArgv)
  const own = args === undefined ? [] : textsOf(at('args'), args)
  return [process.execPath, ...nodeArgs, path, ...own]
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

function environmentOf(env: unknown, argument: string, isWorker: boolean): string[] {
  if (env !== undefined && (typeof env !== 'object' || env === null || Array.isArray(env))) {
    throw invalidType(argument, 'of type object', env)
  }
  const given = Object.entries(env ?? process.env).filter(([, value]) => value !== undefined)
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
