import { getSystemErrorMap } from 'node:util'

/** The exit code of a failure. */
export const FAILED = 1
/** The exit code of an invalid command line. */
export const USAGE = 2

/** An error whose message is written for users of the command line. */
export class CliError extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode = FAILED) {
    super(message)
    this.exitCode = exitCode
  }
}

/** Returns the error for an invalid command line. */
export function usageError(message: string): CliError {
  return new CliError(message, USAGE)
}

/** Returns an error's text for users: `/run/x.sock: Permission denied`. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { errno, code, path, address } = error as NodeJS.ErrnoException & { address?: string }
  const known = errno === undefined ? undefined : getSystemErrorMap().get(errno)
  if (known === undefined) return error.message
  // libuv's text for EISDIR is about writing to a directory.
  const text = code === 'EISDIR' ? 'is a directory' : known[1]
  const about = path ?? address
  return `${about === undefined ? '' : `${displayAddress(about)}: `}${text.charAt(0).toUpperCase()}${text.slice(1)}`
}

/** Returns an address in the notation of the command line: `@name` for an abstract one. */
export function displayAddress(address: string): string {
  return address.replace(/^\0/, '@')
}

/** Returns the exit code for an error. An argument that the package rejected came from the command line. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CliError) return error.exitCode
  const { code } = error as NodeJS.ErrnoException
  return code?.startsWith('ERR_INVALID_ARG') === true || code === 'ERR_OUT_OF_RANGE' ? USAGE : FAILED
}

/** Prints an error to standard error. With `FDPASS_DEBUG=1` in the environment, also prints its stack. */
export function reportError(about: string, error: unknown): void {
  process.stderr.write(`fdpass: ${about}: ${errorText(error)}\n`)
  if (process.env.FDPASS_DEBUG === '1' && error instanceof Error) process.stderr.write(`${error.stack}\n`)
}
