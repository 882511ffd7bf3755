import { types } from 'node:util'
import { invalidType, outOfRange, invalidValue, shown } from './errors.ts'

/** Data to send; a string is encoded as UTF-8. */
export type Bytes = Uint8Array | string

/** The maximum of a C `int`. */
export const MAX_INT = 0x7fff_ffff

/** Returns a `data` argument as bytes. Memory that other threads share is copied: they could change it during a system call. */
export function bytesOf(data: unknown, name = 'data'): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  if (types.isUint8Array(data)) return unshared(data)
  throw invalidType(name, 'of type string or an instance of Uint8Array', data)
}

/** The length in bytes up to which V8 keeps an array's memory in its own heap; asking for its buffer would move it out. */
const MAX_ON_HEAP = 64

/** Returns bytes as they are, or a copy if they are in a SharedArrayBuffer. */
export function unshared(data: Uint8Array): Uint8Array {
  return data.length > MAX_ON_HEAP && types.isSharedArrayBuffer(data.buffer) ? Uint8Array.from(data) : data
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

/** Returns an integer argument from 0 to a maximum that a number may not hold; throws ERR_INVALID_ARG_TYPE or ERR_OUT_OF_RANGE otherwise. */
export function bigInteger(name: string, value: unknown, max: bigint): bigint {
  if (typeof value === 'number') return BigInt(integer(name, value, 0, Number.MAX_SAFE_INTEGER))
  if (typeof value !== 'bigint') throw invalidType(name, 'of type number or bigint', value)
  if (value < 0n || value > max) throw outOfRange(name, `>= 0n and <= ${max}n`, value)
  return value
}

/** The default backlog of Node's net. */
export const DEFAULT_BACKLOG = 511

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

/** The maximum length of a name (systemd's `FDNAME_MAX`). */
const MAX_LENGTH = 255

/**
 * Returns whether a text is a valid name of descriptors, by systemd's rule. LISTEN_FDNAMES separates names by colons without escaping, and
 * libsystemd drops backslashes.
 */
export function isDescriptorName(name: unknown): name is string {
  return typeof name === 'string' && name.length <= MAX_LENGTH && /^[ -9;-[\]-~]+$/.test(name)
}

/** Returns a `name` argument. */
export function descriptorNameOf(name: unknown): string {
  if (typeof name !== 'string') throw invalidType('name', 'of type string', name)
  if (isDescriptorName(name)) return name
  const form = `1 to ${MAX_LENGTH} printable ASCII characters without ':' and '\\'`
  throw invalidValue('name', `must have ${form}. Received ${shown(name)}`)
}
