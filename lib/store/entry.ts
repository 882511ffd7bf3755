import type { Credentials } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'

/** Who may do what with an entry, as with a file: these bits for its owner, its group, and others. */
export const READ = 4
export const WRITE = 2

/** Descriptors under a name, and whose they are. */
export interface Entry {
  readonly name: string
  readonly fds: readonly Descriptor[]
  readonly uid: number
  readonly gid: number
  readonly mode: number
  /** When it goes, as `performance.now()` tells the time; Infinity for never. */
  readonly deadline: number
  readonly timer: NodeJS.Timeout | undefined
}

/** Whether somebody may do something with an entry. Root may, as with a file. */
export function isAllowed({ uid, gid, mode }: Entry, credentials: Credentials, permission: number): boolean {
  if (credentials.uid === 0) return true
  if (credentials.uid === uid) return (mode & (permission << 6)) !== 0
  if (credentials.gid === gid || credentials.groups?.includes(gid) === true) return (mode & (permission << 3)) !== 0
  return (mode & permission) !== 0
}
