import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The project's folder. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)))

const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** The entry points by name: their paths below dist/ without an extension (`broker`: `lib/broker/index`). */
export const entryPoints = Object.fromEntries(
  Object.entries(exports)
    .filter(([, target]) => typeof target === 'object')
    .map(([subpath, { default: path }]) => [
      subpath === '.' ? 'index' : subpath.replace('./', ''),
      path.replace('./dist/', '').replace('.js', '')
    ])
)

/** Runs a command in the project's folder; returns its exit code and its standard output, which `show` also prints. */
export function run(command, args, { env = {}, show = true } = {}) {
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
    if (show) process.stdout.write(text)
  })
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: error.code, output }))
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** Returns the sum of the numbers that a pattern captures. */
export function sum(output, pattern) {
  return [...output.matchAll(pattern)].reduce((total, [, number]) => total + Number(number), 0)
}

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
