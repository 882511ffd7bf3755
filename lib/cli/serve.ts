import { resolve } from 'node:path'
import { InvalidArgumentError, Option } from 'commander'
import {
  type ListenSource,
  type ResourceLimit,
  type ServiceOptions,
  type SuperserverAddress,
  superserve
} from 'fdpass/superserver'
import { optionFor, refusedArgument } from './argument-error.ts'
import type { CliCommand } from './cli-command.ts'
import { checkSeparator, findProgram } from './find-program.ts'
import { CliError, USAGE, reportError, usageError, displayAddress } from './errors.ts'
import { withSignals } from './signals.ts'
import { addressOf } from './peers.ts'
import { type Serving, serveWithTakeover } from './serve-takeover.ts'
import { repeatable, parseIdentity, integerFrom, parseOctal, parseSeconds, text } from './option-parsers.ts'

/** What the command line gives; all but the first few are named as the package's options are. */
interface ServeOptions extends Omit<ServiceOptions, 'listen' | 'groups' | 'env' | 'rlimits' | 'noNewPrivileges'> {
  readonly listen?: readonly string[]
  readonly config?: string
  readonly json?: true
  readonly takeover?: string
  readonly groups?: readonly (string | number)[]
  readonly env?: readonly (readonly [string, string])[]
  readonly rlimit?: readonly (readonly [string, ResourceLimit])[]
  readonly newPrivileges?: true
}

export function define(command: CliCommand): void {
  command
    .usage('--listen WHERE [OPTION...] -- PROGRAM [ARGUMENT...]\n       fdpass serve --config FILE [--json]')
    .argument('[PROGRAM...]', 'What serves, and its arguments: a program, found in PATH, or a module for Node.')
    .description(
      'Listen, and have others serve: a program for each connection, which is its standard input and output, as inetd has it; or ' +
        'workers that last, as nginx has them. A PROGRAM whose name ends in .js, .mjs, .cjs or .ts is a worker in Node, which ' +
        'takes its connections by fdpass/superserver; anything else is run for each connection, unless --mode says otherwise.\n\n' +
        'SIGTERM and SIGINT end it when what is open has been served, a second one at once; SIGHUP puts new workers in the ' +
        'place of the old ones, and reads FILE again. It tells systemd how it is doing (Type=notify).'
    )
    .option(
      '--listen <WHERE>',
      "What to listen on: 'tcp:PORT', 'tcp:HOST:PORT', 'udp:PORT', 'udp:HOST:PORT', 'unix:PATH', 'unix:@NAME', or 'fd:N' for " +
        'descriptor N, which has to listen; several times for several.',
      repeatable(text)
    )
    .option(
      '--config <FILE>',
      'Read all from a JSON file, as superserve() takes it; relative paths begin in its folder.'
    )
    .option(
      '--json',
      'Print what happens as lines of JSON on standard output, by event: listening, spawn, ready, exit, pause, failure, superseded.'
    )
    .option(
      '--takeover <PATH>',
      'Serve in the place of the fdpass serve, or other process of fdpass/takeover, that has this socket, and listen with its ' +
        'listeners: no connection is refused. The other one finishes what it has, within --drain-timeout, and ends with 0; so ' +
        'does this one when the next one comes.'
    )
    .addOption(
      new Option(
        '--mode <MODE>',
        'How PROGRAM is run: workers; a process for each connection; or one that accepts itself.'
      ).choices(['workers', 'nowait', 'wait'])
    )
    .addOption(
      new Option('--handoff <WHAT>', 'What workers get: each connection (the default), or the listener.').choices([
        'connection',
        'listener'
      ])
    )
    .option('--workers <N>', 'How many workers (default: as many as can run at the same time).', integerFrom(1))
    .option('--user <NAME>', 'Whom processes run as: a name or a number.', parseIdentity)
    .option('--group <NAME>', "Their group (default: the user's).", parseIdentity)
    .option('--groups <NAMES>', 'Their other groups, with commas between (default: none).', (names) =>
      names.split(',').map(parseIdentity)
    )
    .option('--new-privileges', 'Let them gain rights by what they execute, such as sudo.')
    .option('--umask <MODE>', 'Their file mode creation mask, such as 077.', parseOctal)
    .option('--cwd <DIRECTORY>', 'Their working directory.')
    .option(
      '--env <NAME=VALUE>',
      'A variable for their environment; several times for several.',
      repeatable(assignment)
    )
    .option(
      '--rlimit <NAME=SOFT[:HARD]>',
      "A limit on what each may use, such as nofile=1024 or core=0; 'unlimited' for none; several times for several.",
      repeatable(limit)
    )
    .option('--max-connections <N>', 'The most connections at a time; further ones wait.', integerFrom(1))
    .option('--max-per-worker <N>', 'The most connections of one worker; further ones wait.', integerFrom(1))
    .option(
      '--max-per-client <N>',
      'The most connections of one address or local user; further ones are closed.',
      integerFrom(1)
    )
    .option('--max-spawns <N>', 'The most processes that are started in a minute (default: 256).', integerFrom(1))
    .option('--pause <SECONDS>', 'How long nothing is started then (default: 10).', parseSeconds)
    .option('--ready-timeout <SECONDS>', 'How long a worker may take until it is ready (default: 30).', parseSeconds)
    .option(
      '--acknowledge-timeout <SECONDS>',
      'How long it may take to acknowledge a connection (default: 30).',
      parseSeconds
    )
    .option(
      '--drain-timeout <SECONDS>',
      'How long processes may take to finish what they have (default: 30).',
      parseSeconds
    )
    .option('--backlog <N>', 'The most connections that wait to be accepted (default: 511).', integerFrom(0))
    .option('--socket-mode <MODE>', "The permissions of a Unix domain socket's file, such as 660.", parseOctal)
    .addExitCodes({ 126: 'The program cannot be executed.', 127: 'The program was not found.' })
    .addExample(
      `
# Four processes without rights answer on a privileged port
fdpass serve --listen tcp:80 --user nobody --workers 4 -- ./server.mjs`
    )
    .addExample(
      `
# Run a program for each connection, no more than 20 at a time
fdpass serve --listen unix:./echo.sock --max-connections 20 -- cat`
    )
    .addExample(
      `
# Serve; the same line with a new server.mjs takes over, and refuses nobody
fdpass serve --takeover ./web.next --listen unix:./web.sock -- ./server.mjs`
    )
    .addExample(
      `
# Serve what a file describes, and print what happens
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
  const extra = Object.keys(options).find((option) => option !== 'config' && option !== 'json')
  if (config !== undefined && (extra !== undefined || program.length > 0)) {
    throw usageError(`--config stands alone: ${extra === undefined ? 'PROGRAM' : optionFor(extra)} is in the file`)
  }
  const serving = await withSignals<Serving>(async (signal) => {
    try {
      if (typeof description === 'string') return { server: await superserve(description, { signal }) }
      if (takeover === undefined) return { server: await superserve({ ...description, signal }) }
      return await serveWithTakeover(
        { path: addressOf(takeover), service: description, sources: description.listen },
        signal
      )
    } catch (error) {
      throw config === undefined ? asOption(error) : asSetting(error, config)
    }
  })
  if (json === true) reportAsJson(serving)
  else report(serving)
}

/** The service that the command line describes. */
function serviceFor(
  program: readonly string[],
  options: ServeOptions
): ServiceOptions & { listen: readonly ListenSource[] } {
  const { listen, config: _config, json: _json, takeover: _takeover, env, rlimit, newPrivileges, ...same } = options
  const [name, ...args] = program
  if (listen === undefined) throw usageError('There is nothing to listen on: --listen WHERE, or --config FILE')
  if (name === undefined) throw usageError('There is nothing that serves: -- PROGRAM, or --config FILE')
  return {
    ...same,
    ...(/\.(?:[cm]?js|ts)$/.test(name) ? { module: name, args } : { command: [findProgram(name), ...args] }),
    listen: listen.map(sourceOf),
    ...(env !== undefined && { env: { ...process.env, ...Object.fromEntries(env) } }),
    ...(rlimit !== undefined && { rlimits: Object.fromEntries(rlimit) }),
    ...(newPrivileges === true && { noNewPrivileges: false })
  }
}

/** Returns the `ListenSource` for `--listen`: `unix:@NAME` is an abstract address, and a relative path begins in the working directory. */
function sourceOf(where: string): ListenSource {
  if (where.startsWith('unix:@')) return `unix:\0${where.slice('unix:@'.length)}`
  if (where.startsWith('unix:')) return `unix:${resolve(where.slice('unix:'.length))}`
  return where
}

/** Returns an error about an option of the package as one about the command line. */
function asOption(error: unknown): unknown {
  const refused = refusedArgument(error)
  if (refused === undefined) return error
  const [name = '', ...rest] = refused.path
  return new CliError(`${optionOrOperand(name, rest)} ${refused.reason}`, USAGE)
}

/** Returns what the command line calls an option of a service. */
function optionOrOperand(name: string, rest: readonly string[]): string {
  if (name === 'path') return '--takeover'
  if (name === 'rlimits') return `--rlimit ${rest.join('.')}`
  return name === 'module' || name.startsWith('command') ? 'PROGRAM' : optionFor(name)
}

/** Returns an error about the content of a file as one that names the file. */
function asSetting(error: unknown, file: string): unknown {
  if (error instanceof SyntaxError) return new CliError(`${file}: ${error.message}`)
  const refused = refusedArgument(error)
  if (refused === undefined) return error
  const setting = refused.path.join('.')
  return new CliError(`${file}: ${setting === '' || setting === file ? 'its content' : setting} ${refused.reason}`)
}

/** Where something is listened on, as `--listen` has it. */
function whereOf({ name, address }: SuperserverAddress): string {
  if (address === null) return name
  if (typeof address === 'string') return `unix:${displayAddress(address)}`
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
  return `${name.startsWith('udp:') ? 'udp' : 'tcp'}:${host}:${address.port}`
}

/** Tells on standard error where it listens, and what goes wrong. */
function report({ server, superseded }: Serving): void {
  for (const address of server.addresses) process.stderr.write(`fdpass: serve: Listening on ${whereOf(address)}\n`)
  void superseded?.then(() => process.stderr.write('fdpass: serve: Another one has taken over\n'))
  server.on('failure', ({ error }) => reportError('serve', error))
  server.on('pause', ({ service, milliseconds }) => {
    reportError('serve', new CliError(`Too many processes: '${service}' starts none for ${milliseconds / 1000} s`))
  })
  server.on('exit', ({ pid, code, signal, lost }) => {
    if (code === 0) return
    const how = signal === null ? `with code ${code}` : `by ${signal}`
    reportError(
      'serve',
      new CliError(`Process ${pid} has ended ${how}${lost > 0 ? `; ${lost} connections were lost` : ''}`)
    )
  })
}

/** Tells on standard output where it listens, and what happens, a line of JSON each. */
function reportAsJson({ server, superseded }: Serving): void {
  let isRead = true
  // Those who are served are not to suffer where nobody reads any more.
  process.stdout.removeAllListeners('error').on('error', () => (isRead = false))
  const print = (event: string, details: object) => {
    if (isRead) process.stdout.write(`${JSON.stringify({ event, ...details })}\n`)
  }
  for (const address of server.addresses) {
    const { service, name } = address
    print('listening', { service, name: shownName(name), address: whereOf(address) })
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
