// Runs the Rust code under the checkers that this machine has, and names those that are missing, with the reason:
//
//   npm run test:sanitizers [-- CHECK…]    asan, tsan, valgrind, addon, addon-asan
//
// The last line counts tests and runs of tools/check/operations.mjs: `N passed, N failed`.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root, run, sum } from '../run.mjs'

const TARGET = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-unknown-linux-gnu`
/** A folder apart from other builds, which have another compiler and other options. */
const FOLDER = join(root, 'target', 'sanitizers')

/** The tests that valgrind cannot run, with the reason. They run under AddressSanitizer. */
const BEYOND_VALGRIND = {
  beneath: 'it asks for openat2, which valgrind 3.19 knows not',
  conformance: 'it gives recvmsg an address that cannot be written, on purpose',
  corpus: 'it lowers RLIMIT_NOFILE, which valgrind answers itself, and not as the kernel does',
  leaks: 'as corpus',
  truncation: 'as corpus',
  inetd: 'programs that are executed, with deadlines',
  pool: 'as inetd',
  spawn: 'as inetd'
}

/** Tests that valgrind cannot run, of programs that it can run, with the reason. */
const SKIPPED = {
  a_close_that_blocks_delays_no_other_owner_and_nothing_else_s272: 'valgrind stops all threads during a close(2)'
}

/** The tests in which several threads use core, for ThreadSanitizer. */
const THREADED = ['channel', 'descriptor', 'pool', 'socket_file']

let passed = 0
let failed = 0
const missing = []

/** Returns whether a command exists and succeeds. */
const works = (command, ...args) => spawnSync(command, args, { cwd: root, stdio: 'ignore' }).status === 0
const hasNightly = () => works('cargo', '+nightly', '--version')
const NO_NIGHTLY = 'no nightly toolchain: rustup toolchain install nightly'

/** Runs a command that counts its tests as cargo does. */
async function count(name, command, args, env = {}) {
  console.log(`# ${name}`)
  const { code, output } = await run(command, args, { env })
  const [good, bad] = [/ (\d+) passed/g, / (\d+) failed/g].map((pattern) => sum(output, pattern))
  passed += good
  // A run that exits badly without a failed test has failed as a whole: a sanitizer ends the process.
  failed += code !== 0 && bad === 0 ? 1 : bad
  return code
}

/** Builds core's tests with a sanitizer; not those in comments, which rustdoc would link without. */
function sanitized(name, flags, { tests, env = {}, options = [] }) {
  const args = [
    '+nightly',
    'test',
    '--quiet',
    '--target',
    TARGET,
    '--package=fdpass-core',
    '--no-fail-fast',
    ...options
  ]
  const only = tests?.flatMap((test) => ['--test', test]) ?? ['--tests']
  const variables = { RUSTFLAGS: flags, CARGO_TARGET_DIR: join(FOLDER, name), ...env }
  return count(`core under ${name}`, 'cargo', [...args, ...only, '--', '--test-threads=1'], variables)
}

const reports = mkdtempSync(join(tmpdir(), 'fdpass-valgrind-'))

/** Runs a program under valgrind. Returns its errors, and the stacks of descriptors that it has left open. */
async function valgrind(name, args, env = {}) {
  const options = ['-q', '--track-fds=yes', '--error-exitcode=99', '--num-callers=30', '--leak-check=full']
  const log = join(reports, `${name}.%p.log`)
  const kinds = ['--show-leak-kinds=definite', '--errors-for-leak-kinds=definite', `--log-file=${log}`]
  const { code, output } = await run('valgrind', [...options, ...kinds, ...args], { env, show: false })
  const logs = readdirSync(reports).filter((file) => file.startsWith(`${name}.`))
  const text = logs.map((file) => readFileSync(join(reports, file), 'utf8')).join('\n')
  const blocks = text.replaceAll(/^==\d+== ?/gm, '').split(/\n\s*\n/)
  // A descriptor that the program has opened has a stack. Inherited ones have none.
  const left = blocks.filter((block) => block.startsWith('Open file descriptor') && / {2}at 0x/.test(block))
  return { code, output, blocks, left }
}

const checks = {
  /** Memory errors and leaks, in forked processes too. */
  async asan() {
    if (!hasNightly()) return NO_NIGHTLY
    await sanitized('asan', '-Zsanitizer=address', { env: { ASAN_OPTIONS: 'detect_leaks=1' } })
  },

  /** Races. std is built with the sanitizer too: it does not see the synchronization inside the distributed one, such as a condition variable's. */
  async tsan() {
    if (!hasNightly()) return NO_NIGHTLY
    if (!works('rustup', 'component', 'add', 'rust-src', '--toolchain', 'nightly')) return 'no sources of std: rust-src'
    await sanitized('tsan', '-Zsanitizer=thread', { tests: THREADED, options: ['-Zbuild-std'] })
  },

  /** Memory errors, uninitialized bytes in system calls, and descriptors open at the end. */
  async valgrind() {
    if (!works('valgrind', '--version')) return 'valgrind is not installed'
    const build = ['test', '--package=fdpass-core', '--no-run', '--message-format=json']
    const { stdout, status } = spawnSync('cargo', build, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 })
    if (status !== 0) return void (failed += 1)
    const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
    const binaries = lines
      .map((line) => JSON.parse(line))
      .filter(({ executable, profile }) => executable && profile.test)
    for (const { executable, target } of binaries) {
      const reason = BEYOND_VALGRIND[target.name]
      if (reason === undefined) {
        const skips = Object.keys(SKIPPED).flatMap((name) => ['--skip', name])
        const { code, output, blocks, left } = await valgrind(target.name, [executable, '--test-threads=1', ...skips])
        const [good, bad] = [/ (\d+) passed/g, / (\d+) failed/g].map((pattern) => sum(output, pattern))
        console.log(`# ${target.name} under valgrind: ${good} passed, ${left.length} descriptors left`)
        if (code !== 0 || left.length > 0) console.error(output, blocks.join('\n\n'))
        passed += good
        failed += bad + left.length + (code !== 0 && bad === 0 ? 1 : 0)
      } else {
        missing.push(`valgrind over ${target.name}: ${reason}`)
      }
    }
    for (const [name, reason] of Object.entries(SKIPPED)) missing.push(`valgrind over ${name}: ${reason}`)
  },

  /** The addon in Node under valgrind. Only errors with fdpass in their stack count: Node's own are many and known. */
  async addon() {
    if (!works('valgrind', '--version')) return 'valgrind is not installed'
    for (const backend of ['uv', 'thread']) {
      const program = [process.execPath, join(root, 'tools', 'check', 'operations.mjs'), '5']
      const { code, output, blocks } = await valgrind(`addon-${backend}`, program, { FDPASS_BACKEND: backend })
      const ours = blocks.filter((block) => / {3}(at|by) 0x/.test(block) && /fdpass[\w.-]*\.node/.test(block))
      // Node allocates these once per environment and never frees them, even after their owner has released them.
      const unknown = ours.filter(
        (block) => !/definitely lost[^]*by 0x\w+: napi_(create_reference|async_init)/.test(block)
      )
      const good = /^\d+ operations$/m.test(output) && unknown.length === 0
      console.log(
        `# ${backend} under valgrind: ${output.trim()}, exit code ${code}, ${unknown.length} reports with fdpass in them`
      )
      if (!good) console.error(unknown.join('\n\n'))
      if (good) passed += 1
      else failed += 1
    }
  },

  /** The addon with AddressSanitizer, in a Node without it: the sanitizer's runtime is preloaded. */
  async 'addon-asan'() {
    if (!hasNightly()) return NO_NIGHTLY
    const runtime = spawnSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).stdout?.trim()
    if (!runtime?.startsWith('/') || !existsSync(runtime)) return 'no libasan.so to preload: it comes with gcc'
    const folder = join(FOLDER, 'addon-asan')
    const flags = { RUSTFLAGS: '-Zsanitizer=address', CARGO_TARGET_DIR: folder }
    const build = await run('cargo', ['+nightly', 'build', '--target', TARGET, '--package=fdpass-binding'], {
      env: flags
    })
    if (build.code !== 0) return void (failed += 1)
    const addon = join(folder, TARGET, 'debug', 'fdpass.node')
    spawnSync('cp', [join(folder, TARGET, 'debug', 'libfdpass_binding.so'), addon])
    for (const backend of ['uv', 'thread']) {
      const { code, output } = await run(process.execPath, ['tools/check/operations.mjs'], {
        env: {
          FDPASS_BACKEND: backend,
          NAPI_RS_NATIVE_LIBRARY_PATH: addon,
          LD_PRELOAD: runtime,
          ASAN_OPTIONS: 'detect_leaks=0' // Node frees little when it exits
        },
        show: false
      })
      console.log(`# ${backend} under AddressSanitizer: ${output.trim()}, exit code ${code}`)
      if (code === 0) passed += 1
      else failed += 1
    }
  }
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(checks)
const unheardOf = wanted.filter((name) => !Object.hasOwn(checks, name))
if (unheardOf.length > 0 || process.platform !== 'linux') {
  console.error(`Usage, on Linux: npm run test:sanitizers -- [${Object.keys(checks).join('|')}]…`)
  process.exit(2)
}
for (const name of wanted) {
  const reason = await checks[name]()
  if (reason !== undefined) missing.push(`${name}: ${reason}`)
}
rmSync(reports, { recursive: true })
for (const reason of missing) console.log(`# not run: ${reason}`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
