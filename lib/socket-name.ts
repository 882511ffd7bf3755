import { constants } from 'node:os'
import { putName } from './address.ts'
import { integer } from './arguments.ts'
import { invalidValue, systemError } from './errors.ts'
import { AGAIN, native } from './native.ts'
import { retry } from './pause.ts'

/** The `mode` of an `options` argument for the file of a socket; -1 for what the umask leaves. */
export function modeOf(mode: unknown, name: Uint8Array | null): number {
  if (mode === undefined) return -1
  const permissions = integer('options.mode', mode, 0, 0o777)
  if (name === null || name[0] === 0) throw invalidValue('options.mode', 'is for a path: this socket has no file')
  return permissions
}

/** Binds a socket; null for a name of the kernel's choice. While another process replaces the file, it is in use. */
export function giveName(fd: number, name: Uint8Array | null, mode = -1): void {
  check(bind(fd, name, mode), name)
}

/** As `giveName`, waiting for the outcome of another process's attempt to replace the file. */
export async function giveNameLater(fd: number, name: Uint8Array, mode: number): Promise<void> {
  const deadline = performance.now() + PATIENCE
  check(await retry(() => (performance.now() > deadline ? IN_USE : bind(fd, name, mode)), AGAIN), name)
}

/** How long another process may hold the lock beside a socket's file, in milliseconds. It takes microseconds. */
const PATIENCE = 2000

const IN_USE = -constants.errno.EADDRINUSE

let removesFiles = false

function bind(fd: number, name: Uint8Array | null, mode: number): number {
  if (!removesFiles) {
    // The end of the environment removes them too, but process.exit() ends the main thread without it.
    removesFiles = true
    process.once('exit', () => native.removeFiles())
  }
  return native.bind(fd, name === null ? 0 : putName(name), mode)
}

function check(code: number, name: Uint8Array | null): void {
  if (code === 0) return
  const address = name === null ? undefined : Buffer.from(name).toString()
  throw systemError(code === AGAIN ? IN_USE : code, 'bind', address)
}
