import { getSystemErrorMap } from 'node:util'
import type { ArgumentError } from 'fdpass'

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

/** Characters that can affect a terminal or the order of a text: control (C0, DEL, C1), bidirectional and other invisible ones. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu

/** Returns a text of another process without characters that could affect a terminal: they are escaped, as in JSON. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (characters) =>
    Array.from(
      { length: characters.length },
      (_, place) => `\\u${characters.charCodeAt(place).toString(16).padStart(4, '0')}`
    ).join('')
  )
}

/** Returns a value as JSON in printable characters. */
export function jsonOf(value: unknown): string {
  return printable(JSON.stringify(value))
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
  // An error of the command line itself may have several lines.
  const lines = error instanceof CliError ? errorText(error).split('\n') : [errorText(error)]
  process.stderr.write(`fdpass: ${printable(about)}: ${lines.map(printable).join('\n')}\n`)
  if (process.env.FDPASS_DEBUG === '1' && error instanceof Error) {
    // A line of the message could look like one of the command line.
    const stack = String(error.stack).replace(error.message, () => printable(error.message))
    process.stderr.write(`${stack.split('\n').map(printable).join('\n')}\n`)
  }
}

/** The maximum number of texts that are counted one by one. */
const MAX_COUNTED = 64

const counts = new Map<string, number>()

/**
 * Prints an error that a peer can cause any number of times: at the first time, the tenth, the hundredth and so on.
 *
 * @param what what is counted, such as a user (default: the error's text)
 */
export function reportRepeated(about: string, error: unknown, what = errorText(error)): void {
  const key = counts.has(`${about}: ${what}`) || counts.size < MAX_COUNTED ? `${about}: ${what}` : about
  const count = (counts.get(key) ?? 0) + 1
  counts.set(key, count)
  if (count === 1) reportError(about, error)
  else if (/^10+$/.test(`${count}`))
    reportError(about, new CliError(`${key === about ? 'others' : what}, ${count} times so far`))
}

/** An argument that the package refused, and the reason. */
export interface RefusedArgument {
  /** The argument's path, without the `options` in front: `['services', 'web', 'listen[0]']`. Empty for `options` itself. */
  readonly path: readonly string[]
  readonly reason: string
}

/** Returns the argument that an error of the package is about; undefined for any other error. */
export function refusedArgument(error: unknown): RefusedArgument | undefined {
  if (!(error instanceof Error) || !('argument' in error)) return undefined
  const { argument, reason } = error as ArgumentError
  const path = argument.split('.')
  if (path[0] === 'options') path.shift()
  return { path, reason }
}

/** Returns the command-line option for an option of the package: `--max-per-client` for `maxPerClient` or `maxPerClient[0]`. */
export function optionFor(name: string): string {
  const [option] = name.split('[', 1)
  return `--${option!.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}
