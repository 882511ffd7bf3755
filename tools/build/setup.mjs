// Installs and builds what is missing or older than its sources: dependencies, the native binary, dist/, build/.
// All its output goes to standard error, so that the standard output of a program run after it stays clean.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { entryPoints, nativeSources, root } from '../run.mjs'

const stamps = join(root, 'node_modules', '.fdpass')
const exists = (path) => existsSync(join(root, path))

/** Returns the time of the newest file below a path, or 0 without one. */
function newest(path) {
  const stat = statSync(join(root, path), { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return stat.mtimeMs
  // A folder's own time changes when a file is removed.
  return readdirSync(join(root, path)).reduce((time, name) => Math.max(time, newest(join(path, name))), stat.mtimeMs)
}

/** Returns whether a step's outputs exist, and its stamp is newer than its sources. */
function isCurrent({ name, sources, outputs }) {
  const stamp = join(stamps, name)
  const made = existsSync(stamp) ? statSync(stamp).mtimeMs : 0
  return outputs.every(exists) && sources.every((path) => newest(path) <= made)
}

/** Prepares a folder of compiled files, of which tsc writes those whose sources have changed since it wrote its build information. */
function clean(folder, buildInfo) {
  if (!exists(buildInfo) || !exists(folder)) {
    for (const path of [buildInfo, folder]) rmSync(join(root, path), { recursive: true, force: true })
    return
  }
  for (const path of readdirSync(join(root, folder), { recursive: true })) {
    const compiled = /^((?:lib|__test__|examples)\/.*)\.(?:js|js\.map|d\.ts)$/.exec(path)
    if (compiled !== null && !exists(`${compiled[1]}.ts`)) rmSync(join(root, folder, path))
  }
}

/** Runs a step unless it is current. */
function step({ prepare = () => {}, ...options }) {
  if (isCurrent(options)) return
  const { name, run } = options
  const started = new Date()
  console.error(`fdpass: ${name} …`)
  prepare()
  const [command, ...args] = run
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] })
  if (error !== undefined) {
    console.error(`fdpass: cannot start ${command} (${error.code}). Install it, and run \`npm run setup\` again.`)
    process.exit(1)
  }
  if (status !== 0) process.exit(status ?? 1)
  mkdirSync(stamps, { recursive: true })
  writeFileSync(join(stamps, name), `${started.toISOString()}\n`)
}

/** Compiles the native binary. Without cargo, and with FDPASS_PREBUILT=1, installs the published one instead. */
function nativeBinary() {
  const binary = readdirSync(root).some((name) => name.endsWith('.node')) ? [] : ['a .node file']
  const outputs = ['binding.cjs', 'binding.d.cts', ...binary]
  const sources = [...nativeSources, 'package.json']
  const compiled = {
    name: 'native binary (release profile)',
    sources,
    outputs,
    run: ['npm', 'run', '--silent', 'build:native']
  }
  const prebuilt = {
    name: 'native binary (prebuilt)',
    sources,
    outputs,
    run: [process.execPath, 'tools/build/prebuilt.mjs']
  }
  const wanted = process.env.FDPASS_PREBUILT === '1'
  const cargo = spawnSync('cargo', ['--version'], { stdio: 'ignore' }).status === 0
  if (!wanted && !cargo && isCurrent(compiled)) return
  const [chosen, other] = wanted || !cargo ? [prebuilt, compiled] : [compiled, prebuilt]
  // Both write the same files: only one of them can be current.
  rmSync(join(stamps, other.name), { force: true })
  step(chosen)
}

step({
  name: 'dependencies',
  sources: ['package-lock.json'],
  outputs: ['node_modules/typescript', 'node_modules/@napi-rs/cli', 'node_modules/esbuild'],
  // Not `npm ci`: it fails if a registry mirror lacks the optional packages of other platforms.
  run: ['npm', 'install', '--no-save', '--no-audit', '--no-fund']
})
// With FDPASS_BINARY, tools/check/binary.mjs has put the binary and its loader in place.
if (process.env.FDPASS_BINARY === undefined) nativeBinary()
step({
  name: 'dist',
  sources: ['index.ts', 'lib', 'tsconfig.json', 'binding.d.cts'],
  outputs: [...Object.values(entryPoints).map((path) => `dist/${path}.js`), 'dist/lib/cli/main.js'],
  prepare: () => clean('dist', 'node_modules/.fdpass/dist.tsbuildinfo'),
  run: ['npm', 'run', '--silent', 'build:ts']
})
step({
  name: 'examples and tests',
  sources: ['dist', 'examples', '__test__', 'tsconfig.json', 'tsconfig.test.json'],
  outputs: ['build/examples/mycat.js'],
  prepare: () => clean('build', 'node_modules/.fdpass/build.tsbuildinfo'),
  run: ['npm', 'run', '--silent', 'build:test']
})
