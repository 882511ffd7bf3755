import { wrapFd } from '../descriptor/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { pathError } from '../base/internal.ts'
import { native } from '../native/internal.ts'
import { openReactor } from '../event-loop/internal.ts'

/** A directory beneath which files are opened. */
export interface Root {
  /** Its path when it was opened. */
  readonly path: string
  /** It, as a place: what is at the path later does not matter. */
  readonly directory: Descriptor
  readonly components: readonly string[]
}

/** Where a file may be: a root, and a path beneath it. */
export interface Candidate {
  readonly root: Root
  readonly path: string
}

/** The directories beneath which a broker opens files. */
export class Roots implements Disposable {
  readonly #roots: readonly Root[]

  /** Opens them; throws where one cannot be. */
  constructor(paths: readonly string[]) {
    openReactor()
    const roots: Root[] = []
    try {
      for (const path of paths) roots.push({ path, directory: openRoot(path), components: componentsOf(path) })
    } catch (error) {
      for (const { directory } of roots) directory.closeSync()
      throw error
    }
    this.#roots = roots
  }

  /**
   * Where a path may be: an absolute one beneath the deepest of the roots that it begins with, and a relative one beneath
   * each. The path is not resolved: what it leads to is the kernel's to say.
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

  /** Closes them. */
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
