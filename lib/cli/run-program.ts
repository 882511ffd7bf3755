import { accessSync, constants as fileConstants, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { Descriptor, Message } from 'fdpass'
import { executeProgram } from '../native/internal.ts'
import { CliError, usageError } from './errors.ts'
import { decodeUtf8 } from './output.ts'

// The exit codes that env(1), nohup(1) and shells use.
const CANNOT_BE_EXECUTED = 126
const NOT_FOUND = 127

/** Throws unless the operands of a program follow `--` directly. Without it an option of the program could be taken for one of fdpass. */
export function checkSeparator(program: readonly string[]): void {
  if (program.length > 0 && process.argv.at(-program.length - 1) !== '--') {
    throw usageError(`Expected -- before the program '${program[0]}'`)
  }
}

/** Returns the path of a program, searched in PATH as execvp(3) does. */
export function findProgram(program: string): string {
  const folders = program.includes('/') ? [''] : (process.env.PATH ?? '/usr/bin:/bin').split(delimiter)
  const found = folders.map((folder) => (program.includes('/') ? program : join(folder || '.', program))).filter(isFile)
  const path = found.find(isExecutable)
  if (path !== undefined) return path.includes('/') ? path : `./${path}`
  if (found.length > 0) throw new CliError(`${program}: Permission denied`, CANNOT_BE_EXECUTED)
  throw new CliError(`${program}: ${program.includes('/') ? 'No such file' : 'Command not found'}`, NOT_FOUND)
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, fileConstants.X_OK)
    return true
  } catch {
    return false
  }
}

/** A valid descriptor name of systemd: sd_listen_fds(3). libsystemd refuses a list with a backslash at its end, and drops other ones. */
const validName = /^[ -9;-[\]-~]{1,255}$/

/** Returns the names of a message's descriptors: one line of its data for each, or all of its data. */
export function descriptorNames({ data, fds }: Message): string[] {
  const text = decodeUtf8(data) ?? ''
  const lines = text.split('\n')
  const each = lines.length === fds.length ? lines : fds.map(() => text)
  return each.map((name) => (validName.test(name) ? name : 'unknown'))
}

/**
 * Executes a program in place of this process, with descriptors from 3 on and their names. So its exit status is the process's, whatever
 * signal ends it: node:child_process reports a real-time signal as code 0. It gets all signals itself, and LISTEN_PID is its pid.
 */
export function runProgram(
  executable: string,
  args: readonly string[],
  fds: readonly Descriptor[],
  names: readonly string[]
): never {
  if (fds.length === 0) throw new CliError('No descriptor was received')
  const variables = {
    ...process.env,
    LISTEN_PID: `${process.pid}`,
    LISTEN_FDS: `${fds.length}`,
    LISTEN_FDNAMES: names.join(':'),
    LISTEN_PIDFDID: undefined // it would name another process
  }
  const environment = Object.entries(variables).flatMap(([name, value]) =>
    value === undefined ? [] : `${name}=${value}`
  )
  const program = {
    path: executable,
    arguments: [executable, ...args],
    environment,
    limits: [],
    noNewPrivileges: false
  }
  const { errno, syscall } = executeProgram(program, [0, 1, 2, ...fds.map(({ fd }) => fd)])
  throw Object.assign(new Error(`${syscall} failed`), { errno, path: executable })
}
