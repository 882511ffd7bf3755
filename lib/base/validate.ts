import { types } from 'node:util'
import { invalidType, outOfRange } from './errors/argument.ts'

/** What can be sent; a string goes as UTF-8. */
export type Bytes = Uint8Array | string

/** The largest number that a C `int` holds. */
export const MAX_INT = 0x7fff_ffff

/** The bytes of a `data` argument. */
export function bytesOf(data: unknown, name = 'data'): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  if (types.isUint8Array(data)) return data
  throw invalidType(name, 'of type string or an instance of Uint8Array', data)
}

/** Returns a boolean argument; throws ERR_INVALID_ARG_TYPE for anything else. */
export function boolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw invalidType(name, 'of type boolean', value)
  return value
}

/** An integer between two bounds. */
export function integer(name: string, value: unknown, least: number, most: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'of type number', value)
  if (!Number.isInteger(value)) throw outOfRange(name, 'an integer', value)
  if (value < least || value > most) throw outOfRange(name, `>= ${least} and <= ${most}`, value)
  return value
}

/** How many connections wait to be accepted where nobody says: as in Node's net. */
const DEFAULT_BACKLOG = 511

/** The `backlog` of an `options` argument. */
export function backlogOf(backlog: unknown = DEFAULT_BACKLOG): number {
  return integer('options.backlog', backlog, 0, MAX_INT)
}

/** An `options` argument. */
export function optionsOf<T extends object>(options: T | undefined): T | undefined {
  if (options === undefined) return undefined
  if (typeof options !== 'object' || options === null) throw invalidType('options', 'of type object', options)
  return options
}
