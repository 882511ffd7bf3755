import { fstatSync, statfsSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { constants } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import { MAX_INT, invalidState } from '../base/internal.ts'
import type { Descriptor, Kind } from '../descriptor/index.ts'
import { kindOf, takeFromDeno, wrapFd } from '../descriptor/internal.ts'
import { describeErrno, native } from '../native/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { socketpair } from '../socket/index.ts'
import { addressOfSocket } from '../address/internal.ts'
import { FIRST, countOf, isThisProcess, invalidVariable } from './environment.ts'
import type { SystemError } from '../native/index.ts'

/** The file system type of pidfds whose inode number identifies the process: `PID_FS_MAGIC` of statfs(2), since Linux 6.9. */
const PIDFS = 0x50494446

const variables = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES']

/**
 * Adopts the descriptors that the service manager has passed: sd_listen_fds_with_names(3). These are the sockets that systemd listens on
 * for this service, and the descriptors that {@link storeFds} has stored.
 *
 * Removes the variables `LISTEN_PID`, `LISTEN_PIDFDID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, also if they name another process, so that no
 * child process misinterprets them. Call it in the main thread, before any code that starts processes. A Worker has its own copy of the
 * environment, which keeps the variables.
 *
 * @returns the descriptors by name, in the order in which they were passed. The caller owns them and must close them. The name of a
 *   socket is its unit's (`'web.socket'`) or its `FileDescriptorName=`; of a connection (`Accept=yes`) it is `'connection'`. Without names
 *   from the manager it is `'unknown'`. The map is empty if nothing was passed to this process, and at each further call
 * @throws Nothing is adopted then, and the variables stay:
 *   - `EINVAL` for a variable with an invalid value, or with another number of names than of descriptors
 *   - `EBADF` if one of the numbers is not open, or belongs to the runtime; `EEXIST` if fdpass already owns it
 *   - `EMFILE` or `ENFILE` if a descriptor table is full, so that LISTEN_PIDFDID cannot be compared
 *   - ERR_INVALID_STATE in a Worker, if descriptors were passed to this process; ERR_UNSUPPORTED_PLATFORM
 */
export function listenFds(): ReadonlyMap<string, Descriptor[]> {
  const passed = new Map<string, Descriptor[]>()
  const count = isForThisProcess() ? countOf('LISTEN_FDS', BigInt(MAX_INT - FIRST)) : undefined
  if (count !== undefined) {
    if (!isMainThread)
      throw invalidState(
        "listenFds() is the main thread's: a Worker has a copy of the environment, so it cannot remove variables from the process's"
      )
    const names = namesOf(Number(count))
    openReactor()
    takeOver(Number(count))
    for (let i = 0; i < count; i++) {
      const name = names?.[i] ?? 'unknown'
      const descriptors = passed.get(name)
      if (descriptors === undefined) passed.set(name, [wrapFd(FIRST + i)])
      else descriptors.push(wrapFd(FIRST + i))
    }
  }
  for (const variable of variables) delete process.env[variable]
  return passed
}

function isForThisProcess(): boolean {
  if (isThisProcess('LISTEN_PID') !== true) return false
  const id = countOf('LISTEN_PIDFDID')
  if (id === undefined) return true
  // A pid can be reused; the inode number of a pidfd cannot.
  const ours = pidfdId()
  return ours === undefined || ours === id
}

/** The errors of a system that is short of something. They do not say whether it has pidfds. */
const shortages = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS'])

/** Returns the inode number of this process's pidfd; undefined if the kernel's pidfds have no numbers of their own. */
function pidfdId(): bigint | undefined {
  const [one, other] = socketpair()
  try {
    using pidfd = one.peerPidfd() // of the process that called socketpair(2): this one
    if (statfsSync(`/proc/self/fd/${pidfd.fd}`).type !== PIDFS) return undefined
    return fstatSync(pidfd.fd, { bigint: true }).ino
  } catch (error) {
    if (shortages.has((error as SystemError).code)) throw error
    return undefined // before Linux 6.5, or without /proc
  } finally {
    one.close()
    other.close()
  }
}

/** Parses `LISTEN_FDNAMES`: names between colons, in which a backslash escapes the next character, as in libsystemd. */
function namesOf(count: number): string[] | undefined {
  const list = process.env.LISTEN_FDNAMES
  if (list === undefined) return undefined
  // Not split(): there is one name more than unescaped colons.
  const names = ['']
  for (const [part] of list.matchAll(/\\?[^]/gu)) {
    if (part === ':') names.push('')
    else names[names.length - 1] += part.length > 1 && part.startsWith('\\') ? part.slice(1) : part
  }
  if (names.length === count && !/(?<!\\)(\\\\)*\\$/.test(list)) return names
  throw invalidVariable('LISTEN_FDNAMES', `${count} names, as many as LISTEN_FDS announces`, list)
}

/** Registers all descriptor numbers with the native side, or none. */
function takeOver(count: number): void {
  for (let i = 0; i < count; i++) {
    const code = adopt(FIRST + i)
    if (code === 0) continue
    for (let taken = 0; taken < i; taken++) native.release(FIRST + taken)
    throw notPassed(code, FIRST + i, count)
  }
}

function adopt(fd: number): number {
  const code = takeFromDeno(fd) ? native.adopt(fd) : -constants.errno.EBADF
  // If fewer descriptors were passed, the next number is the runtime's: libuv opens its epoll descriptor first.
  if (code !== 0 || kindOf(fd) !== 'epoll') return code
  native.release(fd)
  return -constants.errno.EBADF
}

/** Returns the error of a descriptor number in the environment that cannot be adopted. */
function notPassed(errno: number, fd: number, count: number): SystemError {
  const { name: code } = describeErrno(-errno)
  const why =
    code === 'EEXIST' ? 'is owned by fdpass already' : code === 'EBADF' ? 'is not open' : 'cannot be taken over'
  const error = new Error(`${code}: ${fd}, one of the ${count} descriptors that LISTEN_FDS announces, ${why}, fcntl`)
  return Object.assign(error, { code, errno, syscall: 'fcntl' })
}

/** A socket that the service manager has passed to this process: a listener, or a UDP socket. */
export interface PassedListener {
  readonly name: string
  readonly fd: number
  readonly kind: Kind
  readonly address: AddressInfo | string | null
}

/** Returns the sockets that the service manager has passed to this process. Adopts nothing, and leaves the variables as they are. */
export function passedListeners(): readonly PassedListener[] {
  const count = isForThisProcess() ? Number(countOf('LISTEN_FDS', BigInt(MAX_INT - FIRST)) ?? 0) : 0
  const names = count === 0 ? undefined : namesOf(count)
  openReactor()
  const all = Array.from({ length: count }, (_, index) => ({ name: names?.[index] ?? 'unknown', fd: FIRST + index }))
  const kinds = all.map((one) => ({ ...one, kind: kindOf(one.fd) }))
  const sockets = kinds.filter(({ kind }) => /^(?:(?:tcp|unix)-listener|udp)$/.test(kind))
  return sockets.map((one) => ({ ...one, address: addressOfSocket(one.fd) }))
}
