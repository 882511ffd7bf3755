import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../run.mjs'

/** The files and folders that the native binary is compiled from. */
export const nativeSources = ['Cargo.toml', 'Cargo.lock', 'crates/binding', 'crates/core/Cargo.toml', 'crates/core/src']

/** Returns the paths of all files below a path, in a fixed order. */
function filesBelow(path) {
  if (!statSync(join(root, path)).isDirectory()) return [path]
  return readdirSync(join(root, path))
    .toSorted()
    .flatMap((name) => filesBelow(`${path}/${name}`))
}

/** Returns the SHA-256 digest of the native binary's sources. A release records it, so that setup can compare. */
export function digestOfNativeSources() {
  const hash = createHash('sha256')
  for (const path of nativeSources.flatMap(filesBelow)) {
    const content = readFileSync(join(root, path))
    hash.update(`${path}\0${content.length}\0`).update(content)
  }
  return hash.digest('hex')
}
