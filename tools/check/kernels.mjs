// `npm run test:kernels -- [KERNEL…] [SPEC…] [--backend uv|thread] [--timeout SECONDS] [--memory SIZE]`: runs the tests on other kernels, as root.
// It prints a table of kernels and suites; the last line counts the tests: `N passed, N failed`.
//
//   5.10, 6.1, 6.12, 7.2   Debian's user-mode-linux of bullseye, bookworm, trixie and sid: a kernel that is a program, without KVM or image
//   6.1+smack, 7.2+smack   these kernels with the security module Smack; by default only __test__/proof/security-modules.spec.ts runs there
//   4.18                   this kernel without the system calls and socket options that came after 4.18, which fail with ENOSYS
//   seccomp                the same calls fail with EPERM, as under the seccomp profiles of older container engines
//
// Default: all of them. SPEC is a folder or a spec file of __test__ (`socket`, `socket/transfer`), or `core`. Default: core, and the folders
// of DEFAULT. It needs Debian with its package sources, a C compiler and cargo, x64, and python3 for 4.18 and seccomp.
import { execFileSync, spawn } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { root, run, sum } from '../run.mjs'

/** The releases of Debian whose package user-mode-linux is this kernel. */
const RELEASES = new Map([
  ['5.10', 'bullseye'],
  ['6.1', 'bookworm'],
  ['6.12', 'trixie'],
  ['7.2', 'sid']
])

/** Kernels that are started with a security module. Without a SPEC, they run the tests of security modules only. */
const WITH_MODULE = ['6.1+smack', '7.2+smack']

/** What __test__/fixtures/kernel.py takes away from this kernel. */
const FILTERS = new Map([
  ['4.18', 'linux-4.18=38'],
  ['seccomp', 'linux-4.18=1']
])

/** Folders of __test__ that run without a SPEC: those whose subject is system calls. */
const DEFAULT = (
  'native event-loop address descriptor socket stream handover channel systemd ipc broker takeover superserver ' +
  'listen store dbus proof'
).split(' ')

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    backend: { type: 'string' },
    timeout: { type: 'string', default: '1800' },
    memory: { type: 'string', default: '4G' }
  }
})
const versionOf = (kernel) => kernel.split('+')[0]
const isKernel = (name) => RELEASES.has(name) || FILTERS.has(name) || WITH_MODULE.includes(name)
const named = positionals.filter(isKernel)
const kernels = named.length > 0 ? named : [...FILTERS.keys(), ...RELEASES.keys(), ...WITH_MODULE]
const specs = positionals.filter((name) => !isKernel(name))
const backends = values.backend === undefined ? ['uv', 'thread'] : [values.backend]
if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.log('# The kernels are programs for Linux on x64')
  console.log('0 passed, 1 failed')
  process.exit(1)
}

/** Runs a program; its output is shown only if it fails. */
function execute(command, args, cwd) {
  return execFileSync(command, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 26
  })
}

/** Returns `'…'` for sh(1). */
function quote(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}

/** Returns the paths of all files below a folder whose path matches; without symbolic links. */
function find(folder, pattern) {
  return fs
    .readdirSync(folder, { recursive: true })
    .map((path) => join(folder, path))
    .filter((path) => pattern.test(path) && fs.lstatSync(path).isFile())
}

/** Fetches a kernel from the mirror that this system's apt has, with its C library, and a static busybox. Returns their folder. */
function fetch(version) {
  const folder = join(root, 'node_modules', '.fdpass', 'kernels', version)
  if (fs.existsSync(join(folder, 'linux'))) return folder
  fs.rmSync(folder, { recursive: true, force: true })
  fs.mkdirSync(join(folder, 'lists', 'partial'), { recursive: true })
  const source = `deb [trusted=yes] $(REPO_URI) ${RELEASES.get(version)} main`
  const targets = execute('apt-get', ['indextargets', '--format', source, 'Identifier: Packages'], folder)
  // Not the security archive, which has other releases and few packages.
  const mirror = targets.split('\n').find((line) => /\/debian\/? /.test(line))
  if (mirror === undefined) throw new Error("Cannot fetch kernels: apt's sources name no mirror of Debian")
  fs.writeFileSync(join(folder, 'sources'), `${mirror}\n`)
  const options = [
    `Dir::Etc::sourcelist=${folder}/sources`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::lists=${folder}/lists`,
    'Dir::Cache::pkgcache=',
    'Dir::Cache::srcpkgcache=',
    'Dir::State::status=/dev/null',
    'Acquire::Languages=none',
    'APT::Sandbox::User='
  ].flatMap((option) => ['-o', option])
  execute('apt-get', ['-qq', ...options, 'update'], folder)
  // The kernel may need a later C library than this system has.
  execute('apt-get', ['-qq', ...options, 'download', 'user-mode-linux', 'libc6', 'busybox-static'], folder)
  for (const file of find(folder, /\.deb$/)) {
    execute('dpkg-deb', ['-x', file, folder])
    fs.rmSync(file)
  }
  execute(
    'cc',
    ['-O2', '-shared', '-fPIC', '-o', 'xstate.so', join(root, 'tools', 'check', 'kernels', 'xstate.c')],
    folder
  )
  const [loader] = find(folder, /\/ld-(linux-x86-64\.so\.2|2\.\d+\.so)$/)
  fs.symlinkSync(relative(folder, loader), join(folder, 'ld.so'))
  for (const path of ['lists', 'sources']) fs.rmSync(join(folder, path), { recursive: true })
  // The kernel executes itself again, so that it cannot be an argument of the loader: its interpreter is changed, to one in its directory.
  const program = fs.readFileSync(join(folder, 'usr', 'bin', 'linux.uml'))
  const interpreter = '/lib64/ld-linux-x86-64.so.2'
  program.write('./ld.so'.padEnd(interpreter.length, '\0'), program.indexOf(interpreter), 'latin1')
  fs.writeFileSync(join(folder, 'linux'), program, { mode: 0o755 })
  return folder
}

/** Returns the test programs of crates/core, which cargo builds here. */
function corePrograms() {
  const output = execute(
    'cargo',
    ['test', '--package', 'fdpass-core', '--no-run', '--message-format=json', '--quiet'],
    root
  )
  const messages = output
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
  return messages
    .filter(({ reason, executable, profile }) => reason === 'compiler-artifact' && profile.test && executable !== null)
    .map(({ target, executable }) => ({
      name: `core: ${target.name}`,
      command: ['env', '--chdir=crates/core', executable]
    }))
}

/** Returns what is run on a kernel: a name, a command and its environment for each suite. */
function suites(kernel) {
  const own = WITH_MODULE.includes(kernel) ? ['proof/security-modules'] : DEFAULT
  const folders = specs.length === 0 ? own : specs.filter((name) => name !== 'core')
  const compiled = join(root, 'build', '__test__')
  const ava = (name, backend) => {
    const spec = name.replace(/^(build\/)?__test__\//, '').replace(/(\.spec\.(ts|js))?\/?$/, '')
    const path = join(compiled, spec)
    const files = fs.existsSync(path) ? find(path, /\.spec\.js$/) : [`${path}.spec.js`]
    return {
      name: `${spec}, ${backend}`,
      env: { FDPASS_BACKEND: backend },
      command: [
        process.execPath,
        'node_modules/ava/entrypoints/cli.mjs',
        '--tap',
        '--serial',
        '--concurrency=1',
        ...files
      ]
    }
  }
  const script = `import { capabilities } from './dist/index.js'; console.log(capabilities())`
  return [
    { name: 'capabilities', command: [process.execPath, '--input-type=module', '--eval', script] },
    ...((specs.length === 0 && own === DEFAULT) || specs.includes('core') ? corePrograms() : []),
    ...backends.flatMap((backend) => folders.map((name) => ava(name, backend)))
  ]
}

/** Returns the shell script that runs the suites. A suite that does not end in time is killed. */
function scriptOf(list) {
  const lines = list.flatMap(({ command, env = {} }, at) => {
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
    const words = ['env', ...variables, 'timeout', '--signal=KILL', values.timeout, ...command].map(quote)
    return [`echo '# suite ${at}'`, words.join(' '), `echo "# exit ${at} $?"`, 'sync']
  })
  return ['uname -r', ...lines, ''].join('\n')
}

/** Starts a kernel whose first process runs the script; its output is in the job's folder. */
function boot(kernel, job) {
  const folder = fetch(versionOf(kernel))
  const [, module] = kernel.split('+')
  const [moduleList] = find(folder, /\/modules\.dep$/)
  const settings = {
    checkout: root,
    busybox: find(folder, /bin\/busybox$/)[0],
    modules: dirname(moduleList),
    HOME: '/root',
    TERM: 'dumb',
    LANG: 'C.UTF-8'
  }
  const path = `${process.env.PATH}:/usr/sbin:/sbin`
  const assignments = Object.entries({ ...settings, PATH: path, job }).map(
    ([name, value]) => `export ${name}=${quote(value)}\n`
  )
  fs.writeFileSync(join(job, 'settings'), assignments.join(''))
  const log = fs.openSync(join(job, 'console'), 'w')
  // The machine's memory is a file that is mapped with PROT_EXEC, which containers forbid in /dev/shm.
  const [, shm = 'noexec'] = / \/dev\/shm \S+ (\S+)/.exec(fs.readFileSync('/proc/mounts', 'utf8')) ?? []
  const parameters = [
    'root=/dev/root',
    'rootfstype=hostfs',
    'rootflags=/',
    'ro',
    'con=null',
    'con0=null,fd:1',
    'panic=1',
    ...(module === undefined ? [] : [`security=${module}`])
  ]
  const init = join(root, 'tools', 'check', 'kernels', 'init.sh')
  const child = spawn('./linux', [`mem=${values.memory}`, ...parameters, `init=${init}`, `job=${job}`], {
    cwd: folder,
    env: {
      HOME: job,
      TMPDIR: shm.includes('noexec') ? tmpdir() : '/dev/shm',
      LD_LIBRARY_PATH: dirname(fs.realpathSync(join(folder, 'ld.so'))),
      LD_PRELOAD: './xstate.so'
    },
    stdio: ['ignore', log, log]
  })
  fs.closeSync(log)
  return child
}

/** Runs the script with what came after a kernel taken away. */
function filter(kernel, job) {
  const output = fs.openSync(join(job, 'output'), 'w')
  const fixture = join(root, '__test__', 'fixtures', 'kernel.py')
  const child = spawn('python3', [fixture, 'without', FILTERS.get(kernel), 'sh', join(job, 'suites')], {
    cwd: root,
    stdio: ['ignore', output, output]
  })
  fs.closeSync(output)
  return child
}

/** Runs the script on a kernel; returns its output, which is also shown. */
async function runOn(kernel, script) {
  const job = fs.mkdtempSync(join(tmpdir(), 'fdpass-kernel-'))
  fs.writeFileSync(join(job, 'suites'), script)
  const output = join(job, 'output')
  let shown = 0
  const show = () => {
    const text = fs.existsSync(output) ? fs.readFileSync(output, 'utf8') : ''
    process.stdout.write(text.slice(shown))
    shown = text.length
    return text
  }
  const child = FILTERS.has(kernel) ? filter(kernel, job) : boot(kernel, job)
  const end = () => {
    child.kill('SIGTERM')
    fs.rmSync(job, { recursive: true })
    process.exit(1)
  }
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, end)
  // A hostfs notifies no watcher of what the machine writes.
  const timer = setInterval(show, 1000)
  await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
  clearInterval(timer)
  for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, end)
  const text = show()
  if (!text.includes('# suite')) console.log(fs.readFileSync(join(job, 'console'), 'utf8'))
  fs.rmSync(job, { recursive: true })
  return text
}

/** Returns the counts of a suite: `passed`, `failed`, and the titles of the tests that were skipped. */
function countsOf(output, at) {
  const begin = output.indexOf(`# suite ${at}\n`)
  const end = new RegExp(`^# exit ${at} (\\d+)$`, 'm').exec(output)
  // A machine that ended meanwhile.
  if (begin === -1 || end === null) return { passed: 0, failed: 1, skipped: [] }
  const text = output.slice(begin, end.index)
  const passed = sum(text, /^# pass (\d+)$/gm) + sum(text, / (\d+) passed; /g)
  const failed = sum(text, /^# fail (\d+)$/gm) + sum(text, / (\d+) failed; /g)
  const skipped = [...text.matchAll(/^ok \d+ - (.*) # SKIP$/gm)].map(([, title]) => title)
  // A suite that exits badly without a failed test has failed as a whole.
  return { passed, failed: end[1] !== '0' && failed === 0 ? 1 : failed, skipped }
}

const setUp = await run(process.execPath, ['tools/build/setup.mjs'])
if (setUp.code !== 0) process.exit(1)
const table = {}
const skips = new Map()
let passed = 0
let failed = 0
for (const kernel of kernels) {
  console.log(`# kernel ${kernel}`)
  const list = suites(kernel)
  const output = await runOn(kernel, scriptOf(list))
  for (const [at, { name }] of list.entries()) {
    const counts = countsOf(output, at)
    passed += counts.passed
    failed += counts.failed
    const cell = counts.passed === 0 && counts.failed === 0 ? 'printed' : `${counts.passed}`
    table[name] ??= {}
    table[name][kernel] = counts.failed === 0 ? cell : `${counts.passed}, ${counts.failed} failed`
    for (const title of counts.skipped) skips.set(title, (skips.get(title) ?? new Set()).add(kernel))
  }
}
for (const [title, on] of skips) console.log(`# skipped on ${[...on].join(', ')}: ${title}`)
console.table(table)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
