import { type ChildProcess, type SpawnOptions, type StdioOptions, spawn } from 'node:child_process'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { descriptorNameOf, invalidType, invalidValue, optionsOf, runArguments } from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import { putFds } from '../descriptor/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { closeFds, duplicateShared } from '../native/internal.ts'
import { FIRST } from './environment.ts'

/** A variable with such a name passes through every shell; `env` sets the others. */
const SHELL_VARIABLE = /^(?!IFS$)[A-Za-z_]\w*$/

/** The variables that a shell sets itself. */
const shellVariables = ['OLDPWD', 'PWD', 'SHLVL']

/**
 * Starts a program with descriptors, as systemd starts a service with the sockets that it listens on: sd_listen_fds(3). The program adopts
 * them by sd_listen_fds_with_names(3), or by `listenFds()`.
 *
 * The descriptors are numbered from 3 on, in the order of `Object.entries(listeners)`. `LISTEN_PID` must be the program's pid, which is
 * known only once its process exists: `/bin/sh` sets it, and executes the program in its own place.
 *
 * @param file the program, which is searched in PATH unless it contains a slash
 * @param args its arguments. On Deno, `run --allow-all` precedes them if the program is `process.execPath` and the first one is a path
 * @param listeners the descriptors by name, at most 253 of a name: any that can be sent. The caller keeps them, and may close them when the
 *   call returns. A name has 1 to 255 printable ASCII characters without colons and backslashes
 * @param options options of `child_process.spawn()`. `stdio` has at most three entries; `shell` and `argv0` are not supported. The
 *   variables `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PIDFDID` of `env` are replaced; the shell may correct `PWD` and `SHLVL`.
 *   A variable whose name no shell accepts is passed by env(1): while that runs, ps(1) shows its value
 * @returns the process. It emits `'error'` if there is no such program, as that of `spawn()`. If the program cannot be executed for
 *   another reason, the process exits with code 126
 * @throws Nothing is started then: ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE or ERR_OUT_OF_RANGE; ERR_DESCRIPTOR_CLOSED or
 *   ERR_SOCKET_CLOSED; `EBADF` for a number that is not open; `EMFILE`, as the descriptors are duplicated during the call; the errors of
 *   `spawn()`; ERR_UNSUPPORTED_PLATFORM
 */
export function spawnWithListeners(
  file: string,
  args: readonly string[],
  listeners: Readonly<Record<string, FdSource | readonly FdSource[]>>,
  options?: SpawnOptions
): ChildProcess {
  openReactor()
  if (typeof file !== 'string') throw invalidType('file', 'of type string', file)
  if (!Array.isArray(args)) throw invalidType('args', 'an instance of Array', args)
  const { stdio = 'pipe', shell, argv0, env = process.env, cwd = '.', ...others } = optionsOf(options) ?? {}
  if (shell) throw invalidValue('options.shell', 'is not supported: LISTEN_PID would be the pid of the shell')
  if (argv0 !== undefined) throw invalidValue('options.argv0', 'is not supported')
  if (Array.isArray(stdio) && stdio.length > FIRST) {
    throw invalidValue('options.stdio', `must have at most ${FIRST} entries: the descriptors follow them`)
  }
  const { names, numbers } = duplicatesOf(listeners)
  try {
    const standard = Array.from({ length: FIRST }, (_, i) => (Array.isArray(stdio) ? (stdio[i] ?? 'pipe') : stdio))
    const settings = { ...others, cwd, stdio: [...standard, ...numbers] as StdioOptions }
    const environment: NodeJS.ProcessEnv = { ...env, LISTEN_FDS: `${numbers.length}`, LISTEN_FDNAMES: names.join(':') }
    for (const name of ['LISTEN_PID', 'LISTEN_PIDFDID']) delete environment[name]
    // spawn() itself reports that there is no such program, by 'error'.
    if (!isFound(file, cwd, env.PATH)) return spawn(file, args, { ...settings, env: environment })
    const foreign = Object.entries(environment).filter(([name]) => !SHELL_VARIABLE.test(name))
    if (foreign.length > 0 && file.includes('=')) {
      throw invalidValue('file', `must not contain '=' while the environment has a variable like '${foreign[0]![0]}'`)
    }
    const unset = shellVariables.filter((name) => environment[name] === undefined)
    const script = `export LISTEN_PID="$$"; unset ${unset.join(' ')}; exec ${foreign.length > 0 ? '/usr/bin/env ' : ''}"$@"`
    const runsFile = file === process.execPath && /[./]/.test(args[0] ?? '')
    const command = [
      ...foreign.map(([name, value]) => `${name}=${value}`),
      file,
      ...(runsFile ? runArguments : []),
      ...args
    ]
    const child = spawn('/bin/sh', ['-c', script, 'sh', ...command], { ...settings, env: environment })
    return Object.assign(child, { spawnfile: file, spawnargs: [file, ...args] })
  } finally {
    closeFds(numbers)
  }
}

/**
 * Duplicates the descriptors; returns the names and the numbers, in order. The duplicates are distinct and ascending from 3 on at least,
 * so that no number is overwritten in the child before it is used, which Deno's `spawn()` does not prevent itself.
 */
function duplicatesOf(listeners: unknown): { names: string[]; numbers: number[] } {
  if (typeof listeners !== 'object' || listeners === null) throw invalidType('listeners', 'of type object', listeners)
  const names: string[] = []
  const numbers: number[] = []
  try {
    for (const [name, sources] of Object.entries(listeners as Record<string, unknown>)) {
      descriptorNameOf(name)
      const count = putFds(Array.isArray(sources) ? sources : [sources], `listeners.${name}`)
      for (const number of duplicateShared(count)) {
        names.push(name)
        numbers.push(number)
      }
    }
    if (numbers.length === 0) throw invalidValue('listeners', 'must have at least one descriptor')
    return { names, numbers }
  } catch (error) {
    closeFds(numbers)
    throw error
  }
}

/** Returns whether a program can be executed in a folder, searched as execvp(3) does. */
function isFound(file: string, cwd: string | URL, path = '/usr/bin:/bin'): boolean {
  const folder = typeof cwd === 'string' ? cwd : fileURLToPath(cwd)
  const folders = file.includes('/') ? [''] : path.split(delimiter).map((each) => `${each || '.'}/`)
  return folders.some((each) => {
    const candidate = resolve(folder, `${each}${file}`)
    try {
      accessSync(candidate, constants.X_OK)
      return statSync(candidate).isFile()
    } catch {
      return false
    }
  })
}
