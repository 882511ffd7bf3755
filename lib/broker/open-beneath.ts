import { readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import type { Descriptor } from '../descriptor/index.ts'
import { takeFd, wrapFd, borrow } from '../descriptor/internal.ts'
import { pathError } from '../base/internal.ts'
import { AGAIN, native } from '../native/internal.ts'
import { accessOf, hasAppend, hasCreate, hasExclusive, hasTruncate } from './open-flags.ts'
import type { OpenRequest } from './policy.ts'
import type { Candidate, Roots } from './roots.ts'

const { EACCES, EAGAIN, EEXIST, ENOENT, ENOTDIR, ESTALE } = constants.errno

/** The number of attempts while other processes create, replace or remove the file. */
const MAX_ATTEMPTS = 8

/** The arguments of `Broker.open`. */
export interface OpenArguments {
  readonly path: string
  readonly flags: number
  readonly mode: number
}

/** Calls the policy; rejects if it denies the request. */
export type Authorize = (request: OpenRequest) => Promise<void>

/**
 * Opens a file beneath one of the roots: locates it, has the request authorized, then opens exactly the located file. If
 * the file does not exist and the flags have `O_CREAT`, creates it.
 */
export async function openBeneath(roots: Roots, args: OpenArguments, authorize: Authorize): Promise<Descriptor> {
  const { path, flags, mode } = args
  const failed = (code: number) => pathError(code === AGAIN ? -EAGAIN : code, 'openat2', path)
  const candidates = roots.candidates(path)
  if (candidates.length === 0) throw failed(-EACCES)
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const { fd, candidate } = find(candidates, flags)
    let code: number
    if (fd >= 0) {
      const found = wrapFd(fd)
      try {
        await authorize(requestFor(args, candidate, found)) // before EEXIST: a denied client must not learn that the file exists
        if (hasExclusive(flags)) throw failed(-EEXIST)
        code = native.openFound(Buffer.from(candidate.path), candidate.root.directory[borrow](), found[borrow](), flags)
      } finally {
        native.close(takeFd(found)) // close(2) of an O_PATH descriptor writes nothing back, so its error can be ignored
      }
      if (code === -ESTALE) continue // another process replaced the file
    } else if (fd === -ENOENT && hasCreate(flags)) {
      await authorize(requestFor(args, candidate, null))
      code = native.createBeneath(Buffer.from(candidate.path), candidate.root.directory[borrow](), flags, mode)
      if (code === -EEXIST && !hasExclusive(flags)) continue // another process created the file, or the path is a dangling link
    } else {
      throw failed(fd)
    }
    if (code < 0) throw failed(code)
    return wrapFd(code)
  }
  throw failed(-EACCES)
}

/** Locates the file beneath the first candidate that contains it; otherwise returns the first candidate and its error. */
function find(candidates: readonly Candidate[], flags: number): { fd: number; candidate: Candidate } {
  let missing: { fd: number; candidate: Candidate } | undefined
  for (const candidate of candidates) {
    const fd = native.findBeneath(Buffer.from(candidate.path), candidate.root.directory[borrow](), flags)
    if (fd !== -ENOENT && fd !== -ENOTDIR) return { fd, candidate }
    missing ??= { fd, candidate }
  }
  return missing!
}

function requestFor({ path, flags, mode }: OpenArguments, { root }: Candidate, found: Descriptor | null): OpenRequest {
  return {
    operation: 'open',
    path,
    root: root.path,
    resolved: found === null ? null : pathOf(found),
    kind: found === null ? null : found.kind,
    access: accessOf(flags),
    create: hasCreate(flags),
    truncate: hasTruncate(flags),
    append: hasAppend(flags),
    flags,
    mode
  }
}

/** Returns the path of an open file: proc(5). */
function pathOf(found: Descriptor): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${found[borrow]()}`)
  } catch {
    return null // no /proc
  }
}
