import { resolve } from 'node:path'
import { InvalidArgumentError, Option } from 'commander'
import {
  type ListenAlias,
  type ListenSource,
  type ResourceLimit,
  type ServiceOptions,
  type SuperserverAddress,
  superserve
} from 'fdpass/superserver'
import {
  optionFor,
  refusedArgument,
  CliError,
  USAGE,
  reportError,
  usageError,
  displayAddress,
  jsonOf
} from './errors.ts'
import type { CliCommand } from './cli-command.ts'
import { checkSeparator, findProgram } from './run-program.ts'
import { withSignals } from './signals.ts'
import { addressOf } from './peers.ts'
import { type Serving, serveWithTakeover } from './serve-takeover.ts'
import {
  repeatable,
  parseIdentity,
  parseMebibytes,
  integerFrom,
  parseOctal,
  parseSeconds,
  text
} from './option-parsers.ts'

/** The options of the command line. Most have the names and types of the package's options. */
interface ServeOptions extends Omit<
  ServiceOptions,
  'listen' | 'groups' | 'env' | 'rlimits' | 'noNewPrivileges' | 'preload'
> {
  readonly listen?: readonly string[]
  readonly config?: string
  readonly json?: true
  readonly takeover?: string
  readonly groups?: readonly (string | number)[]
  readonly env?: readonly (readonly [string, string])[]
  readonly rlimit?: readonly (readonly [string, ResourceLimit])[]
  readonly newPrivileges?: true
  readonly preload: boolean
}

export function define(command: CliCommand): void {
  command
    .usage('--listen WHERE [OPTION...] -- PROGRAM [ARGUMENT...]\n       fdpass serve --config FILE [--json]')
    .argument('[PROGRAM...]', 'The program to run, found in PATH, or a module for Node; and its arguments.')
    .description(
      'Listens, and runs a program for each connection, as inetd does, with the connection as standard input and output; or ' +
        'runs permanent workers, as nginx does. A PROGRAM whose name ends in .js, .mjs, .cjs or .ts is a Node server, which needs no ' +
        'changes: it gets the connections when it listens on the same port or path. It may also receive them with ' +
        'fdpass/superserver. Any other PROGRAM runs once per connection, unless --mode changes that.\n\n' +
        'SIGTERM and SIGINT stop listening and exit when open connections have finished; a second signal exits at once. ' +
        'SIGHUP replaces the workers and reads FILE again. The service state is reported to systemd (Type=notify).'
    )
    .option(
      '--listen <WHERE>',
      "Listen on 'tcp:PORT', 'tcp:HOST:PORT', 'udp:PORT', 'udp:HOST:PORT', 'unix:PATH' or 'unix:@NAME'; or accept from " +
        "'fd:N', an inherited listening descriptor. With '=PORT' behind it, for a server that itself listens on PORT; with '=*', for " +
        'one that listens on anything. Repeatable.',
      repeatable(text)
    )
    .option(
      '--config <FILE>',
      "Read all settings from a JSON file, in the format of superserve(), of at most 1 MiB; '-' is standard input. Paths are " +
        'relative to the file. A pipe is read once, and its paths are relative to the working directory.'
    )
    .option('--json', 'Print events as lines of JSON: listening, spawn, ready, exit, pause, failure, superseded.')
    .option(
      '--takeover <PATH>',
      'Take over the listeners of the process that serves with the same PATH: fdpass serve, or a user of fdpass/takeover. No ' +
        'connection is refused. The previous process finishes its connections within --drain-timeout and exits with 0, as ' +
        'does this one when the next process takes over.'
    )
    .addOption(
      new Option(
        '--mode <MODE>',
        'Run PROGRAM as workers, once per connection (nowait), or as one process that accepts (wait).'
      ).choices(['workers', 'nowait', 'wait'])
    )
    .addOption(
      new Option('--handoff <WHAT>', 'Pass each connection to a worker (the default), or the listener.').choices([
        'connection',
        'listener'
      ])
    )
    .option(
      '--reuse-port',
      'With --handoff listener: give each worker a listener of its own on the TCP port, over which the kernel distributes connections (Linux).'
    )
    .option(
      '--no-preload',
      'Do not import fdpass/listen before a module: it receives its connections with fdpass/superserver.'
    )
    .addOption(
      new Option(
        '--ready <WHEN>',
        "When a Node server is ready: when it listens (the default), or when it has also called process.send('ready')."
      ).choices(['listening', 'message'])
    )
    .option('--workers <N>', 'Run N workers (default: one per available CPU).', integerFrom(1))
    .option('--user <NAME>', 'Run processes as this user, a name or a uid.', parseIdentity)
    .option('--group <NAME>', "Run processes with this group (default: the user's).", parseIdentity)
    .option(
      '--groups <NAMES>',
      'Run processes with these supplementary groups, separated by commas (default: none).',
      (names) => names.split(',').map(parseIdentity)
    )
    .option('--new-privileges', 'Allow processes to gain privileges by executing programs such as sudo.')
    .option('--umask <MODE>', 'Set the file mode creation mask of processes, such as 077.', parseOctal)
    .option('--cwd <DIRECTORY>', 'Set the working directory of processes.')
    .option('--env <NAME=VALUE>', 'Set an environment variable of processes. Repeatable.', repeatable(assignment))
    .option(
      '--rlimit <NAME=SOFT[:HARD]>',
      'Set a resource limit of each process, such as nofile=1024 or core=unlimited. Repeatable.',
      repeatable(limit)
    )
    .option('--max-connections <N>', 'Serve at most N connections at a time; others wait.', integerFrom(1))
    .option('--max-per-worker <N>', 'Pass at most N connections to one worker at a time; others wait.', integerFrom(1))
    .option(
      '--max-per-client <N>',
      'Serve at most N connections of one IP address or local user; others are closed.',
      integerFrom(1)
    )
    .option('--max-served <N>', 'Replace a worker after about N connections.', integerFrom(1))
    .option('--max-memory <MEBIBYTES>', 'Replace a worker that has more memory (Linux).', parseMebibytes)
    .option('--max-spawns <N>', 'Start at most N processes per minute, then pause (default: 256).', integerFrom(1))
    .option('--pause <SECONDS>', 'Pause for SECONDS after --max-spawns (default: 10).', parseSeconds)
    .option('--ready-timeout <SECONDS>', 'Fail if a worker is not ready within SECONDS (default: 30).', parseSeconds)
    .option(
      '--acknowledge-timeout <SECONDS>',
      'Replace a worker that does not acknowledge a connection within SECONDS (default: 30).',
      parseSeconds
    )
    .option(
      '--drain-timeout <SECONDS>',
      'Let processes finish their connections for SECONDS, then kill them (default: 30).',
      parseSeconds
    )
    .option('--backlog <N>', 'Let at most N connections wait to be accepted (default: 511).', integerFrom(0))
    .option('--socket-mode <MODE>', "Set the permissions of a Unix socket's file, such as 660.", parseOctal)
    .option('--socket-owner <NAME>', "Set the owner of a Unix socket's file, a name or a uid.", parseIdentity)
    .option('--socket-group <NAME>', "Set the group of a Unix socket's file, a name or a gid.", parseIdentity)
    .addExitCodes({ 126: 'The program is not executable.', 127: 'The program was not found.' })
    .addExample(
      `
# Serve an ordinary server with four processes; SIGHUP replaces them
fdpass serve --listen tcp:3000 --workers 4 -- ./app.mjs`
    )
    .addExample(
      `
# Serve a privileged port with four unprivileged processes
fdpass serve --listen tcp:80=3000 --user nobody --workers 4 -- ./app.mjs`
    )
    .addExample(
      `
# Run a program for each connection, at most 20 at a time
fdpass serve --listen unix:./echo.sock --max-connections 20 -- cat`
    )
    .addExample(
      `
# Serve; repeat the line to replace server.mjs without refusing connections
fdpass serve --takeover ./web.next --listen unix:./web.sock -- ./server.mjs`
    )
    .addExample(
      `
# Serve what a file describes, and print events
fdpass serve --config services.json --json`
    )
    .action(serve)
}

function assignment(value: string): readonly [string, string] {
  const [, name, content] = /^([^=]+)=(.*)$/s.exec(value) ?? []
  if (name === undefined) throw new InvalidArgumentError('It must be NAME=VALUE.')
  return [name, content!]
}

function numberOf(limited: string): number {
  return limited === 'unlimited' ? Infinity : Number(limited)
}

function limit(value: string): readonly [string, ResourceLimit] {
  const [, name, soft, hard] = /^(\w+)=(\d+|unlimited)(?::(\d+|unlimited))?$/.exec(value) ?? []
  if (name === undefined) throw new InvalidArgumentError('It must be NAME=NUMBER or NAME=SOFT:HARD.')
  return [name, hard === undefined ? numberOf(soft!) : [numberOf(soft!), numberOf(hard)]]
}

async function serve(program: readonly string[], options: ServeOptions): Promise<void> {
  checkSeparator(program)
  const { config, json, takeover } = options
  const description = config === undefined ? serviceFor(program, options) : config
  const extra = Object.keys(options).find((option) => !['config', 'json', 'preload'].includes(option))
  if (config !== undefined && (extra !== undefined || program.length > 0)) {
    throw usageError(
      `--config cannot be used with ${extra === undefined ? 'PROGRAM' : optionFor(extra)}: set it in the file`
    )
  }
  const start = async (signal: AbortSignal): Promise<Serving> => {
    try {
      if (typeof description === 'string') return { server: await superserve(fileOf(description), { signal }) }
      if (takeover === undefined) return { server: await superserve({ ...description, signal }) }
      return await serveWithTakeover(
        { path: addressOf(takeover), service: description, sources: description.listen },
        signal
      )
    } catch (error) {
      throw config === undefined ? asOption(error) : asSetting(error, fileOf(config))
    }
  }
  const serving = await withSignals(start, ['SIGINT', 'SIGTERM']) // SIGHUP reloads
  if (json === true) reportAsJson(serving)
  else report(serving)
}

/** Returns the path of the `--config` option. */
function fileOf(config: string): string {
  return config === '-' ? '/dev/stdin' : config
}

/** Returns the service that the command line describes. */
function serviceFor(
  program: readonly string[],
  options: ServeOptions
): ServiceOptions & { listen: readonly ListenSource[] } {
  const {
    listen,
    config: _config,
    json: _json,
    takeover: _takeover,
    preload,
    env,
    rlimit,
    newPrivileges,
    ...same
  } = options
  const [name, ...args] = program
  if (listen === undefined) throw usageError('Nothing to listen on: specify --listen WHERE or --config FILE')
  if (name === undefined) throw usageError('No program to run: specify -- PROGRAM or --config FILE')
  const isModule = /\.(?:[cm]?js|ts)$/.test(name)
  const places = listen.map(placeOf)
  const listenAs = places.some(({ as }) => as !== null) ? places.map(({ as }) => as) : undefined
  const preloads = isModule && preload && same.mode !== 'nowait' && same.mode !== 'wait'
  if (listenAs !== undefined && !preloads) throw usageError('--listen WHERE=PORT is for a Node server that is a worker')
  return {
    ...same,
    ...(isModule ? { module: name, args } : { command: [findProgram(name), ...args] }),
    ...(preloads && { preload, listenAs }),
    listen: places.map(({ source }) => source),
    ...(env !== undefined && { env: { ...process.env, ...Object.fromEntries(env) } }),
    ...(rlimit !== undefined && { rlimits: Object.fromEntries(rlimit) }),
    ...(newPrivileges === true && { noNewPrivileges: false })
  }
}

/** Returns the `ListenSource` for `--listen WHERE=AS`, and what the program itself listens on. */
function placeOf(where: string): { source: ListenSource; as: ListenAlias | null } {
  const [, source = where, as] = /^(.*)=(\d+|\*)$/s.exec(where) ?? []
  return { source: sourceOf(source), as: as === undefined ? null : as === '*' ? as : Number(as) }
}

/** Returns the `ListenSource` for a text: `unix:@NAME` is an abstract address, and a relative path begins in the working directory. */
function sourceOf(where: string): ListenSource {
  return where.replace(/(?<=^unix:).*/s, (path) => (path.startsWith('@') ? addressOf(path) : resolve(path)))
}

/** Returns an error about an option of the package as one about the command line. */
function asOption(error: unknown): unknown {
  const refused = refusedArgument(error)
  if (refused === undefined) return error
  const [name = '', ...rest] = refused.path
  return new CliError(`${optionNameOf(name, rest)} ${refused.reason}`, USAGE)
}

/** Returns what the command line calls an option of a service. The program was checked before. */
function optionNameOf(name: string, rest: readonly string[]): string {
  if (name === 'path') return '--takeover'
  if (name === 'listenAs') return '--listen WHERE=PORT'
  return name === 'rlimits' ? `--rlimit ${rest.join('.')}` : optionFor(name)
}

/** Returns an error about the content of a file as one that names the file. */
function asSetting(error: unknown, file: string): unknown {
  if (error instanceof SyntaxError) return new CliError(`${file}: ${error.message}`)
  const refused = refusedArgument(error)
  if (refused === undefined) return error
  const setting = refused.path.join('.')
  return new CliError(`${file}: ${setting === '' || setting === file ? 'its content' : setting} ${refused.reason}`)
}

/** Returns an address in the notation of `--listen`. */
function listenAddressOf({ name, address }: SuperserverAddress): string {
  if (address === null) return name
  if (typeof address === 'string') return `unix:${displayAddress(address)}`
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
  return `${name.startsWith('udp:') ? 'udp' : 'tcp'}:${host}:${address.port}`
}

function reportReady({ pid }: { readonly pid: number }): void {
  process.stderr.write(`fdpass: serve: Worker ${pid} is ready\n`)
}

/** Prints the listen addresses, the workers and failures to standard error. */
function report({ server, superseded }: Serving): void {
  for (const address of server.addresses)
    process.stderr.write(`fdpass: serve: Listening on ${listenAddressOf(address)}\n`)
  server
    .stats()
    .workers.filter(({ state }) => state === 'ready')
    .forEach(reportReady)
  server.on('ready', reportReady)
  void superseded?.then(() => process.stderr.write('fdpass: serve: Another process has taken over\n'))
  server.on('failure', ({ error }) => reportError('serve', error))
  server.on('pause', ({ service, milliseconds }) => {
    reportError('serve', new CliError(`Too many processes: '${service}' pauses for ${milliseconds / 1000} s`))
  })
  server.on('exit', ({ pid, code, signal, lost, reason }) => {
    if (code === 0) return
    const why = reason === null ? '' : reason === 'channel' ? ': its channel failed' : `: it exceeded ${reason}`
    const how = signal === null ? `with code ${code}` : `by ${signal}${why}`
    const loss = lost > 0 ? `; ${lost} connections were lost` : ''
    reportError('serve', new CliError(`Process ${pid} ended ${how}${loss}`))
  })
}

/** Prints the listen addresses and events to standard output, as lines of JSON. */
function reportAsJson({ server, superseded }: Serving): void {
  let isRead = true
  // A closed standard output must not interrupt the service.
  process.stdout.removeAllListeners('error').on('error', () => (isRead = false))
  const print = (event: string, details: object) => {
    if (isRead) process.stdout.write(`${jsonOf({ event, ...details })}\n`)
  }
  for (const address of server.addresses) {
    const { service, name } = address
    print('listening', { service, name: shownName(name), address: listenAddressOf(address) })
  }
  void superseded?.then(() => print('superseded', {}))
  server.on('spawn', (details) => print('spawn', details))
  server.on('ready', (details) => print('ready', details))
  server.on('exit', (details) => print('exit', details))
  server.on('pause', (details) => print('pause', details))
  server.on('failure', ({ service, error }) => print('failure', { service, message: error.message }))
}

function shownName(name: string): string {
  return name.replace(/^unix:\0/, 'unix:@')
}
