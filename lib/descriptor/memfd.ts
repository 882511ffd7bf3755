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
  /** What /proc shows, at most 249 bytes (default `'fdpass'`); it need not be unique. */
  name?: string | undefined
  /** What it holds, from its first byte on. */
  data?: Bytes | undefined
  /** Its size in bytes, filled up with zeros (default: that of `data`). */
  size?: number | undefined
  /** What nobody can do to it any more, from the start; see {@link Descriptor.seal}. */
  seals?: readonly Seal[] | undefined
}

/** The longest name of a memfd: NAME_MAX less the kernel's prefix (memfd_create(2)). */
const MAX_NAME = 249

/**
 * Make memory that processes share by passing its descriptor: memfd_create(2). It is gone with its last descriptor and its
 * last mapping.
 *
 * It is read and written as a file is. The offset, which receivers share, stays at 0: what `data` gives is not written
 * through it.
 *
 * @param options `name`, `data`, `size`, `seals`
 * @returns the memory's descriptor, which is the caller's to close
 * @throws `EMFILE`; `ENOMEM`, `ENOSPC` or `EFBIG` for more than there is room for; `ENOSYS` on macOS;
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
