import { constants } from 'node:os'
import { integer } from '../base/validate.ts'
import { invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { AGAIN } from '../native/codes.ts'
import { native } from '../native/binding.ts'
import { retry } from '../base/backoff.ts'

/** Checks the `mode` of an `options` argument for the file of a socket. */
export function modeOf(mode: unknown, name: Uint8Array | null): number | undefined {
  if (mode === undefined) return undefined
  const permissions = integer('options.mode', mode, 0, 0o777)
  if (name === null || name[0] === 0) throw invalidValue('options.mode', 'is for a path: this socket has no file')
  return permissions
}

/** Binds a socket; null for a name of the kernel's choice. While another process replaces the file, it is in use. */
export function bindAddress(fd: number, name: Uint8Array | null, mode?: number): void {
  check(bind(fd, name, mode), name)
}

/** As `giveName`, waiting for the outcome of another process's attempt to replace the file. */
export async function bindAddressWithRetry(fd: number, name: Uint8Array, mode: number | undefined): Promise<void> {
  const deadline = performance.now() + PATIENCE
  check(await retry(() => (performance.now() > deadline ? IN_USE : bind(fd, name, mode)), AGAIN), name)
}

/** How long another process may hold the lock beside a socket's file, in milliseconds. It takes microseconds. */
const PATIENCE = 2000

const IN_USE = -constants.errno.EADDRINUSE

let removesFiles = false

/** The end of the environment removes the files of its sockets too, but process.exit() ends the main thread without it. */
function removeFilesAtExit(): void {
  if (!removesFiles) process.once('exit', () => native.removeFiles())
  removesFiles = true
}

function bind(fd: number, name: Uint8Array | null, mode: number | undefined): number {
  removeFilesAtExit()
  return native.bind(fd, name, mode)
}

/** What identifies the file of a bound socket, for whoever takes the socket over; null where there is none of this process's. */
export type FileId = string | null

/** Leaves the file of a bound socket where it is, whatever becomes of the socket here. */
export function disownFile(fd: number): FileId {
  const id = native.handFileOn(fd)
  if (typeof id === 'number') throw systemError(id, 'bind')
  return id === null ? null : Buffer.from(id).toString('hex')
}

/** Has the file of a socket that another process has handed on removed with the socket, if it still is that file. */
export function claimFile(fd: number, id: FileId): void {
  if (id === null) return
  removeFilesAtExit()
  native.claimFile(fd, Buffer.from(id, 'hex'))
}

function check(code: number, name: Uint8Array | null): void {
  if (code === 0) return
  const address = name === null ? undefined : Buffer.from(name).toString()
  throw systemError(code === AGAIN ? IN_USE : code, 'bind', address)
}
