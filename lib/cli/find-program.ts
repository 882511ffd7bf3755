import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { CliError, usageError } from './errors.ts'

// The exit codes of env(1), nohup(1) and the shells.
const CANNOT_BE_EXECUTED = 126
const NOT_FOUND = 127

/** Throws unless a program among the operands comes right after `--`: what is a program, and what its options, is never guessed. */
export function checkSeparator(program: readonly string[]): void {
  if (program.length > 0 && process.argv.at(-program.length - 1) !== '--') {
    throw usageError(`A program comes after --, and nothing else may: '${program[0]}'`)
  }
}

/** The path of a program, which is searched for as execvp(3) does. */
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
