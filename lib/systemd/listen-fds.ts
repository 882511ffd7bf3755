import { fstatSync, statfsSync } from 'node:fs'
import { constants } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import { MAX_INT } from '../base/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { wrapFd, kindOf } from '../descriptor/internal.ts'
import { native } from '../native/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { socketpair } from '../socket/index.ts'
import { inWorker, invalidVariable, notPassed } from './errors.ts'
import { countOf, isThisProcess } from './environment.ts'

/** The number of the first descriptor: `SD_LISTEN_FDS_START`. */
const FIRST = 3

/** What statfs(2) tells of a pidfd whose inode number is its process's own: `PID_FS_MAGIC`, since Linux 6.9. */
const PIDFS = 0x50494446

const variables = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES']

/**
 * Take over the descriptors that the service manager has passed: sd_listen_fds_with_names(3). Sockets that systemd listens on for
 * this service, and what {@link storeFds} has stored.
 *
 * The variables `LISTEN_PID`, `LISTEN_PIDFDID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are removed, also where they are meant for
 * another process, so that no child takes them for its own. Call it before anything that starts processes, and in the main
 * thread: a Worker has a copy of the environment from which nobody has removed them.
 *
 * @returns the descriptors by name, in the order in which they were passed. They are the caller's to close. A socket's name is
 *   that of its unit (`'web.socket'`) or its `FileDescriptorName=`, a connection's (`Accept=yes`) is `'connection'`, and that of
 *   all is `'unknown'` where the manager told none. Empty where nothing was passed to this process, and at each further call.
 * @throws `EINVAL` where a variable holds what no manager writes, or not as many names as descriptors; `EBADF` where one of the
 *   numbers is not open, or the runtime's own; `EEXIST` where fdpass owns one already. Nothing is taken then, and the variables
 *   stay. ERR_INVALID_STATE in a Worker, where something is meant for this process; ERR_UNSUPPORTED_PLATFORM
 */
export function listenFds(): ReadonlyMap<string, Descriptor[]> {
  const passed = new Map<string, Descriptor[]>()
  const count = isForThisProcess() ? countOf('LISTEN_FDS', BigInt(MAX_INT - FIRST)) : undefined
  if (count !== undefined) {
    if (!isMainThread) throw inWorker('listenFds')
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
  // A pid may have been another process's before; the inode number of its pidfd never was.
  const ours = pidfdId()
  return ours === undefined || ours === id
}

/** The inode number of this process's pidfd; undefined where the kernel has none that is its own. */
function pidfdId(): bigint | undefined {
  const [one, other] = socketpair()
  try {
    using pidfd = one.peerPidfd() // of whoever called socketpair(2)
    if (statfsSync(`/proc/self/fd/${pidfd.fd}`).type !== PIDFS) return undefined
    return fstatSync(pidfd.fd, { bigint: true }).ino
  } catch {
    return undefined // before Linux 6.5, and without a /proc
  } finally {
    one.close()
    other.close()
  }
}

/** The names in `LISTEN_FDNAMES`, between colons; a backslash takes the next character as it is, as libsystemd reads them. */
function namesOf(count: number): string[] | undefined {
  const list = process.env.LISTEN_FDNAMES
  if (list === undefined) return undefined
  // One by one: there is one more than colons that no backslash precedes.
  const names = ['']
  for (const [part] of list.matchAll(/\\?[^]/gu)) {
    if (part === ':') names.push('')
    else names[names.length - 1] += part.length > 1 && part.startsWith('\\') ? part.slice(1) : part
  }
  if (names.length === count && !/(?<!\\)(\\\\)*\\$/.test(list)) return names
  throw invalidVariable('LISTEN_FDNAMES', `${count} names, as many as LISTEN_FDS tells of`, list)
}

/** Hands all of the numbers to the native side, or none. */
function takeOver(count: number): void {
  for (let i = 0; i < count; i++) {
    const code = adopt(FIRST + i)
    if (code === 0) continue
    for (let taken = 0; taken < i; taken++) native.release(FIRST + taken)
    throw notPassed(code, FIRST + i, count)
  }
}

function adopt(fd: number): number {
  const code = native.adopt(fd)
  // The first number that nothing was passed under is the runtime's own: libuv opens its epoll before anything else.
  if (code !== 0 || kindOf(fd) !== 'epoll') return code
  native.release(fd)
  return -constants.errno.EBADF
}
