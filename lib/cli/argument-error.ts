import type { ArgumentError } from 'fdpass'

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
