// The native half as it is published, and its package, in npm/PLATFORM:
//
//   npm run build:release -- [--build-std] PLATFORM…      linux-x64-gnu linux-arm64-musl darwin-arm64 …
//
// zig links for Linux and FreeBSD, from PyPI by way of a Python with venv: this build alone promises to need no glibc later than
// 2.17, and is refused if one of its symbols does, or if it is larger than SIZE. macOS' are built on a Mac, by its own linker.
//
// --build-std compiles the standard library too, out of rust-src, where rustup has none for the target.
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
const SIZE = 600_000
const LICENSES = 'THIRD-PARTY-LICENSES.txt'

const { napi } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const targets = new Map(napi.targets.map((triple) => [parseTriple(triple).platformArchABI, parseTriple(triple)]))

/** Runs a command in the project's folder; what it prints goes to standard error. */
function execute(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 2, 2]
  })
  if (error !== undefined) throw new Error(`${command} could not be started (${error.code}): it has to be installed`)
  if (status !== 0) throw new Error(`${command} ${args[0]} has failed`)
}

/** The folder with zig and cargo-zigbuild, installed from PyPI by their hashes. */
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

/** Compiles and links; the path of the library. */
function compile({ triple, platform, abi }, buildStd) {
  const cross = platform !== 'darwin'
  if (!buildStd) execute('rustup', ['target', 'add', triple])
  const folder = join(root, 'target', 'npm')
  // Neither the project's folder nor cargo's is in the binary.
  const paths = [
    [root, '/fdpass'],
    [process.env.CARGO_HOME ?? join(homedir(), '.cargo'), '/cargo']
  ]
  const flags = paths.map(([from, to]) => `--remap-path-prefix=${from}=${to}`)
  // musl's default, static, cannot make a shared library.
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

/** Refuses a binary that needs a later glibc, or another library than libc's own. */
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

/** Writes the package of a platform; the path of its binary. */
async function writePackage({ platformArchABI: platform, triple }, library) {
  // napi-rs makes the packages of all platforms as the loader that it has made, binding.cjs, looks for them.
  const made = join(root, 'target', 'npm', 'packages')
  await new NapiCli().createNpmDirs({ cwd: root, npmDir: made })
  const description = JSON.parse(readFileSync(join(made, platform, 'package.json'), 'utf8'))
  const { name, main } = description
  description.description = `The native half of fdpass for ${platform}`
  description.files.push(LICENSES)
  delete description.keywords

  const folder = join(root, 'npm', platform)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(description, null, 2)}\n`)
  writeFileSync(
    join(folder, 'README.md'),
    `# ${name}\n\nThe native half of fdpass for ${triple}. Install \`fdpass\`, which brings it along.\n`
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
  // What is refused is not left in npm/.
  rmSync(join(root, 'npm', name), { recursive: true, force: true })
  if (target.platform === 'linux') checkSymbols(library)
  const { size } = statSync(library)
  if (size > SIZE) throw new Error(`${library} has ${size} bytes, more than ${SIZE}`)
  const binary = await writePackage(target, library)
  const hash = createHash('sha256').update(readFileSync(binary)).digest('hex')
  console.log(`${hash}  ${size} bytes  ${relative(root, binary)}`)
}
