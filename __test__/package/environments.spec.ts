// Each entry point alone; and poor environments, in which each part of the package works, or fails by the name of what is missing.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { Readable } from 'node:stream'
import test, { type ExecutionContext } from 'ava'
import { onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { fixturePath, fixtureSource } from '../helpers/processes.ts'

const folder = temporaryFolder()

/** The outcomes of `environment.ts` where nothing is missing. */
const complete = {
  'a descriptor is passed': 'through it',
  'a socket has its mode': '777',
  memory: ['memfd', 'content'],
  kinds: ['fifo', 'fifo'],
  'a broker opens a file': 'content of a file',
  'a program serves': 'served\n'
}

/** Runs `environment.ts` by a command that ends with its own command line, and returns the outcomes. */
async function observe(t: ExecutionContext, command: readonly string[], env = process.env): Promise<object> {
  const node = [process.execPath, ...process.execArgv, fixturePath('environment'), mkdtempSync(join(folder, 'e-'))]
  const [program, ...args] = [...command, ...node]
  const child = spawn(program!, args, { env, stdio: ['ignore', 'inherit', 'inherit', 'pipe'] })
  t.teardown(() => child.kill('SIGKILL'))
  return JSON.parse(await text(child.stdio[3] as Readable)) as object
}

const runs = (...command: string[]): boolean => {
  const [program, ...args] = [...command, process.execPath, '-e', '0']
  return spawnSync(program!, args).status === 0
}

const shell = (script: string): string[] => ['sh', '-c', `${script}; exec "$@"`, 'sh']

test('nothing is missing', async (t) => {
  t.deepEqual(await observe(t, []), complete)
})

test('closed standard streams [S152]', async (t) => {
  t.deepEqual(await observe(t, shell('exec <&- >&- 2>&-')), complete)
})

test('room for 64 descriptors [S152]', async (t) => {
  t.deepEqual(await observe(t, [], { ...process.env, FDPASS_TEST_FD_LIMIT: '64' }), complete)
})

test('no environment variables', async (t) => {
  t.deepEqual(await observe(t, [], {}), complete)
})

const asFirst = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']
onlyIf(runs(...asFirst), 'needs root on Linux, and namespaces')('process 1 of a container [S152]', async (t) => {
  t.deepEqual(await observe(t, asFirst), complete)
})

const withoutProc = ['unshare', '--mount', '--propagation', 'private', ...shell('mount -t tmpfs none /proc')]
const hasProcHidden = onlyIf(runs(...withoutProc), 'needs root on Linux, and a runtime that starts without /proc')

const withoutCalls = (...names: string[]) => ['python3', fixtureSource('kernel.py'), 'without', names.join(',')]
const refused = onlyIf(
  process.arch === 'x64' && runs(...withoutCalls('pidfd_getfd=38')),
  'needs seccomp, Python and an x86-64 processor'
)

// ENOSYS before Linux 6.6 or EPERM under a seccomp profile, and otherwise EBADF. Its number is the same on every architecture.
const fchmodat2 =
  'import ctypes, os; c = ctypes.CDLL(None, use_errno=True); c.syscall(452, -1, b"x", 0, 0); os._exit(ctypes.get_errno() != 9)'
const hasFchmodat2 = process.platform === 'linux' && spawnSync('python3', ['-c', fchmodat2]).status === 0

hasProcHidden('no /proc [S152]', async (t) => {
  const outcomes = (await observe(t, withoutProc)) as typeof complete
  const { 'a socket has its mode': mode, ...rest } = outcomes
  const { 'a socket has its mode': _, ...expected } = complete
  // The link in /proc shows a memfd's kind.
  t.deepEqual(rest, { ...expected, memory: ['file', 'content'] })
  if (hasFchmodat2) t.is(mode, '777')
  else t.like(mode, { code: 'ERR_UNSUPPORTED_PLATFORM' })
})

if (process.arch === 'x64') {
  hasProcHidden('no /proc, and no fchmodat2: the error names what is missing', async (t) => {
    const outcomes = (await observe(t, [...withoutProc, ...withoutCalls('fchmodat2=38')])) as Record<string, object>
    const { code, message } = outcomes['a socket has its mode'] as NodeJS.ErrnoException
    t.is(code, 'ERR_UNSUPPORTED_PLATFORM')
    t.regex(message, /socket cannot have mode 0o777, which the umask restricts: that needs \/proc, or Linux 6\.6$/)
  })
}

for (const [errno, name] of [
  [38, 'ENOSYS'],
  [1, 'EPERM']
] as const) {
  for (const call of ['openat2', 'close_range', 'statx', 'fchmodat2', 'faccessat2', 'pidfd_open', 'linux-4.18']) {
    refused(`${call} fails with ${name}: other calls do its work [S152]`, async (t) => {
      t.deepEqual(await observe(t, withoutCalls(`${call}=${errno}`)), complete)
    })
  }

  refused(`memfd_create fails with ${name}: memfd() names it, and all else works`, async (t) => {
    const { memory, ...rest } = (await observe(t, withoutCalls(`memfd_create=${errno}`))) as typeof complete
    const { memory: _, ...expected } = complete
    t.deepEqual(rest, expected)
    t.like(memory, { code: name, syscall: 'memfd_create' })
  })
}

const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as { exports: Record<string, unknown> }
const entryPoints = Object.keys(exports)
  .filter((subpath) => subpath !== './package.json')
  .map((subpath) => subpath.replace('.', 'fdpass'))

/** Imports modules in their order in a new process, and casts an inherited socket there; returns what the process prints. */
async function castAfterImporting(modules: readonly string[]): Promise<string> {
  const descriptorRoom = new URL('../../../dist/lib/descriptor/index.js', import.meta.url).href
  const script = `
    for (const module of ${JSON.stringify(modules)}) await import(module)
    const { Descriptor } = await import(${JSON.stringify(descriptorRoom)})
    const socket = Descriptor.from(3).toUnixSocket()
    console.log(socket.type)
    socket.toStream().destroy()`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'] // the last is a Unix domain stream socket (uv_spawn in libuv)
  })
  const [stdout, stderr] = await Promise.all([text(child.stdout!), text(child.stderr!)])
  return `${stdout}${stderr}`.trim()
}

test('the casts to sockets and streams come from the rooms above: without an entry point a Descriptor has none', async (t) => {
  t.regex(await castAfterImporting([]), /toUnixSocket is not a function/)
})

for (const [position, entryPoint] of entryPoints.entries()) {
  test(`${entryPoint} works when it is imported alone`, async (t) => {
    t.is(await castAfterImporting([entryPoint]), 'stream')
  })

  test(`${entryPoint} works when it is imported first, and when it is imported last`, async (t) => {
    const others = [...entryPoints.slice(position + 1), ...entryPoints.slice(0, position)]
    t.is(await castAfterImporting([entryPoint, ...others]), 'stream')
    t.is(await castAfterImporting([...others.toReversed(), entryPoint]), 'stream')
  })
}
