import { boolean, MAX_INT, integer } from '../base/validate.ts'
import { invalidType } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

/** The identity of a process, as the kernel reports it. */
export interface Credentials {
  /**
   * The process id; null if the kernel does not report it, for instance for a process outside of this pid namespace. The kernel may have
   * reused it since: only a pidfd identifies a process safely.
   */
  readonly pid: number | null
  /** The user id. Compare it only if `unknownUid` is not set. */
  readonly uid: number
  /** The group id. Compare it only if `unknownGid` is not set. */
  readonly gid: number
  /**
   * True if `uid` identifies no user; otherwise missing. Linux reports the overflow uid (usually 65534, which is also the user nobody) for
   * each user that this process's user namespace does not map, and for bytes that were sent before credentials were requested.
   */
  readonly unknownUid?: boolean
  /** True if `gid` identifies no group, as `unknownUid`; otherwise missing. */
  readonly unknownGid?: boolean
  /** The supplementary groups of a connection's peer, if the kernel reports them, without those that are unknown. */
  readonly groups?: number[]
  /** The security label of a connection's peer (SELinux, AppArmor, Smack), if it has one. */
  readonly label?: string
}

/** Returns whether credentials are those of a user. An unknown user has none. */
export function isUser({ uid, unknownUid }: Credentials, user: number): boolean {
  return unknownUid !== true && uid === user
}

/** Returns whether credentials include a group. */
export function isInGroup({ gid, unknownGid, groups }: Credentials, group: number): boolean {
  return (unknownGid !== true && gid === group) || groups?.includes(group) === true
}

/** Returns a user for an error's text: `user 1000`. */
export function userText({ uid, unknownUid }: Credentials): string {
  return unknownUid === true ? `a user outside of this user namespace (reported as ${uid})` : `user ${uid}`
}

/** The ancillary data that the kernel adds to each message that a socket receives. */
export interface AncillaryOptions {
  /**
   * The sender's credentials, in `Message.credentials`: `SO_PASSCRED` (default false). The kernel fills them in or checks them: only root
   * can claim another identity.
   */
  credentials?: boolean | undefined
  /** A pidfd of the sender, in `Message.pidfd`: `SO_PASSPIDFD`, since Linux 6.5 (default false). */
  pidfd?: boolean | undefined
}

/** Checked {@link AncillaryOptions}. */
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

/** The credentials to send with a message. */
export interface SentCredentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** The maximum user or group id; the next number means "none". */
const MAX_ID = 0xffff_fffe

/** Returns the `credentials` option of `send`. */
export function sentCredentialsOf(value: unknown): SentCredentials | undefined {
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

/** Returns the credentials of a connection's peer. */
export function peerOf(fd: number): Credentials {
  const peer = native.peer(fd)
  if (typeof peer === 'number') throw systemError(peer, 'getsockopt')
  return peer
}
