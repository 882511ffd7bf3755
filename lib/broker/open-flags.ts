import { constants } from 'node:fs'
import { MAX_INT, integer, invalidValue } from '../base/internal.ts'

const { O_ACCMODE, O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_SYNC, O_TRUNC, O_WRONLY } = {
  O_ACCMODE: 3,
  ...constants
}

const create = O_CREAT | O_WRONLY
const createBoth = O_CREAT | O_RDWR

/** The flag strings of `node:fs`. */
const names: ReadonlyMap<string, number> = new Map([
  ['r', O_RDONLY],
  ['rs', O_RDONLY | O_SYNC],
  ['sr', O_RDONLY | O_SYNC],
  ['r+', O_RDWR],
  ['rs+', O_RDWR | O_SYNC],
  ['sr+', O_RDWR | O_SYNC],
  ['w', create | O_TRUNC],
  ['wx', create | O_TRUNC | O_EXCL],
  ['xw', create | O_TRUNC | O_EXCL],
  ['w+', createBoth | O_TRUNC],
  ['wx+', createBoth | O_TRUNC | O_EXCL],
  ['xw+', createBoth | O_TRUNC | O_EXCL],
  ['a', create | O_APPEND],
  ['ax', create | O_APPEND | O_EXCL],
  ['xa', create | O_APPEND | O_EXCL],
  ['as', create | O_APPEND | O_SYNC],
  ['sa', create | O_APPEND | O_SYNC],
  ['a+', createBoth | O_APPEND],
  ['ax+', createBoth | O_APPEND | O_EXCL],
  ['xa+', createBoth | O_APPEND | O_EXCL],
  ['as+', createBoth | O_APPEND | O_SYNC],
  ['sa+', createBoth | O_APPEND | O_SYNC]
])

/** Returns the `O_*` bits of a `flags` argument. */
export function flagsOf(value: unknown): number {
  if (typeof value !== 'string') return integer('flags', value, 0, MAX_INT)
  const flags = names.get(value)
  if (flags === undefined)
    throw invalidValue('flags', `must be a flag string of node:fs, such as 'r' or 'w+'. Received '${value}'`)
  return flags
}

/** Returns what flags do to a file. `O_CREAT` and `O_TRUNC` change it, whatever the descriptor allows afterwards. */
export function accessOf(flags: number): 'read' | 'write' | 'read-write' {
  if ((flags & O_ACCMODE) === O_RDONLY) return hasCreate(flags) || hasTruncate(flags) ? 'read-write' : 'read'
  return (flags & O_ACCMODE) === O_WRONLY ? 'write' : 'read-write'
}

/** Whether a missing file is created. */
export function hasCreate(flags: number): boolean {
  return (flags & O_CREAT) !== 0
}

/** Whether an existing file is an error. */
export function hasExclusive(flags: number): boolean {
  return (flags & O_EXCL) !== 0 && hasCreate(flags)
}

/** Whether the file is truncated. */
export function hasTruncate(flags: number): boolean {
  return (flags & O_TRUNC) !== 0
}

/** Whether every write goes to the end of the file. */
export function hasAppend(flags: number): boolean {
  return (flags & O_APPEND) !== 0
}
