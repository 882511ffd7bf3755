import { spawn, spawnSync } from 'node:child_process'
import { on, once } from 'node:events'
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { constants as osConstants } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import { Channel, connect, listen } from 'fdpass'
import { type BrokerRequest, connectBroker, serveBroker, startBroker } from 'fdpass/broker'
import { begin, codeOf, makeFolder, refused } from '../helpers/brokers.ts'
import { canResolve, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, newPath, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { endWith, fixturePath, fixtureSource, runs, startLimited } from '../helpers/processes.ts'

const isRoot = process.getuid?.() === 0

const asRoot = onlyIf(isRoot && isLinux, 'needs root on Linux')

const NOBODY = 65_534

test('what a broker offers and allows is checked before it starts', async (t) => {
  const { root } = makeFolder()
  await t.throwsAsync(startBroker({ roots: [root, ''] }), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^The "options\.roots\[1\]" property must be a path, not empty and without a NUL/
  })
  await t.throwsAsync(startBroker({ roots: [root], allow: '' }), {
    message: /^The "options\.allow" property must not be empty/
  })
  await t.throwsAsync(startBroker({ roots: [root], services: ['tcp:80'] }), {
    message: `The "options.services[0]" property must name a host: 'tcp:HOST:PORT'. Received 'tcp:80'`
  })
  using server = await listen(join(temporaryFolder(), 'socket'), { type: 'seqpacket' })
  t.throws(() => serveBroker(server, { roots: [root], allow: () => true }), {
    message: `The "listener" argument must be of type 'stream'`
  })
  await t.throwsAsync(startBroker({ roots: [root], allow: 5 as never }), {
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^The "options\.allow" property must be of type function or string or an instance of URL/
  })
})

test('a broker that answers without a descriptor violates the protocol', async (t) => {
  using server = await listen(join(temporaryFolder(), 'socket'))
  const broker = connectBroker(server.address)
  using channel = new Channel(await server.accept())
  channel.onRequest(() => ({ value: null }))
  await t.throwsAsync((await broker).open('file'), {
    code: 'EPROTO',
    message: 'EPROTO: the broker answered without a descriptor, recvmsg'
  })
  ;(await broker).close()
})

test('arguments are checked before anything is sent, and a call can be aborted and closed', async (t) => {
  const { root } = makeFolder()
  const broker = await begin(t, { roots: [root], allow: () => new Promise(() => {}) })
  await t.throwsAsync(broker.open(1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(broker.open('file', 'x'), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(broker.open('file', -1), { code: 'ERR_OUT_OF_RANGE' })
  await t.throwsAsync(broker.open('file', 'r', 0o10000), { code: 'ERR_OUT_OF_RANGE' })
  await t.throwsAsync(broker.connect('relative'), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(broker.open('a\0b'), { message: 'The "path" argument must be a path, without a NUL' })
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

test('a broker connects to its services and listens for them, and for no others [S42] [S87]', async (t) => {
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
  for (const address of ['tcp:0.0.0.0:80', 'tcp:[::1]:80']) {
    const error = await t.throwsAsync<NodeJS.ErrnoException>(broker.listen(address))
    t.like(error, { code: 'EACCES', syscall: 'listen', address })
  }
})

test('a service without a listener at any of its addresses is reported as refused', async (t) => {
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
    const args = [fixturePath('services'), 'open', server.address, 'file', 'folder/file', '../outside/file']
    return endWith(t, spawn(process.execPath, args, { uid, gid: uid, stdio: ['ignore', 'pipe', 'inherit'] }))
  }
  t.is(await ask(NOBODY), 'inside\nEACCES\nEACCES\n')
  t.is(await ask(0), 'EACCES\nEACCES\nEACCES\n')
})

test.serial('nothing that a client sends is trusted [S38]', async (t) => {
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
  while (countFds() > before + 1) await setTimeout(1) // what was sent is closed on another thread
})

onlyIf(runs('true'), 'needs Linux')(
  'a broker keeps no process alive, and its helper exits with its caller',
  async (t) => {
    const { stdout, status } = spawnSync(process.execPath, [fixturePath('services'), 'start'], {
      encoding: 'utf8',
      timeout: 20_000
    })
    t.is(status, 0)
    const pid = Number(stdout)
    const isRunning = () =>
      existsSync(`/proc/${pid}/exe`) && !/State:\s+Z/.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
    for (let wait = 0; wait < 200 && isRunning(); wait++) await setTimeout(20)
    t.false(isRunning())
  }
)

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

onlyIf(isLinux, 'needs Linux')(
  'while the table of a broker is full, its clients wait, with a warning [S249]',
  async (t) => {
    const { socket, done } = startLimited(64, 'tables', ['broker', newPath()])
    socket.close()
    t.regex(await done, /^broker: EMFILE: .*\ncharacter-device\n$/)
  }
)

test('a policy of serveBroker that throws denies the request, and is a warning of the process', async (t) => {
  const { folder, root } = makeFolder()
  const path = join(folder, 'broker')
  using _service = serveBroker(await listen(path), {
    roots: [root],
    allow: () => Promise.reject(new Error('the policy is broken'))
  })
  using broker = await connectBroker(path)
  const warned = on(process, 'warning')
  await refused(t, broker.open('file'))
  const message = 'The policy of a broker threw, and the request was denied: the policy is broken'
  for await (const [warning] of warned as AsyncIterable<[NodeJS.ErrnoException]>) {
    if (!warning.message.startsWith('The policy')) continue // of other tests
    t.like(warning, { code: 'FDPASS_POLICY_FAILED', message })
    break
  }
})

test('a policy knows the backlog and the permissions of a listener [S207]', async (t) => {
  const { inside } = makeFolder()
  const asked: BrokerRequest[] = []
  const path = inside('socket')
  const broker = await begin(t, {
    services: [path],
    allow: (request) => asked.push(request) > 0 && request.operation === 'listen' && request.mode !== 0o666
  })
  await refused(t, broker.listen(path, { mode: 0o666 }))
  t.false(existsSync(path))
  using _listener = await broker.listen(path)
  t.deepEqual(asked, [
    { operation: 'listen', address: path, backlog: 511, mode: 0o666 },
    { operation: 'listen', address: path, backlog: 511, mode: null }
  ])
})

const canMount = isLinux && spawnSync('python3', [fixtureSource('kernel.py'), 'fuse', temporaryFolder()]).status === 0

onlyIf(canMount, 'needs root, FUSE and mount namespaces')(
  'a file system that never answers delays no other user, and few requests of its own [S208]',
  async (t) => {
    const { folder, root } = makeFolder()
    const mounted = temporaryFolder()
    const fuse = spawn('python3', [fixtureSource('kernel.py'), 'fuse', mounted, 'hang'], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const ended = endWith(t, fuse).catch(() => {})
    await once(fuse.stdout, 'data')
    const hanging = `/proc/${fuse.pid}/root${mounted}`
    const server = await listen(join(folder, 'broker'), { mode: 0o666 })
    using _service = serveBroker(server, { roots: [root, hanging], allow: () => true, openTimeout: 500 })
    using broker = await connectBroker(server.address)
    const first = Array.from({ length: 7 }, () => codeOf(broker.open(`${hanging}/file`)))
    t.is(await codeOf(broker.open('file')), 'opened')
    t.deepEqual(new Set(await Promise.all(first)), new Set(['ETIMEDOUT']))
    t.is(await codeOf(broker.open(`${hanging}/file`)), 'ETIMEDOUT')
    t.is(await codeOf(broker.open(`${hanging}/file`)), 'EAGAIN')
    // Before Linux 5.12, and without openat2, no open is known not to block.
    t.is(await codeOf(broker.open('file')), canResolve('cached') ? 'opened' : 'EAGAIN')
    const args = [fixturePath('services'), 'open', server.address, 'file']
    const other = spawn(process.execPath, args, { uid: NOBODY, gid: NOBODY, stdio: ['ignore', 'pipe', 'inherit'] })
    t.is(await endWith(t, other), 'inside\n')
    fuse.kill('SIGKILL')
    await ended
    let code: string | undefined = 'EAGAIN'
    while (code === 'EAGAIN') {
      await setTimeout(10) // until the threads have ended
      code = await codeOf(broker.open(`${hanging}/file`))
    }
    t.not(code, 'ETIMEDOUT')
  }
)
