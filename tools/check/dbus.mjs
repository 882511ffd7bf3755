// Runs the tests of usocket, dbus-next and dbus-native against a dbus-daemon, first over their own streams and then over fdpass:
//
//   npm run test:dbus -- [--usocket FOLDER] [--dbus-next FOLDER] [--dbus-native FOLDER] [--rounds N]
//
// Each FOLDER is a check-out of the project. Missing dependencies are installed from npm. dbus-next runs over usocket only if a check-out of
// usocket is given, which npm compiles. A test counts as passed if it passes in one of N rounds (default 3), because some tests of
// dbus-next lose races, over usocket too. A test fails if it passes over its own stream only. The last line counts them:
// `N passed, N failed`.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, lstatSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

const { values: folders } = parseArgs({
  options: {
    usocket: { type: 'string' },
    'dbus-next': { type: 'string' },
    'dbus-native': { type: 'string' },
    rounds: { type: 'string', default: '3' }
  }
})
const rounds = Number(folders.rounds)
const work = mkdtempSync(join(tmpdir(), 'fdpass-dbus-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

/** Runs a command to its end and returns its output, which is printed if the command could not start. */
function execute(command, args, cwd, env = {}) {
  const result = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 28,
    timeout: 600_000
  })
  if (result.error !== undefined) throw result.error
  return result
}

/** Returns the folder of a check-out after installing its dependencies. */
function checkOut(name) {
  const folder = resolve(folders[name])
  if (existsSync(join(folder, 'node_modules'))) return folder
  console.error(`fdpass: dependencies of ${name} …`)
  const { status, stderr } = execute('npm', ['install', '--no-audit', '--no-fund', '--no-package-lock'], folder)
  if (status !== 0) throw new Error(`npm install failed in ${folder}: ${stderr}`)
  return folder
}

/** Returns the folder of the original usocket, compiled, or undefined without a check-out. */
function theirUsocket() {
  if (folders.usocket === undefined) return undefined
  const folder = checkOut('usocket')
  if (!existsSync(join(folder, 'build', 'Release', 'uwrap.node'))) throw new Error('npm has not compiled usocket')
  return folder
}

const ourUsocket = join(root, 'packages', 'usocket')

/** Runs usocket's tests with mocha. They require `../index`. */
function runUsocket(implementation) {
  const theirs = theirUsocket()
  const folder = mkdtempSync(join(work, 'usocket-'))
  cpSync(join(theirs, 'test'), join(folder, 'test'), { recursive: true })
  symlinkSync(join(implementation, 'index.js'), join(folder, 'index.js'))
  const mocha = join(theirs, 'node_modules', 'mocha', 'bin', 'mocha.js')
  const { stdout } = execute(process.execPath, [mocha, '--exit', '--reporter', 'json', 'test/socket.js'], folder)
  const { passes, failures } = JSON.parse(stdout)
  return new Map([...passes.map((test) => [test.fullTitle, true]), ...failures.map((test) => [test.fullTitle, false])])
}

/** Runs dbus-next's tests with jest, after replacing node_modules/usocket. */
function runNext(implementation) {
  const folder = checkOut('dbus-next')
  const installed = join(folder, 'node_modules', 'usocket')
  const kept = join(folder, 'node_modules', '.usocket-kept')
  const output = join(work, 'jest.json')
  const results = new Map()
  if (lstatSync(installed, { throwIfNoEntry: false }) !== undefined) renameSync(installed, kept)
  try {
    symlinkSync(implementation, installed, 'dir')
    const jest = join(folder, 'node_modules', 'jest', 'bin', 'jest.js')
    // Each file runs in a process of its own, because usocket crashes some.
    for (const file of list(folder, 'test test/integration', '*.test.js')) {
      const args = [process.execPath, jest, '--bail=false', '--forceExit', '--json', `--outputFile=${output}`, file]
      rmSync(output, { force: true })
      const { stderr } = execute('dbus-run-session', ['--', ...args], folder)
      if (!existsSync(output)) {
        console.log(`  ${file} has crashed over ${implementation}: ${stderr.trim().split('\n').at(-1)}`)
        continue
      }
      for (const { assertionResults } of JSON.parse(readFileSync(output, 'utf8')).testResults) {
        if (assertionResults.length === 0) results.set(file, false)
        for (const { fullName, status } of assertionResults) {
          if (status !== 'pending') results.set(`${file}: ${fullName}`, status === 'passed')
        }
      }
    }
  } finally {
    rmSync(installed)
    if (existsSync(kept)) renameSync(kept, installed)
  }
  return results
}

const tests = (files) => [process.execPath, '--test', '--test-reporter=junit', ...files]

/** Runs dbus-native's tests with Node's runner: those that need a bus, and the others. */
function runNative(preload) {
  const folder = checkOut('dbus-native')
  const env = preload === undefined ? {} : { NODE_OPTIONS: `--no-warnings --require ${preload}` }
  const results = new Map()
  for (const command of [
    tests(list(folder, 'test', '*.js', '*.mjs')),
    [process.execPath, 'scripts/with-dbus.js', '--', ...tests(list(folder, 'test/integration', '*.js'))]
  ]) {
    const { stdout } = execute(command[0], command.slice(1), folder, env)
    for (const [, name, file, rest] of stdout.matchAll(
      /<testcase name="([^"]*)"[^>]*?(?:file="([^"]*)"[^>]*?)?(\/>|>(?:(?!<\/testcase>)[^])*)/g
    )) {
      if (rest.includes('<skipped')) continue
      results.set(`${file ?? ''} ${name}`, !rest.includes('<failure') && (results.get(`${file ?? ''} ${name}`) ?? true))
    }
  }
  return results
}

/** Returns the test files in a folder of a check-out. */
function list(folder, under, ...patterns) {
  const globs = under.split(' ').flatMap((path) => patterns.map((pattern) => `${path}/${pattern}`))
  const { stdout } = execute('sh', ['-c', `ls ${globs.join(' ')} 2>/dev/null`], folder)
  return stdout.trim().split('\n')
}

/** Returns how many rounds each test has passed. */
function count(run) {
  const passes = new Map()
  for (let round = 0; round < rounds; round++) {
    for (const [test, passed] of run()) passes.set(test, (passes.get(test) ?? 0) + (passed ? 1 : 0))
  }
  return passes
}

const overFdpass = join(root, 'tools', 'check', 'over-fdpass.cjs')
const suites = {
  usocket: { theirs: theirUsocket, ours: () => ourUsocket, run: runUsocket },
  'dbus-next': { theirs: theirUsocket, ours: () => ourUsocket, run: runNext },
  'dbus-native': { theirs: () => 'net', ours: () => overFdpass, run: (of) => runNative(of === 'net' ? undefined : of) }
}

if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)
const chosen = Object.keys(suites).filter((name) => folders[name] !== undefined)
if (chosen.length === 0) {
  console.error(
    'Usage: npm run test:dbus -- [--usocket FOLDER] [--dbus-next FOLDER] [--dbus-native FOLDER] [--rounds N]'
  )
  process.exit(2)
}
let passed = 0
let failed = 0
for (const name of chosen) {
  const { theirs, ours, run } = suites[name]
  const reference = theirs()
  const their = reference === undefined ? undefined : count(() => run(reference))
  const our = count(() => run(ours()))
  const passing = [...our].filter(([, times]) => times > 0)
  const missing = their === undefined ? [...our].filter(([, times]) => times === 0).map(([test]) => test) : []
  for (const [test, times] of their ?? []) if (times > 0 && !(our.get(test) > 0)) missing.push(test)
  const theirPasses = [...(their ?? [])].filter(([, times]) => times > 0).length
  console.log(
    `${name}: ${their === undefined ? 'not run' : `${theirPasses} of ${their.size}`} over their own, ` +
      `${passing.length} of ${our.size} over fdpass`
  )
  for (const [test, times] of our) {
    const other = their?.get(test)
    if (times < rounds || (other ?? rounds) < rounds) {
      console.log(`  ${test}: ${other ?? 'not run'} of ${rounds} over their own, ${times} of ${rounds} over fdpass`)
    }
  }
  for (const test of missing) console.log(`  FAILED: ${test}`)
  passed += passing.length
  failed += missing.length
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
