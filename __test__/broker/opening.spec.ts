import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  constants,
  existsSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import type { BrokerRequest } from 'fdpass/broker'
import { begin, codeOf, contentOf, makeFolder, refused } from '../helpers/brokers.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, statusFlags } from '../helpers/descriptors.ts'
import { fixturePath, fixtureSource } from '../helpers/processes.ts'
import { endWith } from '../helpers/programs.ts'

const isRoot = process.getuid?.() === 0

const asRoot = onlyIf(isRoot && isLinux, 'needs root on Linux')

const onLinux = onlyIf(isLinux, 'needs Linux')

test('a broker opens files and directories beneath its roots, and refuses all else [S41]', async (t) => {
  const { folder, root, inside } = makeFolder()
  symlinkSync('/etc/passwd', inside('absolute'))
  symlinkSync('../outside/file', inside('out'))
  symlinkSync('folder', inside('within'))
  spawnSync('mkfifo', [inside('fifo')])
  const broker = await begin(t, { roots: [root] })
  for (const path of ['file', `${root}/file`, 'folder/../file', `${root}//./folder/file`]) {
    t.is(contentOf(await broker.open(path)), 'inside', path)
  }
  if (isLinux) t.is(contentOf(await broker.open('within/file')), 'inside')
  using directory = await broker.open(`${root}/`)
  t.is(directory.kind, 'directory')
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

asRoot('a policy in a module is asked in the helper (needs root) [S44]', async (t) => {
  const { root, inside } = makeFolder()
  writeFileSync(inside('a.log'), 'logged')
  const broker = await begin(t, { user: 'nobody', roots: [root], allow: fixturePath('broker-policy') })
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
    const swapper = spawn('python3', [fixtureSource('swapper.py'), inside('swapped'), inside('other')])
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
