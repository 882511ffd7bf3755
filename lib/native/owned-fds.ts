import { systemError } from './system-error.ts'
import { fds } from './shared-memory.ts'
import { native } from './binding.ts'

/** Duplicates the first `count` of the shared numbers: `F_DUPFD_CLOEXEC`. The native side owns the duplicates. */
export function duplicateShared(count: number): number[] {
  const code = native.duplicate(count)
  if (code < 0) throw systemError(code, 'fcntl')
  return Array.from(fds.subarray(0, count))
}

/** Duplicates a descriptor: `F_DUPFD_CLOEXEC`. The native side owns the duplicate. */
export function duplicateFd(fd: number): number {
  fds[0] = fd
  const code = native.duplicate(1)
  if (code < 0) throw systemError(code, 'fcntl')
  return fds[0]
}

/**
 * Has an object of Node's take a descriptor, which stays as it is if `take` throws. A Worker can be terminated when both own it. Node
 * closes its objects first. The native side then closes the number only if it is still the same file, because another thread can have it.
 */
export function giveFd<T>(fd: number, take: (fd: number) => T): T {
  native.setLeaving(fd, 1)
  let object: T
  try {
    object = take(fd)
  } catch (error) {
    native.setLeaving(fd, 0)
    throw error
  }
  native.release(fd)
  return object
}

/** Closes numbers that the native side owns, runs of them with one system call. */
export function closeFds(numbers: readonly number[]): void {
  if (numbers.length === 1) {
    native.close(numbers[0]!)
    return
  }
  for (let from = 0; from < numbers.length; from += fds.length) {
    const count = Math.min(numbers.length - from, fds.length)
    for (let i = 0; i < count; i++) fds[i] = numbers[from + i]!
    native.closeAll(count)
  }
}

/** Closes on the thread pool; resolves to 0, or to the first error number, negative. */
export function closeFdsLater(numbers: number[]): Promise<number> {
  return native.closeLater(numbers)
}
