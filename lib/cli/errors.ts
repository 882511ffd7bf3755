import { getSystemErrorMap } from 'node:util'

/** Exit codes: something has failed; the command line cannot be understood. */
export const FAILED = 1
export const USAGE = 2

/** A failure that is told in these words. */
export class CliError extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode = FAILED) {
    super(message)
    this.exitCode = exitCode
  }
}

/** A command line that cannot be understood. */
export function usageError(message: string): CliError {
  return new CliError(message, USAGE)
}

/** What an error says to somebody who does not program: `/run/x.sock: Permission denied`. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { errno, code, path, address } = error as NodeJS.ErrnoException & { address?: string }
  const known = errno === undefined ? undefined : getSystemErrorMap().get(errno)
  if (known === undefined) return error.message
  // libuv's words for it are those of a write to one.
  const text = code === 'EISDIR' ? 'is a directory' : known[1]
  const about = path ?? address
  return `${about === undefined ? '' : `${displayAddress(about)}: `}${text.charAt(0).toUpperCase()}${text.slice(1)}`
}

/** An address as the command line has it. */
export function displayAddress(address: string): string {
  return address.replace(/^\0/, '@')
}

/** The exit code of what a command has thrown: an argument that the package refuses came from the command line. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CliError) return error.exitCode
  const { code } = error as NodeJS.ErrnoException
  return code?.startsWith('ERR_INVALID_ARG') === true || code === 'ERR_OUT_OF_RANGE' ? USAGE : FAILED
}

/** Says on standard error what went wrong; with `FDPASS_DEBUG=1` in the environment also where. */
export function reportError(about: string, error: unknown): void {
  process.stderr.write(`fdpass: ${about}: ${errorText(error)}\n`)
  if (process.env.FDPASS_DEBUG === '1' && error instanceof Error) process.stderr.write(`${error.stack}\n`)
}
