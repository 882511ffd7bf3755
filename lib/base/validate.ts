import { types } from 'node:util'
import { invalidType, outOfRange } from './errors/argument.ts'

/** Data to send; a string is encoded as UTF-8. */
export type Bytes = Uint8Array | string

/** The maximum of a C `int`. */
export const MAX_INT = 0x7fff_ffff

/** Returns a `data` argument as bytes. */
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

/** Returns an integer argument between two bounds; throws ERR_INVALID_ARG_TYPE or ERR_OUT_OF_RANGE otherwise. */
export function integer(name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'of type number', value)
  if (!Number.isInteger(value)) throw outOfRange(name, 'an integer', value)
  if (value < min || value > max) throw outOfRange(name, `>= ${min} and <= ${max}`, value)
  return value
}

/** The default backlog of Node's net. */
const DEFAULT_BACKLOG = 511

/** Returns the `backlog` option. */
export function backlogOf(backlog: unknown = DEFAULT_BACKLOG): number {
  return integer('options.backlog', backlog, 0, MAX_INT)
}

/** Returns an `options` argument; throws ERR_INVALID_ARG_TYPE if it is no object. */
export function optionsOf<T extends object>(options: T | undefined): T | undefined {
  if (options === undefined) return undefined
  if (typeof options !== 'object' || options === null) throw invalidType('options', 'of type object', options)
  return options
}
