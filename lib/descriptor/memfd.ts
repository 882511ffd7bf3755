import { ftruncateSync, writeSync } from 'node:fs'
import { type Bytes, bytesOf, integer, optionsOf } from '../base/validate.ts'
import { type Descriptor, wrapFd } from './descriptor.ts'
import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'
import type { Seal } from './seals.ts'

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
    if (size !== undefined) ftruncateSync(fd, size)
    if (content !== undefined) writeAll(fd, content)
    if (seals !== undefined) memory.seal(seals)
    return memory
  } catch (error) {
    memory.closeSync()
    throw error
  }
}

function writeAll(fd: number, data: Uint8Array): void {
  for (let offset = 0; offset < data.length;) offset += writeSync(fd, data, offset, data.length - offset, offset)
}
