import { constants } from 'node:fs'
import { MAX_INT, integer, invalidValue } from '../base/internal.ts'

const { O_ACCMODE, O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_SYNC, O_TRUNC, O_WRONLY } = {
  O_ACCMODE: 3,
  ...constants
}

const create = O_CREAT | O_WRONLY
const createBoth = O_CREAT | O_RDWR

/** What `node:fs` calls them. */
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

/** The flags of an argument. */
export function flagsOf(value: unknown): number {
  if (typeof value !== 'string') return integer('flags', value, 0, MAX_INT)
  const flags = names.get(value)
  if (flags === undefined) throw invalidValue('flags', `must be one of node:fs. Received '${value}'`)
  return flags
}

/** What flags ask for. */
export function accessOf(flags: number): 'read' | 'write' | 'read-write' {
  if ((flags & O_ACCMODE) === O_RDONLY) return 'read'
  return (flags & O_ACCMODE) === O_WRONLY ? 'write' : 'read-write'
}

/** Whether a file is to be created if there is none. */
export function hasCreate(flags: number): boolean {
  return (flags & O_CREAT) !== 0
}

/** Whether a file that is there already is an error. */
export function hasExclusive(flags: number): boolean {
  return (flags & O_EXCL) !== 0 && hasCreate(flags)
}

/** Whether the file is to be emptied. */
export function hasTruncate(flags: number): boolean {
  return (flags & O_TRUNC) !== 0
}

/** Whether all that is written goes to the file's end. */
export function hasAppend(flags: number): boolean {
  return (flags & O_APPEND) !== 0
}
