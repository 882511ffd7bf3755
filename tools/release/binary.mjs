// Builds the native binary as it is published, with its package, in npm/PLATFORM:
//
//   npm run build:release -- [--build-std] PLATFORM…      linux-x64-gnu linux-arm64-musl darwin-arm64 …
//
// zig links for Linux and FreeBSD; a Python with venv installs it from PyPI. Only this build promises to need no glibc later than 2.17: it fails
// if a symbol needs one, or if the binary is larger than SIZE. The binaries for macOS are built on a Mac, with its own linker.
//
// --build-std compiles the standard library too, from rust-src, for targets for which rustup has none.
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { NapiCli, parseTriple } from '@napi-rs/cli'
import { licences } from './licences.mjs'
import { root } from '../run.mjs'

const GLIBC = '2.17'
const SIZE = 660_000
const LICENSES = 'THIRD-PARTY-LICENSES.txt'

const { napi } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const targets = new Map(napi.targets.map((triple) => [parseTriple(triple).platformArchABI, parseTriple(triple)]))

/** Runs a command in the project's folder, with its output on standard error. */
function execute(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 2, 2]
  })
  if (error !== undefined) throw new Error(`Cannot start ${command} (${error.code}): install it`)
  if (status !== 0) throw new Error(`${command} ${args[0]} failed`)
}

/** Returns the folder with zig and cargo-zigbuild, installed from PyPI with checked hashes. */
function zig() {
  const requirements = join(root, 'tools', 'release', 'requirements.txt')
  const venv = join(root, 'node_modules', '.fdpass', 'zig')
  const stamp = join(venv, 'requirements.txt')
  const wanted = readFileSync(requirements, 'utf8')
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
    rmSync(venv, { recursive: true, force: true })
    execute('python3', ['-m', 'venv', venv])
    execute(join(venv, 'bin', 'pip'), [
      'install',
      '--quiet',
      '--require-hashes',
      '--only-binary=:all:',
      '-r',
      requirements
    ])
    copyFileSync(requirements, stamp)
  }
  return join(venv, 'bin')
}

/** Compiles and links the binary; returns the path of the library. */
function compile({ triple, platform, abi }, buildStd) {
  const cross = platform !== 'darwin'
  if (!buildStd) execute('rustup', ['target', 'add', triple])
  const folder = join(root, 'target', 'npm')
  // The binary contains neither the path of the project nor that of cargo's folder.
  const paths = [
    [root, '/fdpass'],
    [process.env.CARGO_HOME ?? join(homedir(), '.cargo'), '/cargo']
  ]
  const flags = paths.map(([from, to]) => `--remap-path-prefix=${from}=${to}`)
  // musl's default, static linking, cannot make a shared library.
  if (abi === 'musl') flags.push('-Ctarget-feature=-crt-static')
  execute(
    'cargo',
    [
      cross ? 'zigbuild' : 'build',
      '--release',
      '--locked',
      '--package=fdpass-binding',
      `--target-dir=${folder}`,
      `--target=${triple}${abi === 'gnu' ? `.${GLIBC}` : ''}`,
      ...(buildStd ? ['-Zbuild-std=std,panic_abort'] : [])
    ],
    {
      CARGO_ENCODED_RUSTFLAGS: flags.join('\x1f'),
      ...(cross ? { PATH: `${zig()}:${process.env.PATH}` } : {}),
      ...(buildStd ? { RUSTC_BOOTSTRAP: '1' } : {})
    }
  )
  return join(folder, triple, 'release', `libfdpass_binding.${platform === 'darwin' ? 'dylib' : 'so'}`)
}

/** Throws if a binary needs a later glibc, or a library that is not part of libc. */
function checkSymbols(binary) {
  const readelf = (option) => execFileSync('readelf', ['--wide', option, binary], { encoding: 'utf8' })
  const [major, minor] = GLIBC.split('.').map(Number)
  const needed = new Set(
    [...readelf('--version-info').matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, ...numbers]) => numbers.map(Number))
  )
  for (const [m, n] of needed) {
    if (m > major || (m === major && n > minor)) throw new Error(`${binary} needs glibc ${m}.${n}, later than ${GLIBC}`)
  }
  for (const [, library] of readelf('--dynamic').matchAll(/\(NEEDED\).*\[(.*)\]/g)) {
    if (!/^(lib(c|dl|m|pthread|rt|gcc_s|thr|util)|ld-linux-.*)\.so/.test(library))
      throw new Error(`${binary} needs ${library}`)
  }
}

/** Writes the package of a platform; returns the path of its binary. */
async function writePackage({ platformArchABI: platform, triple }, library) {
  // napi-rs creates the packages of all platforms with the names that its loader, binding.cjs, looks for.
  const made = join(root, 'target', 'npm', 'packages')
  await new NapiCli().createNpmDirs({ cwd: root, npmDir: made })
  const description = JSON.parse(readFileSync(join(made, platform, 'package.json'), 'utf8'))
  const { name, main } = description
  description.description = `The native binary of fdpass for ${platform}`
  description.files.push(LICENSES)
  delete description.keywords

  const folder = join(root, 'npm', platform)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(description, null, 2)}\n`)
  writeFileSync(
    join(folder, 'README.md'),
    `# ${name}\n\nThe native binary of fdpass for ${triple}. Install \`fdpass\`, which depends on it.\n`
  )
  writeFileSync(join(folder, LICENSES), licences(triple))
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'))
  copyFileSync(library, join(folder, main))
  return join(folder, main)
}

const { values: options, positionals } = parseArgs({
  options: { 'build-std': { type: 'boolean' } },
  allowPositionals: true
})
if (positionals.length === 0) {
  console.error(`Usage: npm run build:release -- [--build-std] PLATFORM…\nPlatforms: ${[...targets.keys()].join(' ')}`)
  process.exit(2)
}
for (const name of positionals) {
  const target = targets.get(name)
  if (target === undefined) {
    console.error(`Unknown platform ${name}; known: ${[...targets.keys()].join(' ')}`)
    process.exit(2)
  }
  const library = compile(target, options['build-std'])
  // A binary that fails the checks must not stay in npm/.
  rmSync(join(root, 'npm', name), { recursive: true, force: true })
  if (target.platform === 'linux') checkSymbols(library)
  const { size } = statSync(library)
  if (size > SIZE) throw new Error(`${library} has ${size} bytes, more than ${SIZE}`)
  const binary = await writePackage(target, library)
  const hash = createHash('sha256').update(readFileSync(binary)).digest('hex')
  console.log(`${hash}  ${size} bytes  ${relative(root, binary)}`)
}
