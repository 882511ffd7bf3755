import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { CliError, usageError } from './errors.ts'

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
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
