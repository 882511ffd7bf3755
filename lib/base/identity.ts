import { integer } from './validate.ts'
import { invalidType, invalidValue, shown } from './errors.ts'
import { systemError } from '../native/system-error.ts'
import { findGroup, findUser } from '../native/binding.ts'

/** The maximum user or group id: all ones mean "unchanged" to setresuid(2). */
const MAX_ID = 0xffff_fffe

/** The user and group that a process runs as. */
export interface Identity {
  readonly uid: number
  readonly gid: number
}

/** Returns the variables that a login sets for a user: environ(7). Those of a user without an entry in the user database are undefined. */
export function loginVariables(nameOrId: string | number): Readonly<Record<string, string | undefined>> {
  const found = findUser(nameOrId)
  const user = typeof found === 'number' || found === null ? undefined : found
  return { HOME: user?.home, USER: user?.name, LOGNAME: user?.name, SHELL: user?.shell }
}

/** Returns the identity that the `user` and `group` options name; undefined if it is this process's own. */
export function identityOf(user: unknown, group: unknown, options = 'options'): Identity | undefined {
  const own = { uid: process.geteuid!(), gid: process.getegid!() }
  const named = user === undefined ? own : userOf(`${options}.user`, user, `${options}.group`, group !== undefined)
  const gid = group === undefined ? named.gid : groupOf(`${options}.group`, group)
  const { uid } = named
  if (user === undefined && group === undefined) return undefined
  return own.uid !== 0 && uid === own.uid && gid === own.gid ? undefined : { uid, gid }
}

function userOf(argument: string, user: unknown, groupArgument: string, hasGroup: boolean): Identity {
  if (typeof user !== 'string' && typeof user !== 'number') {
    throw invalidType(argument, 'of type string or number', user)
  }
  const found = findUser(typeof user === 'number' ? integer(argument, user, 0, MAX_ID) : nameOf(argument, user))
  if (typeof found === 'number') throw systemError(found, 'getpwnam')
  if (found !== null) return { uid: found.uid, gid: found.gid }
  if (typeof user === 'number' && hasGroup) return { uid: user, gid: user }
  const reason =
    typeof user === 'number' ? `needs ${groupArgument} with it: no passwd entry has its group` : 'is not known'
  throw invalidValue(argument, `${reason}. Received ${shown(user)}`)
}

/** Returns the id of the user that an argument names. */
export function uidOf(argument: string, user: unknown): number {
  if (typeof user === 'number') return integer(argument, user, 0, MAX_ID)
  return userOf(argument, user, '', false).uid
}

/** Returns the id of the group that an argument names. */
export function groupOf(argument: string, group: unknown): number {
  if (typeof group === 'number') return integer(argument, group, 0, MAX_ID)
  if (typeof group !== 'string') throw invalidType(argument, 'of type string or number', group)
  const found = findGroup(nameOf(argument, group))
  if (found === null) throw invalidValue(argument, `is not known. Received ${shown(group)}`)
  if (found < 0) throw systemError(found, 'getgrnam')
  return found
}

function nameOf(argument: string, name: string): string {
  if (name === '' || name.includes('\0')) throw invalidValue(argument, 'must be a name')
  return name
}
