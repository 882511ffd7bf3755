import type { Credentials } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'

/** The permission to get an entry: a bit of a file mode's digit. */
export const READ = 4
/** The permission to replace or delete an entry. */
export const WRITE = 2

/** Descriptors that are stored under a name. */
export interface Entry {
  readonly name: string
  readonly fds: readonly Descriptor[]
  readonly uid: number
  readonly gid: number
  readonly mode: number
  /** When the entry expires, on the clock of `performance.now()`; Infinity for never. */
  readonly deadline: number
  readonly timer: NodeJS.Timeout | undefined
}

/** Whether an entry's mode grants a permission to a client. Root has every permission, as for files. */
export function isAllowed({ uid, gid, mode }: Entry, credentials: Credentials, permission: number): boolean {
  if (credentials.uid === 0) return true
  if (credentials.uid === uid) return (mode & (permission << 6)) !== 0
  if (credentials.gid === gid || credentials.groups?.includes(gid) === true) return (mode & (permission << 3)) !== 0
  return (mode & permission) !== 0
}
