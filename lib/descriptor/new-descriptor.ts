import { type Bytes, bigInteger, boolean, bytesOf, integer, optionsOf } from '../base/validate.ts'
import { type Descriptor, wrapFd } from './descriptor.ts'
import { invalidType, invalidValue, withCode } from '../base/errors.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import type { Seal } from './kind.ts'

/** Options of {@link memfd}. */
export interface MemfdOptions {
  /** The name in /proc, at most 249 bytes (default `'fdpass'`). It need not be unique. */
  name?: string | undefined
  /** The content, from the first byte on (default: none). */
  data?: Bytes | undefined
  /** The size in bytes, filled up with zeros (default: the size of `data`). */
  size?: number | undefined
  /** The initial seals (default: none); see {@link Descriptor.seal}. */
  seals?: readonly Seal[] | undefined
}

/** The maximum length of a memfd's name: NAME_MAX minus the kernel's prefix (memfd_create(2)). */
const MAX_NAME = 249

/**
 * Creates memory that processes share by passing its descriptor: memfd_create(2). The kernel frees it with its last descriptor and mapping.
 *
 * It is read and written like a file. The offset, which receivers share, is 0: `data` is written without moving it.
 *
 * @param options `name`, `data`, `size`, `seals`
 * @returns the memory's descriptor, which the caller owns
 * @throws `EMFILE`; `ENOMEM`, `ENOSPC` or `EFBIG` if the size is too large; `ENOSYS` on macOS;
 *   ERR_UNSUPPORTED_PLATFORM
 *
 * @example
 * ```js
 * import { memfd } from 'fdpass'
 *
 * const memory = memfd({ data: 'shared', seals: ['write', 'shrink', 'grow'] })
 * console.log(await memory.text()) // shared
 * memory.closeSync()
 * ```
 */
export function memfd(options?: MemfdOptions): Descriptor {
  openReactor()
  const { name = 'fdpass', data, size, seals } = optionsOf(options) ?? {}
  if (typeof name !== 'string') throw invalidType('options.name', 'of type string', name)
  const nameBytes = Buffer.from(name)
  if (nameBytes.length > MAX_NAME) throw invalidValue('options.name', `must have at most ${MAX_NAME} bytes`)
  if (nameBytes.includes(0)) throw invalidValue('options.name', 'must not contain a NUL, which would end it')
  const content = data === undefined ? undefined : bytesOf(data, 'options.data')
  if (size !== undefined) integer('options.size', size, content?.length ?? 0, Number.MAX_SAFE_INTEGER)
  const fd = native.memfd(name)
  if (fd < 0) throw systemError(fd, 'memfd_create')
  const memory = wrapFd(fd)
  try {
    if (size !== undefined) check(native.setSize(fd, size), 'ftruncate')
    if (content !== undefined) check(native.fill(content, fd), 'pwrite')
    if (seals !== undefined) memory.seal(seals)
    return memory
  } catch (error) {
    memory.closeSync()
    throw error
  }
}

function check(code: number, syscall: string): void {
  if (code < 0) throw systemError(code, syscall)
}

/**
 * Creates a pipe: pipe2(2). Both ends are close-on-exec and in blocking mode, which programs expect of their standard input and output.
 *
 * @returns the end to read from and the end to write to, which the caller owns
 * @throws `EMFILE`; ERR_UNSUPPORTED_PLATFORM
 */
export function pipe(): [read: Descriptor, write: Descriptor] {
  openReactor()
  const ends = native.pipe()
  if (typeof ends === 'number') throw systemError(ends, 'pipe')
  const [read, write] = ends
  return [wrapFd(read), wrapFd(write)]
}

/** Options of {@link eventfd}. */
export interface EventfdOptions {
  /** The initial value of the counter, 0 to 2^64 - 2 (default 0). */
  initial?: number | bigint | undefined
  /** Whether a read takes one from the counter, as from a semaphore, and not everything (default false). */
  semaphore?: boolean | undefined
}

/** The highest value of a counter. */
const MAX_COUNT = 2n ** 64n - 2n

/**
 * Creates a counter that processes share by passing its descriptor: eventfd(2).
 *
 * A {@link Descriptor.write} of 8 bytes, an integer in the machine's byte order, adds to the counter. A {@link Descriptor.read} waits until it
 * is not zero, and returns its value in 8 bytes. It is close-on-exec and in blocking mode, which other programs expect.
 *
 * @param options `initial`, `semaphore`
 * @returns the counter's descriptor, which the caller owns
 * @throws `EMFILE`; ERR_UNSUPPORTED_PLATFORM on macOS, which has none
 */
export function eventfd(options?: EventfdOptions): Descriptor {
  openReactor()
  const { initial = 0, semaphore = false } = optionsOf(options) ?? {}
  const count = bigInteger('options.initial', initial, MAX_COUNT)
  boolean('options.semaphore', semaphore)
  if (process.platform === 'darwin') {
    throw withCode(new Error('macOS has no eventfd(2): use a pipe'), 'ERR_UNSUPPORTED_PLATFORM')
  }
  const fd = native.eventfd(count, semaphore)
  if (fd < 0) throw systemError(fd, 'eventfd')
  return wrapFd(fd)
}
