import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { groupOf, uidOf } from '../base/identity.ts'
import { integer } from '../base/validate.ts'
import { invalidValue, withCode } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { AGAIN } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { retry } from '../base/backoff.ts'

/** The file of a socket that is bound to a path. */
export interface SocketFileOptions {
  /** The permissions of the socket's file, such as 0o600 (default: 0o777 minus the umask). */
  mode?: number | undefined
  /** The owner of the socket's file, a name or a uid (default: this process's user). Only root can choose another one: chown(2). */
  owner?: string | number | undefined
  /**
   * The group of the socket's file, a name or a gid (default: this process's group, or the folder's: chown(2)). Without root it is one of
   * this process's groups.
   */
  group?: string | number | undefined
}

/** Validated {@link SocketFileOptions}. */
export interface FileAccess {
  readonly mode?: number | undefined
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

/** Validates the options for the file of a socket. */
export function fileAccessOf({ mode, owner, group }: SocketFileOptions, name: Uint8Array | null): FileAccess {
  const given = Object.entries({ mode, owner, group }).find(([, value]) => value !== undefined)
  const access = {
    mode: mode === undefined ? undefined : integer('options.mode', mode, 0, 0o777),
    uid: owner === undefined ? undefined : uidOf('options.owner', owner),
    gid: group === undefined ? undefined : groupOf('options.group', group)
  }
  if (given !== undefined && (name === null || name[0] === 0)) {
    throw invalidValue(`options.${given[0]}`, 'is for a path: this socket has no file')
  }
  return access
}

/** Binds a socket; null for an address of the kernel's choice. Throws EADDRINUSE while another process replaces the file. */
export function bindAddress(fd: number, name: Uint8Array | null, access: FileAccess = {}): void {
  check(fd, bindOnce(fd, name, access), name, access)
}

/** Binds a socket; while another process replaces the file, retries until the outcome is known. */
export async function bindAddressWithRetry(fd: number, name: Uint8Array, access: FileAccess): Promise<void> {
  const deadline = performance.now() + LOCK_TIMEOUT_MS
  check(
    fd,
    await retry(() => (performance.now() > deadline ? IN_USE : bindOnce(fd, name, access)), AGAIN),
    name,
    access
  )
}

/** How long another process may hold the lock beside a socket's file, in milliseconds. Replacing a file takes microseconds. */
const LOCK_TIMEOUT_MS = 2000

const IN_USE = -constants.errno.EADDRINUSE
const NOT_SUPPORTED = -constants.errno.EOPNOTSUPP

let removesFiles = false

/** Removes the files of all sockets at 'exit': process.exit() ends the main thread without the end of its environment. */
function removeFilesAtExit(): void {
  if (!removesFiles) process.once('exit', () => native.removeFiles())
  removesFiles = true
}

function bindOnce(fd: number, name: Uint8Array | null, { mode }: FileAccess): number {
  removeFilesAtExit()
  return native.bind(fd, name, mode)
}

/** The identity of a bound socket's file, for the process that takes the socket over; null if this process owns no file. */
export type FileId = string | null

/** Gives up the file of a bound socket: closing the socket does not remove it any more. Returns the file's identity. */
export function disownFile(fd: number): FileId {
  const id = native.handFileOn(fd)
  if (typeof id === 'number') throw systemError(id, 'bind')
  return id === null ? null : Buffer.from(id).toString('hex')
}

/** Takes over the file of a socket that another process disowned: closing the socket removes it, if it is still that file. */
export function claimFile(fd: number, id: FileId): void {
  if (id === null) return
  removeFilesAtExit()
  native.claimFile(fd, Buffer.from(id, 'hex'))
}

/** Throws if a bind has failed; otherwise gives the file to its owner and group. */
function check(fd: number, code: number, name: Uint8Array | null, { mode, uid, gid }: FileAccess): void {
  if (code === 0) {
    const failure = uid === undefined && gid === undefined ? 0 : native.setFileOwner(fd, uid, gid)
    if (failure < 0) throw systemError(failure, 'chown', Buffer.from(name ?? '').toString())
    return
  }
  const address = name === null ? undefined : Buffer.from(name).toString()
  if (code === NOT_SUPPORTED && mode !== undefined && !existsSync('/proc/self/fd')) {
    throw withCode(
      new Error(
        `${address} cannot have mode 0o${mode.toString(8)}, which the umask restricts: that needs /proc, or Linux 6.6`
      ),
      'ERR_UNSUPPORTED_PLATFORM'
    )
  }
  throw systemError(code === AGAIN ? IN_USE : code, 'bind', address)
}
