import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  constants,
  existsSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import type { BrokerRequest } from 'fdpass/broker'
import { begin, codeOf, contentOf, makeFolder, refused } from '../helpers/brokers.ts'
import { canResolve, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, statusFlags } from '../helpers/descriptors.ts'
import { endWith, fixtureSource } from '../helpers/processes.ts'

const followsLinks = canResolve('beneath')

const isRoot = process.getuid?.() === 0

const asRoot = onlyIf(isRoot && isLinux, 'needs root on Linux')

const onLinux = onlyIf(isLinux, 'needs Linux')

test('a broker opens files beneath its roots, and refuses all else [S41]', async (t) => {
  const { folder, root, inside } = makeFolder()
  symlinkSync('/etc/passwd', inside('absolute'))
  symlinkSync('../outside/file', inside('out'))
  symlinkSync('folder', inside('within'))
  spawnSync('mkfifo', [inside('fifo')])
  const broker = await begin(t, { roots: [root] })
  for (const path of ['file', `${root}/file`, 'folder/../file', `${root}//./folder/file`]) {
    t.is(contentOf(await broker.open(path)), 'inside', path)
  }
  if (followsLinks) t.is(contentOf(await broker.open('within/file')), 'inside')
  else await refused(t, broker.open('within/file'), 'within/file')
  const out = ['../outside/file', `${root}/../outside/file`, `${folder}/outside/file`, '/etc/passwd', `${root}-more`]
  for (const path of [...out, 'absolute', 'out', 'folder/../../inner/file', 'fifo']) {
    await refused(t, broker.open(path), path)
  }
  for (const flags of ['w', 'r+', 'a', constants.O_CREAT, constants.O_TRUNC]) {
    await refused(t, broker.open('file', flags), `${flags}`)
  }
  await refused(t, broker.open('new', 'w'))
  t.is(readFileSync(inside('file'), 'utf8'), 'inside')
  t.false(existsSync(inside('new')))
  await t.throwsAsync(broker.open('missing'), {
    code: 'ENOENT',
    message: "ENOENT: no such file or directory, openat2 'missing'"
  })
  const error = await t.throwsAsync<NodeJS.ErrnoException>(broker.open('../x'))
  t.like(error, { code: 'EACCES', errno: -13, syscall: 'openat2', path: '../x' })
})

test('directories are opened only for a broker with the option [S201]', async (t) => {
  const { root } = makeFolder()
  const [closed, open] = await Promise.all([
    begin(t, { roots: [root], allow: () => true }),
    begin(t, { roots: [root], directories: true })
  ])
  for (const path of ['folder', 'folder/', '.', root]) {
    for (const flags of ['r', constants.O_DIRECTORY]) await refused(t, closed.open(path, flags))
    using directory = await open.open(path)
    t.is(directory.kind, 'directory')
  }
})

onLinux('files of procfs and sysfs are opened only beneath a root that is one of them [S202]', async (t) => {
  const broker = await begin(t, { roots: ['/'], directories: true, allow: () => true })
  const own = [`proc/${process.pid}/environ`, `/proc/${process.pid}/mem`, '/proc/version', '/proc', '/sys/kernel']
  for (const path of own) await refused(t, broker.open(path), path)
  await refused(t, broker.open('/proc/new', constants.O_CREAT | constants.O_WRONLY))
  await refused(t, broker.open('/proc/missing'))
  const chosen = await begin(t, { roots: ['/', '/proc'] })
  t.regex(contentOf(await chosen.open('/proc/version')), /Linux/)
})

onLinux('devices, and links of /proc, are refused [S39]', async (t) => {
  const broker = await begin(t, { roots: ['/dev', '/proc'] })
  await refused(t, broker.open('null'))
  for (const path of ['self/cwd/passwd', 'self/root', `${process.pid}/cwd`, `${process.pid}/exe`]) {
    await refused(t, broker.open(path), path)
  }
  t.regex(contentOf(await broker.open('/proc/version')), /Linux/)
})

test('a policy allows creating, emptying, writing and what is no file [S102]', async (t) => {
  const { root, inside } = makeFolder()
  spawnSync('mkfifo', [inside('fifo')])
  const asked: BrokerRequest[] = []
  const allow = (request: BrokerRequest) => asked.push(request) > 0
  const broker = await begin(t, { roots: [root], allow })
  using made = await broker.open('new', 'wx+', 0o640)
  writeFileSync(made.fd, 'new')
  t.is(readFileSync(inside('new'), 'utf8'), 'new')
  t.is(statSync(inside('new')).mode & 0o777, 0o600) // by the umask
  t.is(await codeOf(broker.open('new', 'wx')), 'EEXIST')
  t.is(await codeOf(broker.open('file', 'w')), 'opened')
  t.is(readFileSync(inside('file'), 'utf8'), '')
  using fifo = await broker.open('fifo') // nobody writes
  t.is(fifo.kind, 'fifo')
  if (isLinux) t.is(statusFlags(fifo.fd) & constants.O_NONBLOCK, 0)
  t.is(await codeOf(broker.open('fifo', constants.O_WRONLY | constants.O_NONBLOCK)), 'opened')
  symlinkSync('nowhere', inside('dangling'))
  await refused(t, broker.open('dangling', 'w'))
  t.like(asked[0], {
    operation: 'open',
    path: 'new',
    root,
    resolved: null,
    kind: null,
    parent: isLinux ? realpathSync(root) : null,
    name: 'new',
    access: 'read-write',
    create: true
  })
  t.like(asked[1], { path: 'new', kind: 'file', create: true }) // before anybody learns that it is there
  t.like(asked[2], { path: 'file', kind: 'file', access: 'write', truncate: true, append: false })
  t.is(await codeOf(broker.open('file', 0o20000000)), 'EINVAL')
})

test('a policy that returns false, throws, or returns no boolean refuses [S41]', async (t) => {
  const { root } = makeFolder()
  const answers: (() => unknown)[] = [() => false, () => Promise.resolve(false), () => 1, () => 'yes', () => undefined]
  answers.push(() => Promise.reject(new Error('policy')))
  const allow = (() => answers.shift()!()) as () => boolean
  const broker = await begin(t, { roots: [root], allow })
  while (answers.length > 0) await refused(t, broker.open('file'))
})

test('a denied client gets the same answer for each path, and whether it exists [S203]', async (t) => {
  const { root, inside } = makeFolder()
  symlinkSync('/etc/passwd', inside('out'))
  const asked: BrokerRequest[] = []
  const broker = await begin(t, { roots: [root], directories: true, allow: (request) => asked.push(request) < 0 })
  const paths = [
    'file',
    'folder',
    'folder/',
    '.',
    'missing',
    'missing/',
    'missing/file',
    'file/x',
    'out',
    '../inner',
    'x/..'
  ]
  const flags = ['r', 'w', 'wx', constants.O_DIRECTORY, constants.O_CREAT]
  for (const path of [...paths, ...paths.map((name) => `${root}/${name}`)]) {
    for (const flag of flags) {
      const error = await t.throwsAsync<NodeJS.ErrnoException>(broker.open(path, flag), undefined, `${path} ${flag}`)
      t.like(error, {
        code: 'EACCES',
        syscall: 'openat2',
        path,
        message: `EACCES: permission denied, openat2 '${path}'`
      })
    }
  }
  t.is(asked.length, paths.length * 2 * flags.length)
})

onLinux('a policy knows in which directory a file is created, and the file is created there [S204]', async (t) => {
  const { root, inside } = makeFolder()
  symlinkSync('folder', inside('link'))
  const asked: BrokerRequest[] = []
  const broker = await begin(t, {
    roots: [root],
    allow(request) {
      asked.push(request)
      // Another process replaces the path while the policy decides.
      renameSync(inside('folder'), inside('moved'))
      symlinkSync('../outside', inside('folder'))
      return true
    }
  })
  using made = await broker.open(followsLinks ? 'link/../folder/./new' : 'folder/./new', 'wx')
  writeFileSync(made.fd, 'new')
  const folder = realpathSync(root)
  t.like(asked[0], { resolved: null, kind: null, parent: `${folder}/folder`, name: 'new' })
  t.is(readFileSync(inside('moved/new'), 'utf8'), 'new')
})

test('what changes a file is no reading [S205]', async (t) => {
  const { root, inside } = makeFolder()
  const broker = await begin(t, {
    roots: [root],
    allow: (request) => request.operation === 'open' && request.access === 'read'
  })
  t.is(contentOf(await broker.open('file')), 'inside')
  for (const flag of [constants.O_TRUNC, constants.O_CREAT, constants.O_CREAT | constants.O_EXCL]) {
    for (const path of ['file', 'new']) await refused(t, broker.open(path, flag), `${path} ${flag}`)
  }
  t.is(readFileSync(inside('file'), 'utf8'), 'inside')
  t.false(existsSync(inside('new')))
})

onlyIf(hasPython && isLinux, 'needs Python and leases')(
  'an open does not wait for a lease, and the kernel notifies its owner [S206]',
  async (t) => {
    const { root, inside } = makeFolder()
    const program = `
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
sys.stdin.read()
`
    const owner = spawn('python3', ['-c', program, inside('file')], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = endWith(t, owner)
    await once(owner.stdout, 'data')
    const broker = await begin(t, { roots: [root], allow: () => true })
    for (const flags of ['r', 'r+', 'w']) t.is(await codeOf(broker.open('file', flags)), 'EAGAIN', flags)
    t.is(contentOf(await broker.open('folder/file')), 'inside')
    owner.stdin.end()
    await ended
    using file = await broker.open('file')
    t.is(statusFlags(file.fd) & constants.O_NONBLOCK, 0)
    t.is(readFileSync(file.fd, 'utf8'), 'inside')
  }
)

asRoot('a policy in a module is asked in the helper (needs root) [S44]', async (t) => {
  const { folder, root, inside } = makeFolder()
  writeFileSync(inside('a.log'), 'logged')
  const policy = join(folder, 'policy.mjs')
  writeFileSync(
    policy,
    `export default (request, { uid }) =>
      request.operation === 'open' && request.access === 'read' && request.resolved?.endsWith('.log') === true && uid === 0`
  )
  const broker = await begin(t, { user: 'nobody', roots: [root], allow: policy })
  t.is(contentOf(await broker.open('a.log')), 'logged')
  await refused(t, broker.open('file'))
  await refused(t, broker.open('a.log', 'r+'))
})

onlyIf(hasPython && isLinux, 'needs Python and renameat2')(
  'of 1,000 attempts none leaves the root while another process swaps its components [S39]',
  async (t) => {
    const { root, inside } = makeFolder()
    renameSync(inside('folder'), inside('swapped'))
    symlinkSync('../outside', inside('other'))
    const swapper = spawn('python3', [fixtureSource('kernel.py'), 'swap', inside('swapped'), inside('other')])
    void endWith(t, swapper)
    await once(swapper.stdout, 'data')
    const broker = await begin(t, { roots: [root] })
    const outcomes = new Map<string, number>()
    for (let attempt = 0; attempt < 1000; attempt++) {
      const path = ['swapped/file', 'other/file', 'swapped/../other/file'][attempt % 3]!
      const outcome = await broker.open(path).then(contentOf, (error: NodeJS.ErrnoException) => error.code!)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
    }
    t.deepEqual([...outcomes.keys()].toSorted(), ['EACCES', 'inside'])
    t.log(Object.fromEntries(outcomes))
  }
)

test.serial('1,000 opens leak no descriptor on either side', async (t) => {
  const { root } = makeFolder()
  const broker = await begin(t, { roots: [root], allow: () => true })
  const table = () => (isRoot && isLinux ? readdirSync(`/proc/${broker.pid}/fd`).length : 0)
  t.is(contentOf(await broker.open('file')), 'inside')
  await setTimeout(50)
  const before = [countFds(), table()]
  for (let batch = 0; batch < 10; batch++) {
    const paths = Array.from({ length: 100 }, (_, index) => (index % 4 === 0 ? '../outside' : 'file'))
    await Promise.all(paths.map((path) => codeOf(broker.open(path))))
  }
  // The helper closes on its thread pool.
  for (let wait = 0; wait < 500 && (countFds() > before[0]! || table() > before[1]!); wait++) await setTimeout(20)
  t.deepEqual([countFds(), table()], before)
})
