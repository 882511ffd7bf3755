import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { integer } from '../base/validate.ts'
import { invalidValue, withCode } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { AGAIN } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { retry } from '../base/backoff.ts'

/** Returns the `mode` option for the file of a socket. */
export function modeOf(mode: unknown, name: Uint8Array | null): number | undefined {
  if (mode === undefined) return undefined
  const permissions = integer('options.mode', mode, 0, 0o777)
  if (name === null || name[0] === 0) throw invalidValue('options.mode', 'is for a path: this socket has no file')
  return permissions
}

/** Binds a socket; null for an address of the kernel's choice. Throws EADDRINUSE while another process replaces the file. */
export function bindAddress(fd: number, name: Uint8Array | null, mode?: number): void {
  check(bind(fd, name, mode), name, mode)
}

/** Binds a socket; while another process replaces the file, retries until the outcome is known. */
export async function bindAddressWithRetry(fd: number, name: Uint8Array, mode: number | undefined): Promise<void> {
  const deadline = performance.now() + LOCK_TIMEOUT_MS
  check(await retry(() => (performance.now() > deadline ? IN_USE : bind(fd, name, mode)), AGAIN), name, mode)
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

function bind(fd: number, name: Uint8Array | null, mode: number | undefined): number {
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

function check(code: number, name: Uint8Array | null, mode?: number): void {
  if (code === 0) return
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
