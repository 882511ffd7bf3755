// Runs the tests on this version of Node. The last line counts them: `N passed, N failed`.
//
//   npm test                  core's tests; the JavaScript tests on the runtime's own back end, and those of the folders in
//                             SECOND_BACK_END on the other one as well
//   npm test -- FILE…         the tests of these files or folders, on one back end
//   npm test -- --rest        the JavaScript tests that npm test leaves out: those of SLOW, and the second back end of the other folders
//   npm test -- --all         both
//
// FILE is one of:
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
import { root, run, sum } from '../run.mjs'
import { checkProof } from './proof.mjs'

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
function runSelected(args) {
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

/** Folders of __test__ whose subject is the event loop, or waits in it: the back end matters there. */
const SECOND_BACK_END = new Set(['native', 'event-loop', 'socket', 'stream'])

/** Folders and spec files that take long: `npm test` is to end within 5 minutes on two cores. */
const SLOW = new Set([
  'load',
  'faults',
  'peers/software',
  'cli/cat',
  'cli/completion',
  'cli/examples',
  'descriptor/cast-leaks',
  'cli/store-serve',
  'listen/listen',
  'package/examples',
  'package/readme',
  'package/types',
  'superserver/inetd-lifecycle',
  'superserver/inetd-programs',
  'superserver/leaks',
  'systemd/restart',
  'takeover/process'
])

const selected = process.argv.slice(2)
const extent = selected[0] === '--all' || selected[0] === '--rest' ? selected[0] : undefined
if (selected.length > 0 && extent === undefined) process.exit(runSelected(selected))
const backends =
  process.versions.bun === undefined && process.versions.deno === undefined ? ['uv', 'thread'] : ['thread']

const setUp = await run(process.execPath, ['tools/build/setup.mjs'])
if (setUp.code !== 0) process.exit(1)

const compiled = join(root, 'build', '__test__')
const specs = readdirSync(compiled).flatMap((folder) =>
  readdirSync(join(compiled, folder))
    .filter((name) => name.endsWith('.spec.js'))
    .map((name) => ({ folder, name: `${folder}/${name.slice(0, -'.spec.js'.length)}` }))
)

/** Returns the spec files for a back end. */
function specsFor(backend) {
  const isUsual = ({ folder, name }) =>
    !SLOW.has(folder) && !SLOW.has(name) && (backend === backends[0] || SECOND_BACK_END.has(folder))
  const chosen = specs.filter((spec) => extent === '--all' || isUsual(spec) === (extent === undefined))
  return chosen.map(({ name }) => `build/__test__/${name}.spec.js`)
}

// Without Rust, `npm run setup` has installed the published binary.
const hasCargo = spawnSync('cargo', ['--version'], { stdio: 'ignore' }).status === 0
if (!hasCargo) console.log("# cargo is missing: core's tests and the proof tables are not checked")

const cargo = {
  name: 'cargo test',
  command: 'cargo',
  args: ['test', '--quiet', '--workspace'],
  counts: [/ (\d+) passed/g, / (\d+) failed/g]
}
const isWhole = extent !== '--rest'
const suites = [
  ...(hasCargo && isWhole ? [cargo] : []),
  ...backends.map((backend) => ({
    name: `ava, back end ${backend}`,
    command: process.execPath,
    args: ['node_modules/ava/entrypoints/cli.mjs', '--tap', ...specsFor(backend)],
    env: { FDPASS_BACKEND: backend },
    counts: [/^# pass (\d+)$/gm, /^# fail (\d+)$/gm]
  }))
]

let passed = 0
let failed = 0
let outputs = ''
for (const { name, command, args, env, counts } of suites) {
  const started = performance.now()
  console.log(`# ${name}`)
  const { code, output } = await run(command, args, { env })
  outputs += output
  const [suitePassed, suiteFailed] = counts.map((pattern) => sum(output, pattern))
  passed += suitePassed
  // A suite that exits badly without a failed test has failed as a whole.
  failed += code !== 0 && suiteFailed === 0 ? 1 : suiteFailed
  console.log(`# ${name}: ${Math.round((performance.now() - started) / 1000)} s`)
}
if (hasCargo && isWhole) {
  const { output } = await run('cargo', ['test', '--quiet', '--workspace', '--', '--list'], { show: false })
  const problems = checkProof(outputs + output)
  for (const problem of problems) console.log(`not ok proof: ${problem}`)
  passed += problems.length === 0 ? 1 : 0
  failed += problems.length
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
