import type { Credentials } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'

/** Who may do what with an entry, as with a file: these bits for its owner, its group, and others. */
export const GET = 4
export const CHANGE = 2

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
export function isAllowed({ uid, gid, mode }: Entry, who: Credentials, what: number): boolean {
  if (who.uid === 0) return true
  if (who.uid === uid) return (mode & (what << 6)) !== 0
  if (who.gid === gid || who.groups?.includes(gid) === true) return (mode & (what << 3)) !== 0
  return (mode & what) !== 0
}
