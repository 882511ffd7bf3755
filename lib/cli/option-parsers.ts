import { InvalidArgumentError } from 'commander'

/** Returns a parser for an integer of at least `min`. */
export function integerFrom(min: number) {
  return (text: string): number => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < min || !Number.isSafeInteger(value)) {
      throw new InvalidArgumentError(`It must be a whole number, at least ${min}.`)
    }
    return value
  }
}

/** Parses a time in seconds; returns milliseconds. */
export function parseSeconds(text: string): number {
  const value = Math.round(Number(text) * 1000)
  if (!/^(?:\d+\.?\d*|\.\d+)$/.test(text) || value > 0x7fff_ffff) {
    throw new InvalidArgumentError('It must be a number of seconds, such as 2.5.')
  }
  return value
}

/** Parses a number of MiB; returns bytes. */
export function parseMebibytes(text: string): number {
  return integerFrom(1)(text) * 1024 * 1024
}

/** Parses permissions in octal. */
export function parseOctal(text: string): number {
  if (!/^0?[0-7]{1,3}$/.test(text)) throw new InvalidArgumentError('It must be an octal number, such as 660.')
  return parseInt(text, 8)
}

/** Returns a parser that collects the values of a repeatable option. */
export function repeatable<T>(valueOf: (text: string) => T) {
  return (text: string, before: readonly T[] = []): readonly T[] => [...before, valueOf(text)]
}

/** Returns the text itself. */
export const text = (value: string): string => value

/** Parses a user or group: a name or a number. */
export function parseIdentity(value: string): string | number {
  return /^\d+$/.test(value) ? Number(value) : value
}
