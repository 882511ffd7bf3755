// Installs and builds what is missing or older than its sources: dependencies, the native binary, dist/, build/.
// Everything it prints goes to standard error, so that what a program after it prints stays clean.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { entryPoints, root } from '../run.mjs'

const stamps = join(root, 'node_modules', '.fdpass')

/** The time of the newest file below a path; 0 if there is none. */
function newest(path) {
  const stat = statSync(join(root, path), { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return stat.mtimeMs
  // The folder's own time tells of a file that was removed.
  return readdirSync(join(root, path)).reduce((time, name) => Math.max(time, newest(join(path, name))), stat.mtimeMs)
}

/** Runs a step unless its stamp is newer than its sources and its outputs are there. */
function step(name, { sources, outputs, clean = [], run }) {
  const stamp = join(stamps, name)
  const made = existsSync(stamp) ? statSync(stamp).mtimeMs : 0
  if (outputs.every((path) => existsSync(join(root, path))) && sources.every((path) => newest(path) <= made)) return
  const started = new Date()
  console.error(`fdpass: ${name} …`)
  for (const path of clean) rmSync(join(root, path), { recursive: true, force: true })
  const [command, ...args] = run
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] })
  if (error !== undefined) {
    console.error(`fdpass: ${command} could not be started (${error.code}). It has to be installed.`)
    process.exit(1)
  }
  if (status !== 0) process.exit(status ?? 1)
  mkdirSync(stamps, { recursive: true })
  writeFileSync(stamp, `${started.toISOString()}\n`)
}

const binary = () => readdirSync(root).some((name) => name.endsWith('.node'))

step('dependencies', {
  sources: ['package-lock.json'],
  outputs: ['node_modules/typescript', 'node_modules/@napi-rs/cli', 'node_modules/esbuild'],
  // Not `npm ci`: it fails where a registry mirror lacks other platforms' optional packages.
  run: ['npm', 'install', '--no-save', '--no-audit', '--no-fund']
})
// With FDPASS_BINARY the binary, and what napi-rs makes with it, came from elsewhere: tools/check/binary.mjs.
if (process.env.FDPASS_BINARY === undefined) {
  if (spawnSync('cargo', ['--version']).error !== undefined && !binary()) {
    console.error('fdpass: cargo is missing. The native half is built with Rust 1.88 or later (https://rustup.rs).')
    process.exit(1)
  }
  step('native binary (release profile)', {
    sources: [
      'Cargo.toml',
      'Cargo.lock',
      'crates/binding',
      'crates/core/Cargo.toml',
      'crates/core/src',
      'package.json'
    ],
    outputs: ['binding.cjs', 'binding.d.cts', ...(binary() ? [] : ['a .node file'])],
    run: ['npm', 'run', '--silent', 'build:native']
  })
}
step('dist', {
  sources: ['index.ts', 'lib', 'tsconfig.json', 'tsconfig.base.json', 'binding.d.cts'],
  outputs: [...Object.values(entryPoints).map((path) => `dist/${path}.js`), 'dist/lib/cli/main.js'],
  clean: ['dist'],
  run: ['npm', 'run', '--silent', 'build:ts']
})
step('examples and tests', {
  sources: ['dist', 'examples', '__test__', 'tsconfig.base.json', 'tsconfig.test.json'],
  outputs: ['build/examples/mycat.js'],
  clean: ['build'],
  run: ['npm', 'run', '--silent', 'build:test']
})
