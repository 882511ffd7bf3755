import { InvalidArgumentError } from 'commander'

/** A whole number, from `least` on. */
export function integerFrom(least: number) {
  return (text: string): number => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < least || !Number.isSafeInteger(value)) {
      throw new InvalidArgumentError(`It must be a whole number from ${least} on.`)
    }
    return value
  }
}

/** A time in seconds, as milliseconds. */
export function parseSeconds(text: string): number {
  const value = Math.round(Number(text) * 1000)
  if (!/^(?:\d+\.?\d*|\.\d+)$/.test(text) || value > 0x7fff_ffff) {
    throw new InvalidArgumentError('It must be a number of seconds.')
  }
  return value
}

/** Permissions, in octal. */
export function parseOctal(text: string): number {
  if (!/^0?[0-7]{1,3}$/.test(text)) throw new InvalidArgumentError('It must be an octal number, such as 660.')
  return parseInt(text, 8)
}

/** The values of an option that may be given several times. */
export function repeatable<T>(valueOf: (text: string) => T) {
  return (text: string, before: readonly T[] = []): readonly T[] => [...before, valueOf(text)]
}

/** A text as it is. */
export const text = (value: string): string => value

/** A user or a group. */
export function parseIdentity(value: string): string | number {
  return /^\d+$/.test(value) ? Number(value) : value
}
