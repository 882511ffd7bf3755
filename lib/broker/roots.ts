import { borrow, wrapFd } from '../descriptor/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { pathError } from '../base/internal.ts'
import { native } from '../native/internal.ts'
import { openReactor } from '../event-loop/internal.ts'

/** A directory that files are opened beneath. */
export interface Root {
  /** Its path at the time of opening. */
  readonly path: string
  /** The open directory. Replacing its path later has no effect. */
  readonly directory: Descriptor
  readonly components: readonly string[]
  /** Whether directories beneath it are opened for clients. */
  readonly givesDirectories: boolean
  /** Whether opening files on its file system never blocks. */
  readonly isLocal: boolean
}

/** A possible location of a file: a root and a path beneath it. */
export interface Candidate {
  readonly root: Root
  readonly path: string
}

/** The directories that a broker opens files beneath. */
export class Roots implements Disposable {
  readonly #roots: readonly Root[]

  /** Opens the directories; throws the error of the first that cannot be opened. */
  constructor(paths: readonly string[], givesDirectories: boolean) {
    openReactor()
    const roots: Root[] = []
    try {
      for (const path of paths) {
        const directory = openRoot(path)
        const isLocal = native.isLocal(directory[borrow]())
        roots.push({ path, directory, components: componentsOf(path), givesDirectories, isLocal })
      }
    } catch (error) {
      for (const { directory } of roots) directory.closeSync()
      throw error
    }
    this.#roots = roots
  }

  /**
   * Returns the possible locations of a path: for an absolute path the deepest root that is a prefix of it, for a relative
   * path every root. The path is not resolved here; the kernel resolves it.
   */
  candidates(path: string): readonly Candidate[] {
    if (!path.startsWith('/')) return this.#roots.map((root) => ({ root, path }))
    const components = componentsOf(path)
    const holders = this.#roots.filter((root) => root.components.every((name, index) => name === components[index]))
    if (holders.length === 0) return []
    const root = holders.reduce((one, other) => (other.components.length > one.components.length ? other : one))
    const rest = components.slice(root.components.length).join('/') || '.'
    return [{ root, path: path.endsWith('/') ? `${rest}/` : rest }]
  }

  /** Closes the directories. */
  [Symbol.dispose](): void {
    for (const { directory } of this.#roots) directory.closeSync()
  }
}

function componentsOf(path: string): readonly string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.')
}

function openRoot(path: string): Descriptor {
  const fd = native.openRoot(Buffer.from(path))
  if (fd < 0) throw pathError(fd, 'open', path)
  return wrapFd(fd)
}
