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

/** How often it is begun anew where others make and remove what is asked for. */
const ATTEMPTS = 8

/** What is to be opened. */
export interface OpenArguments {
  readonly path: string
  readonly flags: number
  readonly mode: number
}

/** Asks the policy; rejects where it says no. */
export type Ask = (request: OpenRequest) => Promise<void>

/**
 * Opens a file beneath one of the roots: finds it, asks whether it may be opened, and opens exactly what it has found; or
 * makes it, where there is none.
 */
export async function openBeneath(roots: Roots, args: OpenArguments, ask: Ask): Promise<Descriptor> {
  const { path, flags, mode } = args
  const failed = (code: number) => pathError(code === AGAIN ? -EAGAIN : code, 'openat2', path)
  const candidates = roots.candidates(path)
  if (candidates.length === 0) throw failed(-EACCES)
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const { fd, candidate } = find(candidates, flags)
    let code: number
    if (fd >= 0) {
      const found = wrapFd(fd)
      try {
        await ask(requestFor(args, candidate, found)) // first, as whoever may not ask may not know either
        if (hasExclusive(flags)) throw failed(-EEXIST)
        code = native.openFound(Buffer.from(candidate.path), candidate.root.directory[borrow](), found[borrow](), flags)
      } finally {
        native.close(takeFd(found)) // of an O_PATH descriptor nothing is left to be written: an error would only lose what was opened
      }
      if (code === -ESTALE) continue // it was replaced
    } else if (fd === -ENOENT && hasCreate(flags)) {
      await ask(requestFor(args, candidate, null))
      code = native.createBeneath(Buffer.from(candidate.path), candidate.root.directory[borrow](), flags, mode)
      if (code === -EEXIST && !hasExclusive(flags)) continue // somebody was faster, or it is a link to nowhere
    } else {
      throw failed(fd)
    }
    if (code < 0) throw failed(code)
    return wrapFd(code)
  }
  throw failed(-EACCES)
}

/** The first of the places where something is; otherwise the first one, and why nothing is there. */
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

/** Where something is: proc(5). */
function pathOf(found: Descriptor): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${found[borrow]()}`)
  } catch {
    return null // no /proc
  }
}
