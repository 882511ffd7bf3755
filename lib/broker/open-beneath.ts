import { constants as fsConstants, readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import type { Descriptor, Kind } from '../descriptor/index.ts'
import { takeFd, wrapFd, borrow } from '../descriptor/internal.ts'
import { pathError } from '../base/internal.ts'
import { AGAIN, type BlockingOpen, native } from '../native/internal.ts'
import { accessOf, hasAppend, hasCreate, hasExclusive, hasTruncate } from './open-flags.ts'
import type { Opened } from './opener.ts'
import type { OpenRequest } from './policy.ts'
import type { Candidate, Roots } from './roots.ts'

const { EACCES, EAGAIN, EEXIST, EINVAL, ENOENT, ENOTDIR, ESTALE } = constants.errno

const { O_DIRECTORY } = fsConstants

/** The number of attempts while other processes create, replace or remove the file. */
const MAX_ATTEMPTS = 8

/** The arguments of `Broker.open`. */
export interface OpenArguments {
  readonly path: string
  readonly flags: number
  readonly mode: number
}

/** What a request is opened with. */
export interface OpenSteps {
  /** Calls the policy; rejects if it denies the request. */
  authorize(request: OpenRequest): Promise<void>
  /** Runs a call that a file system can block. */
  run(start: () => BlockingOpen | number): Promise<Opened>
  /** Lets a file be closed on another thread: its file system can block close(2). */
  closeApart(fd: number): void
}

/** The result of looking for a file: the file, or the error code. */
interface Lookup {
  readonly candidate: Candidate
  readonly code: number
  readonly kind: Kind | null
  readonly isMagic: boolean
  /** Whether it was found in the kernel's cache, on a local file system: opening it does not block. */
  readonly isCached: boolean
}

/** The directory that would hold a file that does not exist. */
interface Parent {
  readonly directory: Descriptor
  readonly name: string
  readonly isMagic: boolean
}

/**
 * Opens a file beneath one of the roots: locates it, has the request authorized, then opens exactly the located file. If
 * the file does not exist and the flags have `O_CREAT`, creates it in exactly the located directory.
 *
 * The policy decides first, also about a file that does not exist: a client that it denies gets `EACCES` for every path.
 */
export async function openBeneath(roots: Roots, args: OpenArguments, steps: OpenSteps): Promise<Descriptor> {
  const { path, flags } = args
  const failed = (code: number) => pathError(code === AGAIN ? -EAGAIN : code, 'openat2', path)
  const candidates = roots.candidates(path)
  if (candidates.length === 0) throw failed(-EACCES)
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const lookup = await find(candidates, flags, steps)
    if (lookup.code === -EINVAL) throw failed(lookup.code) // the flags
    const code =
      lookup.code >= 0 ? await openFound(args, lookup, steps, failed) : await create(args, lookup, steps, failed)
    if (code === -ESTALE) continue // another process replaced the file
    if (code === -EEXIST && !hasExclusive(flags)) continue // another process created the file, or the path is a dangling link
    if (code < 0) throw failed(code)
    if (!lookup.isCached) steps.closeApart(code)
    return wrapFd(code)
  }
  throw failed(-EACCES)
}

async function openFound(
  args: OpenArguments,
  { candidate, code, kind, isMagic, isCached }: Lookup,
  { authorize, run }: OpenSteps,
  failed: (code: number) => Error
): Promise<number> {
  const { flags } = args
  const found = wrapFd(code)
  try {
    await authorize(requestFor(args, candidate, { resolved: pathOf(found), kind }))
    if (isMagic || (kind === 'directory' && !candidate.root.givesDirectories)) throw failed(-EACCES)
    if (hasExclusive(flags)) throw failed(-EEXIST)
    const { path, root } = candidate
    const bytes = Buffer.from(path)
    if (isCached) return native.openCached(bytes, root.directory[borrow](), found[borrow](), flags)
    const opened = await run(() => native.openFound(bytes, root.directory[borrow](), found[borrow](), flags))
    return opened.code
  } finally {
    native.close(takeFd(found)) // close(2) of an O_PATH descriptor writes nothing back, so its error can be ignored
  }
}

/** Creates a file that was not found. Rejects with the error of the search if it is not to be created. */
async function create(
  args: OpenArguments,
  { candidate, code }: Lookup,
  { authorize, run }: OpenSteps,
  failed: (code: number) => Error
): Promise<number> {
  const { flags, mode } = args
  const isCreated = code === -ENOENT && hasCreate(flags)
  const parent = await findParent(candidate, run)
  if (typeof parent === 'number') {
    await authorize(requestFor(args, candidate, {}))
    throw failed(isCreated ? parent : code)
  }
  const { directory, name, isMagic } = parent
  try {
    await authorize(requestFor(args, candidate, { parent: pathOf(directory), name }))
    if (isMagic) throw failed(-EACCES)
    if (!isCreated) throw failed(code)
    const created = await run(() => native.createBeneath(Buffer.from(name), directory[borrow](), flags, mode))
    return created.code
  } finally {
    native.close(takeFd(directory))
  }
}

/** Locates the file beneath the first candidate that contains it; otherwise returns the first candidate and its error. */
async function find(candidates: readonly Candidate[], flags: number, { run }: OpenSteps): Promise<Lookup> {
  let missing: Lookup | undefined
  for (const candidate of candidates) {
    const { path, root } = candidate
    const bytes = Buffer.from(path)
    const cached = root.isLocal ? findCached(candidate, bytes, flags) : undefined
    if (cached !== undefined) return cached
    const opened = await run(() => native.findBeneath(bytes, root.directory[borrow](), flags))
    const lookup = { candidate, ...opened, isCached: false }
    if (lookup.code !== -ENOENT && lookup.code !== -ENOTDIR) return lookup
    missing ??= lookup
  }
  return missing!
}

/** Locates a file if that cannot block. */
function findCached(candidate: Candidate, path: Uint8Array, flags: number): Lookup | undefined {
  const code = native.findCached(path, candidate.root.directory[borrow](), flags)
  if (code < 0) return undefined
  const kind = native.kind(code)
  if (typeof kind === 'string') return { candidate, code, kind, isMagic: false, isCached: true }
  native.close(code)
  return undefined
}

/** Locates the directory of a file that does not exist; returns the error code if that fails, and `ENOENT` if the path can name no file. */
async function findParent({ root, path }: Candidate, run: OpenSteps['run']): Promise<Parent | number> {
  const [, folder = '', name] = /^(.*?)\/*([^/]+)$/.exec(path) ?? []
  if (name === undefined || name === '.' || name === '..') return -ENOENT
  const place = folder === '' ? '.' : folder
  const { code, isMagic } = await run(() =>
    native.findBeneath(Buffer.from(place), root.directory[borrow](), O_DIRECTORY)
  )
  return code < 0 ? code : { directory: wrapFd(code), name, isMagic }
}

type Target = Partial<Pick<OpenRequest, 'resolved' | 'kind' | 'parent' | 'name'>>

function requestFor({ path, flags, mode }: OpenArguments, { root }: Candidate, target: Target): OpenRequest {
  return {
    operation: 'open',
    path,
    root: root.path,
    resolved: null,
    kind: null,
    parent: null,
    name: null,
    ...target,
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
