// `npm test -- FILE…` runs some tests instead of all of them. Each FILE is one of:
//
//   __test__/socket/transfer.spec.ts       a spec file, by its source or its compiled file
//   __test__/socket                        a folder of spec files
//   crates/core/tests/socket/rights.rs     a Rust test file, or a source file with tests
//   transfer, socket, rights               the name of one of these
//
// `--match TITLE` and `--timeout TIME` are passed to ava. FDPASS_BACKEND chooses the back end.
import { spawnSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { basename, join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

/** Returns the paths of all files below a folder of the project that end with a suffix. */
function filesBelow(folder, suffix) {
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => `${folder}/${name.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith(suffix))
}

/** Returns a path without the suffix of a test file or a source file. */
function stem(path) {
  return path.replace(/(\.spec)?\.(ts|js|rs)$/, '')
}

/** Returns whether a name selects a test file: its path, its folder, or the name of a test. */
function selects(name, path) {
  const short = stem(path).replace(/^__test__\//, '')
  const isTest = path.endsWith('.spec.ts') || path.includes('/tests/')
  return (
    [stem(path), short].some((whole) => whole === name || whole.startsWith(`${name}/`)) ||
    (isTest && basename(short) === name)
  )
}

/** Returns the arguments for cargo that run the tests of a Rust file. */
function cargoArguments(path) {
  const [, name, kind, file] = /^crates\/(\w+)\/(tests|src)\/(.*)\.rs$/.exec(path)
  const [, library] = /^name = "(.*)"$/m.exec(readFileSync(join(root, 'crates', name, 'Cargo.toml'), 'utf8'))
  const common = ['test', '--package', library]
  if (kind === 'tests') return [...common, '--test', basename(file)]
  const module = file.replace(/(^|\/)(mod|lib)$/, '').replaceAll('/', '::')
  return [...common, '--lib', ...(module === '' ? [] : ['--', `${module}::`])]
}

/** Runs a command in the project's folder with its output shown; returns whether it succeeded. */
function succeeds(command, args) {
  return spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status === 0
}

/** Builds what the selected tests need and runs them; returns the exit code. */
export function runSelected(args) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { match: { type: 'string', short: 'm', multiple: true }, timeout: { type: 'string' } }
  })
  const specs = filesBelow('__test__', '.spec.ts')
  const rust = ['core', 'binding'].flatMap((name) =>
    ['tests', 'src'].flatMap((kind) => {
      const folder = join('crates', name, kind)
      return readdirSync(join(root, 'crates', name)).includes(kind) ? filesBelow(folder, '.rs') : []
    })
  )
  // A compiled spec file stands for its source. Suffixes and the folder of the tests may be left out.
  const wanted = positionals.map((name) => stem(relative(root, resolve(name)).replace(/^build\//, '')))
  for (const name of wanted) {
    if ([...specs, ...rust].some((path) => selects(name, path))) continue
    console.error(`No test file matches '${name}'. Examples: __test__/socket/transfer.spec.ts, socket, transfer`)
    return 2
  }
  const chosen = (paths) => paths.filter((path) => wanted.length === 0 || wanted.some((name) => selects(name, path)))
  const chosenSpecs = chosen(specs)
  let passed = true
  if (chosenSpecs.length > 0) {
    if (!succeeds(process.execPath, ['tools/build/setup.mjs'])) return 1
    const files = chosenSpecs.map((path) => `build/${path.replace(/\.ts$/, '.js')}`)
    const options = (values.match ?? []).flatMap((title) => ['--match', title])
    if (values.timeout !== undefined) options.push('--timeout', values.timeout)
    passed = succeeds(process.execPath, ['node_modules/ava/entrypoints/cli.mjs', ...options, ...files])
  }
  for (const path of wanted.length === 0 ? [] : chosen(rust)) passed = succeeds('cargo', cargoArguments(path)) && passed
  return passed ? 0 : 1
}
