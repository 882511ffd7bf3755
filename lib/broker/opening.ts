import { readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import type { Descriptor } from '../descriptor/index.ts'
import { takeFd, wrapFd, borrow } from '../descriptor/internal.ts'
import { pathError } from '../base/internal.ts'
import { AGAIN, native } from '../native/internal.ts'
import { accessIn, appends, creates, isExclusive, truncates } from './flags.ts'
import type { OpenRequest } from './policy.ts'
import type { Place, Roots } from './roots.ts'

const { EACCES, EAGAIN, EEXIST, ENOENT, ENOTDIR, ESTALE } = constants.errno

/** How often it is begun anew where others make and remove what is asked for. */
const ATTEMPTS = 8

/** What is to be opened. */
export interface Opening {
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
export async function openBeneath(roots: Roots, opening: Opening, ask: Ask): Promise<Descriptor> {
  const { path, flags, mode } = opening
  const failed = (code: number) => pathError(code === AGAIN ? -EAGAIN : code, 'openat2', path)
  const places = roots.places(path)
  if (places.length === 0) throw failed(-EACCES)
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const { fd, place } = find(places, flags)
    let code: number
    if (fd >= 0) {
      const found = wrapFd(fd)
      try {
        await ask(requestFor(opening, place, found)) // first, as whoever may not ask may not know either
        if (isExclusive(flags)) throw failed(-EEXIST)
        code = native.openFound(Buffer.from(place.path), place.root.directory[borrow](), found[borrow](), flags)
      } finally {
        native.close(takeFd(found)) // of an O_PATH descriptor nothing is left to be written: an error would only lose what was opened
      }
      if (code === -ESTALE) continue // it was replaced
    } else if (fd === -ENOENT && creates(flags)) {
      await ask(requestFor(opening, place, null))
      code = native.createBeneath(Buffer.from(place.path), place.root.directory[borrow](), flags, mode)
      if (code === -EEXIST && !isExclusive(flags)) continue // somebody was faster, or it is a link to nowhere
    } else {
      throw failed(fd)
    }
    if (code < 0) throw failed(code)
    return wrapFd(code)
  }
  throw failed(-EACCES)
}

/** The first of the places where something is; otherwise the first one, and why nothing is there. */
function find(places: readonly Place[], flags: number): { fd: number; place: Place } {
  let missing: { fd: number; place: Place } | undefined
  for (const place of places) {
    const fd = native.findBeneath(Buffer.from(place.path), place.root.directory[borrow](), flags)
    if (fd !== -ENOENT && fd !== -ENOTDIR) return { fd, place }
    missing ??= { fd, place }
  }
  return missing!
}

function requestFor({ path, flags, mode }: Opening, { root }: Place, found: Descriptor | null): OpenRequest {
  return {
    operation: 'open',
    path,
    root: root.path,
    resolved: found === null ? null : pathOf(found),
    kind: found === null ? null : found.kind,
    access: accessIn(flags),
    create: creates(flags),
    truncate: truncates(flags),
    append: appends(flags),
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
