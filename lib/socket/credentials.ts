import { boolean, MAX_INT, integer } from '../base/validate.ts'
import { invalidType } from '../base/errors/argument.ts'

/** A process as the kernel names it. */
export interface Credentials {
  /**
   * Its process id; null where the kernel does not tell, as for a process outside of this one's pid namespace. It may have
   * been given to another process since: only a pidfd cannot come to mean another one.
   */
  readonly pid: number | null
  /** Its user. */
  readonly uid: number
  /** Its group. */
  readonly gid: number
  /** Its supplementary groups: of a connection's peer, where the kernel tells them. */
  readonly groups?: number[]
  /** Its security label (SELinux, AppArmor, Smack): of a connection's peer, where there is one. */
  readonly label?: string
}

/** What a socket has the kernel tell with each message that it receives. */
export interface AncillaryOptions {
  /**
   * The sender's credentials, in `Message.credentials`: `SO_PASSCRED`. The kernel fills them in or checks them, so that only
   * root can pretend to be somebody else.
   */
  credentials?: boolean | undefined
  /** A pidfd of the sender, in `Message.pidfd`: `SO_PASSPIDFD`, from Linux 6.5 on. */
  pidfd?: boolean | undefined
}

/** The ancillary data that the kernel adds to each message that a socket receives. */
export interface EnabledAncillary {
  readonly credentials: boolean
  readonly pidfd: boolean
}

/** Checks the `credentials` and `pidfd` of an `options` argument. Returns undefined if neither is set. */
export function ancillaryOf(options: AncillaryOptions | undefined): EnabledAncillary | undefined {
  const { credentials = false, pidfd = false } = options ?? {}
  boolean('options.credentials', credentials)
  boolean('options.pidfd', pidfd)
  return credentials || pidfd ? { credentials, pidfd } : undefined
}

/** The credentials that a message claims, as the native calls take them. */
export interface Claim {
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** The largest user or group id; one more means "none". */
const MAX_ID = 0xffff_fffe

/** The `credentials` of `send`. */
export function claimOf(value: unknown): Claim | undefined {
  if (value === undefined) return undefined
  if (value === true) return { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
  if (typeof value !== 'object' || value === null) {
    throw invalidType('options.credentials', 'true or an object with pid, uid and gid', value)
  }
  const { pid, uid, gid } = value as Partial<Credentials>
  return {
    pid: pid === null ? process.pid : integer('options.credentials.pid', pid, 1, MAX_INT),
    uid: integer('options.credentials.uid', uid, 0, MAX_ID),
    gid: integer('options.credentials.gid', gid, 0, MAX_ID)
  }
}
