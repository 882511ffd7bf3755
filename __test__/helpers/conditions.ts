import { execFileSync, spawnSync } from 'node:child_process'
import { freemem } from 'node:os'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test, { type ExecutionContext, type SerialFn, type TestFn } from 'ava'

export const isLinux = process.platform === 'linux'

/** A Python that has `socket.send_fds` and `socket.recv_fds`: 3.9 or later. */
export const hasPython = spawnSync('python3', ['-c', 'import socket; socket.send_fds']).status === 0

/** Returns whether the kernel has bytes out of band on Unix sockets, as Linux from 5.15 on, and Python 3.9 can send them. */
export function hasOutOfBand(): boolean {
  const script = 'import socket; socket.send_fds; a, b = socket.socketpair(); a.send(b"x", socket.MSG_OOB)'
  return spawnSync('python3', ['-c', script]).status === 0
}

/**
 * Returns whether openat2(2) takes a flag of `resolve`: `RESOLVE_BENEATH` from Linux 5.6 on, `RESOLVE_CACHED` from 5.12 on. Assumed without
 * Python. The call's number is the same on every architecture.
 */
export function canResolve(flag: 'beneath' | 'cached'): boolean {
  const open = `syscall(437, -100, b".", (ctypes.c_uint64 * 3)(os.O_PATH, 0, ${{ beneath: 8, cached: 32 }[flag]}), 24)`
  // Where the file system of "." has nothing in the cache, as hostfs, the call fails with EAGAIN.
  const script = `import ctypes, errno, os
failed = ctypes.CDLL(None, use_errno=True).${open} < 0
os._exit(3 if failed and ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.EPERM) else 0)`
  return isLinux && spawnSync('python3', ['-c', script]).status !== 3
}

/** How many descriptors a process may have. */
export const fdLimit = Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' })) || Infinity

/** Whether this process can use that many bytes of memory: on this machine, and in its control group. */
export function hasMemory(bytes: number): boolean {
  const limit = process.constrainedMemory?.() ?? 0
  return freemem() > bytes && (limit === 0 || limit - process.memoryUsage.rss() > bytes)
}

/** `test` where a condition holds, and otherwise `test.skip` with the reason in the title. */
export function onlyIf(condition: boolean, reason: string, kind: TestFn | SerialFn = test) {
  return (title: string, body: (t: ExecutionContext) => void | Promise<void>) =>
    condition ? kind(title, body) : kind.skip(`${title} (skipped: ${reason})`, body)
}

let collect: (() => void) | undefined

/** How many bytes of memory JavaScript's values take after a collection of garbage. */
export function retainedBytes(): number {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as () => void
  }
  collect()
  const { heapUsed, external, arrayBuffers } = process.memoryUsage()
  return heapUsed + Math.max(external, arrayBuffers)
}
