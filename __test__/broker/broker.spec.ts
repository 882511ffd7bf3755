import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { createServer } from 'node:net'
import { constants as osConstants } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Channel, type Descriptor, connect, listen } from 'fdpass'
import {
  type Broker,
  type BrokerRequest,
  type StartBrokerOptions,
  connectBroker,
  serveBroker,
  startBroker
} from 'fdpass/broker'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, readAll, statusFlags, temporaryFolder } from '../helpers/descriptors.ts'
import { fixturePath, fixtureSource } from '../helpers/processes.ts'
import { endWith, runs } from '../helpers/programs.ts'

const isRoot = process.getuid?.() === 0
const asRoot = onlyIf(isRoot && isLinux, 'needs root on Linux')
const onLinux = onlyIf(isLinux, 'needs Linux')
const NOBODY = 65_534

/** A folder with a root in it, which anybody may read, and a secret beside the root. */
function makeFolder(): { folder: string; root: string; inside: (path: string) => string } {
  const folder = temporaryFolder()
  const root = join(folder, 'inner')
  mkdirSync(join(root, 'folder'), { recursive: true })
  for (const path of [folder, root, join(root, 'folder')]) chmodSync(path, 0o755)
  mkdirSync(join(folder, 'outside'))
  for (const name of ['inner/file', 'inner/folder/file']) writeFileSync(join(folder, name), 'inside')
  writeFileSync(join(folder, 'outside/file'), 'outside')
  return { folder, root, inside: (path) => join(root, path) }
}

async function begin(t: ExecutionContext, options: StartBrokerOptions): Promise<Broker> {
  const broker = await startBroker(options)
  t.teardown(() => broker[Symbol.asyncDispose]())
  return broker
}

function contentOf(descriptor: Descriptor): string {
  using file = descriptor
  return readAll(file.fd)
}

async function codeOf(promise: Promise<Descriptor>): Promise<string | undefined> {
  try {
    const descriptor = await promise
    descriptor.closeSync()
    return 'opened'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  }
}

async function refused(t: ExecutionContext, promise: Promise<Descriptor>, about?: string): Promise<void> {
  t.is(await codeOf(promise), 'EACCES', about)
}

/** The lines of /proc/PID/status, for every thread. */
function statusOf(pid: number): Map<string, Set<string>> {
  const lines = new Map<string, Set<string>>()
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    for (const line of readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8').split('\n')) {
      const [name = '', value = ''] = line.split(':')
      lines.set(name, (lines.get(name) ?? new Set()).add(value.trim()))
    }
  }
  return lines
}

asRoot(
  'the helper runs as its user, in every thread, with no other groups and no capability (needs root)',
  async (t) => {
    const broker = await begin(t, { user: 'nobody', roots: ['/tmp'] })
    const status = statusOf(broker.pid!)
    const one = (name: string) => [...status.get(name)!].join(', ')
    t.deepEqual(one('Uid').split(/\s+/), Array<string>(4).fill(`${NOBODY}`))
    t.deepEqual([...new Set(one('Gid').split(/\s+/))], [`${NOBODY}`])
    t.is(one('Groups'), '')
    t.is(one('NoNewPrivs'), '1')
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) t.is(BigInt(`0x${one(set)}`), 0n, set)
    t.is(BigInt(`0x${one('CapBnd')}`), 0x4c6n)
    t.is(one('Umask'), '0077')
  }
)

asRoot('another process of the user that the helper runs as cannot look into it (needs root)', async (t) => {
  const broker = await begin(t, { user: 'nobody', roots: ['/tmp'] })
  const asNobody = { uid: NOBODY, gid: NOBODY }
  // ptrace(2): what asks for the right to trace reads these, too.
  const look = (pid: number) => spawnSync('cat', [`/proc/${pid}/environ`], asNobody).status
  const idle = spawn('sleep', ['60'], asNobody)
  t.teardown(() => idle.kill())
  await once(idle, 'spawn')
  t.is(look(idle.pid!), 0)
  t.is(look(broker.pid!), 1)
})

asRoot('the helper of root keeps the capabilities to open files and take low ports (needs root)', async (t) => {
  const broker = await begin(t, { group: NOBODY })
  const status = statusOf(broker.pid!)
  t.deepEqual([...status.get('CapEff')!], ['0000000000000406'])
  t.deepEqual([...status.get('CapBnd')!], ['0000000000000406'])
  t.regex([...status.get('Gid')!].join(), /^65534\s/)
})

asRoot('the helper has no descriptor and no variable of its caller (needs root)', (t) => {
  process.env.FDPASS_TEST_SECRET = 'secret'
  // One that is not close-on-exec: Node makes none, other programs do.
  const shell = `exec 9</etc/passwd; exec "$0" "$@"`
  const owner = `import { startBroker } from 'fdpass/broker'; const broker = await startBroker({});
    const { readdirSync, readlinkSync, readFileSync } = await import('node:fs');
    const links = readdirSync('/proc/' + broker.pid + '/fd').map((fd) => readlinkSync('/proc/' + broker.pid + '/fd/' + fd));
    console.log(JSON.stringify([links, readFileSync('/proc/' + broker.pid + '/environ', 'utf8')]))`
  const node = [process.execPath, '--input-type=module', '-e', owner]
  const { stdout } = spawnSync('sh', ['-c', shell, ...node], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  const [links, environ] = JSON.parse(stdout) as [string[], string]
  t.is(links.filter((link) => link.startsWith('socket:')).length, 1)
  t.false(links.includes('/etc/passwd'))
  t.true(
    links.every((link) => /^(?:socket:|pipe:|anon_inode:|\/dev\/null)/.test(link)),
    links.join()
  )
  t.false(environ.includes('FDPASS_TEST_SECRET'))
})

test('a broker opens files and directories beneath its roots, and refuses all else', async (t) => {
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

onLinux('devices, and links of /proc, are refused', async (t) => {
  const broker = await begin(t, { roots: ['/dev', '/proc'] })
  await refused(t, broker.open('null'))
  for (const path of ['self/cwd/passwd', 'self/root', `${process.pid}/cwd`, `${process.pid}/exe`]) {
    await refused(t, broker.open(path), path)
  }
  t.regex(contentOf(await broker.open('/proc/version')), /Linux/)
})

test('a policy allows creating, emptying, writing and what is no file', async (t) => {
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

test('a policy that says no, throws, or gives no boolean refuses', async (t) => {
  const { root } = makeFolder()
  const answers: (() => unknown)[] = [() => false, () => Promise.resolve(false), () => 1, () => 'yes', () => undefined]
  answers.push(() => Promise.reject(new Error('policy')))
  const allow = (() => answers.shift()!()) as () => boolean
  const broker = await begin(t, { roots: [root], allow })
  while (answers.length > 0) await refused(t, broker.open('file'))
})

asRoot('a policy in a module is asked in the helper (needs root)', async (t) => {
  const { root, inside } = makeFolder()
  writeFileSync(inside('a.log'), 'logged')
  const broker = await begin(t, { user: 'nobody', roots: [root], allow: fixturePath('broker-policy') })
  t.is(contentOf(await broker.open('a.log')), 'logged')
  await refused(t, broker.open('file'))
  await refused(t, broker.open('a.log', 'r+'))
})

onlyIf(hasPython && isLinux, 'needs Python and renameat2')(
  'of 1,000 attempts none leaves the root while another process swaps its components',
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

test('a helper that is killed is an error to all who wait, and is started again', async (t) => {
  const { root } = makeFolder()
  const stuck: BrokerRequest[] = []
  const allow = (request: BrokerRequest) => {
    if (request.operation === 'open' && request.path === 'file') return true
    stuck.push(request)
    return new Promise<boolean>(() => {})
  }
  const broker = await begin(t, { roots: [root], allow })
  for (let round = 0; round < 3; round++) {
    stuck.length = 0
    const calls = Array.from({ length: 20 }, () => broker.open('folder'))
    const settled = Promise.allSettled(calls)
    while (stuck.length < 20) await setTimeout(5)
    const { pid } = broker
    process.kill(pid!, 'SIGKILL')
    const codes = (await settled).map((result) => (result.status === 'rejected' ? result.reason.code : 'opened'))
    t.deepEqual([...new Set(codes)], ['ECONNRESET'])
    t.is(contentOf(await broker.open('file')), 'inside')
    t.not(broker.pid, pid)
  }
})

test('what cannot be started rejects', async (t) => {
  await t.throwsAsync(startBroker({ roots: ['/missing/root'] }), { code: 'ENOENT' })
  await t.throwsAsync(startBroker({ roots: ['/etc/passwd'] }), { code: 'ENOTDIR' })
  await t.throwsAsync(startBroker({ user: 'no such user' }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ allow: '/missing.js' }), { code: 'ERR_MODULE_NOT_FOUND' })
  await t.throwsAsync(startBroker({ allow: new URL('data:text/javascript,') }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ services: ['relative'] }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ services: ['tcp:host'] }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ roots: 'root' as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(startBroker({ user: {} as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(startBroker({ signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  const controller = new AbortController()
  const started = startBroker({ signal: controller.signal })
  controller.abort()
  await t.throwsAsync(started, { code: 'ABORT_ERR' })
  if (!isRoot) await t.throwsAsync(startBroker({ user: 0 }), { code: 'EPERM' })
})

test('arguments are checked before anything is sent, and a call can be aborted and closed', async (t) => {
  const { root } = makeFolder()
  const broker = await begin(t, { roots: [root], allow: () => new Promise(() => {}) })
  await t.throwsAsync(broker.open(1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(broker.open('file', 'x'), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(broker.open('file', -1), { code: 'ERR_OUT_OF_RANGE' })
  await t.throwsAsync(broker.open('file', 'r', 0o10000), { code: 'ERR_OUT_OF_RANGE' })
  await t.throwsAsync(broker.connect('relative'), { code: 'ERR_INVALID_ARG_VALUE' })
  const controller = new AbortController()
  const call = broker.open('file', 'r', 0, { signal: controller.signal })
  await setTimeout(20)
  controller.abort()
  await t.throwsAsync(call, { code: 'ABORT_ERR' })
  const waiting = broker.open('file')
  await setTimeout(20)
  broker.close()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  await t.throwsAsync(broker.open('file'), { code: 'ERR_SOCKET_CLOSED' })
})

test('a broker connects to its services and listens for them, and for no others', async (t) => {
  const { root, inside } = makeFolder()
  const server = createServer((socket) => socket.end('service')).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const path = inside('socket')
  const broker = await begin(t, { services: [`tcp:127.0.0.1:${port}`, 'tcp:127.0.0.1:0', `unix:${path}`] })
  const chunks: Buffer[] = []
  for await (const chunk of (await broker.connect(`tcp:127.0.0.1:${port}`)).toSocket()) chunks.push(chunk as Buffer)
  t.is(Buffer.concat(chunks).toString(), 'service')
  using tcp = await broker.listen('tcp:127.0.0.1:0')
  t.is(tcp.kind, 'tcp-listener')
  t.is(await codeOf(broker.connect(path)), 'ENOENT')
  using unix = await broker.listen(path, { backlog: 5, mode: 0o600 })
  t.is(unix.kind, 'unix-listener')
  using connection = await broker.connect(`unix:${path}`)
  t.is(connection.kind, 'unix-stream')
  for (const address of ['tcp:127.0.0.1:1', `${root}/other`, 'tcp:localhost:0'])
    await refused(t, broker.connect(address))
  const error = await t.throwsAsync<NodeJS.ErrnoException>(broker.listen('tcp:0.0.0.0:80'))
  t.like(error, { code: 'EACCES', syscall: 'listen', address: 'tcp:0.0.0.0:80' })
})

test('a service at none of whose addresses anybody listens is told to refuse', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  const broker = await begin(t, { services: [`tcp:localhost:${port}`] })
  const error = await t.throwsAsync<NodeJS.ErrnoException>(broker.connect(`tcp:localhost:${port}`))
  t.like(error, { code: 'ECONNREFUSED', errno: -osConstants.errno.ECONNREFUSED, syscall: 'connect' })
  t.regex(error!.message, /ECONNREFUSED/)
})

asRoot('other processes are judged by their credentials (needs root)', async (t) => {
  const { folder, root, inside } = makeFolder()
  chmodSync(inside('file'), 0o600)
  const server = await listen(join(folder, 'broker'), { mode: 0o666 })
  const service = serveBroker(server, {
    roots: [root],
    allow: (request, { uid }) => uid === NOBODY && request.operation === 'open' && request.path === 'file'
  })
  t.teardown(() => service.close())
  const ask = async (uid: number) => {
    const args = [fixturePath('broker-client'), server.address, 'file', 'folder/file', '../outside/file']
    return endWith(t, spawn(process.execPath, args, { uid, gid: uid, stdio: ['ignore', 'pipe', 'inherit'] }))
  }
  t.is(await ask(NOBODY), 'inside\nEACCES\nEACCES\n')
  t.is(await ask(0), 'EACCES\nEACCES\nEACCES\n')
})

test.serial('nothing that a client sends is trusted', async (t) => {
  const { folder, root } = makeFolder()
  const server = await listen(join(folder, 'broker'))
  using _service = serveBroker(server, { roots: [root], services: [], allow: () => true })
  using channel = new Channel(await connect(server.address))
  const open = { operation: 'open', path: 'file', flags: 0, mode: 0 }
  const wishes: unknown[] = [null, 1, 'open', [], {}, { operation: 'start' }, Buffer.from('x'), { ...open, path: 1 }]
  wishes.push({ ...open, flags: 1.5 }, { ...open, mode: -1 }, { ...open, path: 'a\0b' }, { ...open, flags: 2 ** 40 })
  for (const wish of wishes) await t.throwsAsync(channel.request(wish), { code: 'EINVAL' }, JSON.stringify(wish))
  await t.throwsAsync(channel.request({ ...open, path: 'x'.repeat(5000) }), { code: 'ENAMETOOLONG' })
  await t.throwsAsync(channel.request({ ...open, path: '' }), { code: 'ENOENT' })
  await t.throwsAsync(channel.request({ operation: 'connect', address: '/x' }), { code: 'EACCES' })
  const before = countFds()
  using answer = await channel.request(open, [0])
  t.is(readAll(answer.fds[0]!.fd), 'inside')
  t.is(countFds(), before + 1)
})

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
  await setTimeout(50)
  t.deepEqual([countFds(), table()], before)
})

onlyIf(runs('true'), 'needs Linux')('a broker keeps nobody alive, and its helper ends with its caller', async (t) => {
  const { stdout, status } = spawnSync(process.execPath, [fixturePath('broker-owner')], {
    encoding: 'utf8',
    timeout: 20_000
  })
  t.is(status, 0)
  const pid = Number(stdout)
  const isRunning = () =>
    existsSync(`/proc/${pid}/exe`) && !/State:\s+Z/.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  for (let wait = 0; wait < 200 && isRunning(); wait++) await setTimeout(20)
  t.false(isRunning())
})

test('a client meets the end of its service', async (t) => {
  const { folder, root } = makeFolder()
  const server = await listen(join(folder, 'broker'))
  const service = serveBroker(server, { roots: [root], allow: () => new Promise(() => {}) })
  using broker = await connectBroker(server.address)
  t.is(broker.pid, isLinux ? process.pid : broker.pid)
  const call = broker.open('file')
  await setTimeout(20)
  service.close()
  await t.throwsAsync(call, { code: 'ECONNRESET' })
  await t.throwsAsync(connectBroker(join(folder, 'broker')), { code: 'ENOENT' })
})
