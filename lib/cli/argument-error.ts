const argument = /^The (?:value of )?"(?:options\.?)?([\w.-]*)(\[\d+\])?"(?: property| argument)? (.*)$/s

/** What an error says of an argument of the package: which, as a path into the options, and what is wrong with it. */
export interface ArgumentError {
  readonly path: string
  /** Which element of it, in brackets. */
  readonly place: string
  readonly reason: string
}

/** What an error says of an argument of the package, if it is of that kind. */
export function argumentIn(error: unknown): ArgumentError | undefined {
  const [, path, place = '', reason] = argument.exec((error as Error).message) ?? []
  return path === undefined ? undefined : { path, place, reason: reason! }
}

/** `maxPerClient` as the command line has it. */
export function optionFor(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}
