import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, Socket, connect } from 'node:net'
import { constants } from 'node:os'
import { inspect } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, type SystemError, type TcpListenerOptions, bindListener, connect as connectUnix } from 'fdpass'
import { type Loose, RANGE, TYPE, VALUE, notIntegers, notNumbers, notOptions, throws } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { CLOEXEC, newPath, statusFlags } from '../helpers/descriptors.ts'
import { startProgram, startPython } from '../helpers/processes.ts'
import { hasIPv6, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'Linux only')

const withPython = onlyIf(isLinux && hasPython, 'needs Linux and Python 3.9')

const onNode = onlyIf(!('bun' in process.versions || 'deno' in process.versions), "needs Node's own handles")

const withIPv6 = onlyIf(hasIPv6, 'needs IPv6')

const looseListener = bindListener as unknown as Loose

/** That a listener accepts, by passing it to another process that does. */
async function acceptsElsewhere(t: ExecutionContext, listener: Descriptor, client: () => Socket): Promise<void> {
  const { socket, done } = startPython('accept_one')
  await socket.sendFd(listener)
  t.is(await readToEnd(client()), 'from Python')
  await done
  socket.close()
}

/** A client of a TCP listener. */
const clientOf = (listener: Descriptor, host: string) => () => connect((listener.address as AddressInfo).port, host)

for (const [host, family, reached] of [
  ['127.0.0.1', 'IPv4', '127.0.0.1'],
  ['0.0.0.0', 'IPv4', '127.0.0.1'],
  ['::1', 'IPv6', '::1'],
  ['::', 'IPv6', '::1'],
  ['::', 'IPv6', '127.0.0.1'],
  [undefined, 'IPv6', '127.0.0.1'],
  [undefined, 'IPv6', '::1']
] as const) {
  const isPossible = isLinux && hasPython && (family === 'IPv4' || hasIPv6)
  onlyIf(isPossible, 'needs Linux, IPv6 and Python 3.9')(
    `another process accepts on a listener bound to ${host ?? 'no host'}, for a client of ${reached} [A10.1]`,
    async (t) => {
      using listener = bindListener({ port: 0, host })
      const address = listener.address as AddressInfo
      t.deepEqual({ ...address, port: 0 }, { address: host ?? '::', family, port: 0 })
      t.true(address.port > 0)
      await acceptsElsewhere(t, listener, clientOf(listener, reached))
    }
  )
}

withIPv6('ipv6Only leaves the port of IPv4 free', async (t) => {
  using listener = bindListener({ port: 0, host: '::', ipv6Only: true })
  const { port } = listener.address as AddressInfo
  const client = connect(port, '127.0.0.1')
  t.is(((await once(client, 'error')) as [NodeJS.ErrnoException])[0].code, 'ECONNREFUSED')
  using other = bindListener({ port, host: '0.0.0.0' })
  t.deepEqual(other.address, { address: '0.0.0.0', family: 'IPv4', port })
})

withIPv6('without a host a port that is taken on IPv6 is taken, though it is free on IPv4', (t) => {
  using taken = bindListener({ port: 0, host: '::', ipv6Only: true })
  const { port } = taken.address as AddressInfo
  t.throws(() => bindListener({ port }), { code: 'EADDRINUSE' })
})

test('a port that is taken is EADDRINUSE', (t) => {
  using taken = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = taken.address as AddressInfo
  for (const options of [
    { port, host: '127.0.0.1' },
    { port, host: '127.0.0.1', reusePort: true }
  ]) {
    const error = t.throws<SystemError>(() => bindListener(options))!
    t.is(error.code, 'EADDRINUSE')
    t.is(error.errno, -constants.errno.EADDRINUSE)
    t.is(error.syscall, 'bind')
    t.is(error.address, `127.0.0.1:${port}`)
  }
  t.throws(() => bindListener({ port: 0, host: '192.0.2.1' }), { code: 'EADDRNOTAVAIL' })
})

test('a port of a server that has just closed its connections can be bound again', async (t) => {
  const listener = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = listener.address as AddressInfo
  const server = await listener.toServer()
  server.once('connection', (connection: Socket) => connection.end('the first to close'))
  t.is(await readToEnd(connect(port, '127.0.0.1')), 'the first to close')
  server.close()
  await once(server, 'close')
  bindListener({ port, host: '127.0.0.1' }).closeSync()
})

const sharing = (port: number): TcpListenerOptions => ({ port, host: '127.0.0.1', reusePort: true })

onNode('reusePort shares a port, and each listener gets connections', async (t) => {
  const first = bindListener(sharing(0))
  const { port } = first.address as AddressInfo
  const listeners = [first, bindListener(sharing(port))]
  const servers = await Promise.all(listeners.map((listener) => listener.toServer()))
  const counts = [0, 0]
  servers.forEach((server, i) =>
    server.on('connection', (connection: Socket) => {
      counts[i]!++
      connection.end('accepted')
    })
  )
  for (let i = 0; i < 200 && (counts[0] === 0 || counts[1] === 0); i++) {
    t.is(await readToEnd(connect(port, '127.0.0.1')), 'accepted')
  }
  t.true(counts[0]! > 0 && counts[1]! > 0, inspect(counts))
  servers.forEach((server) => server.close())
})

withPython(
  'a listener is in blocking mode and close-on-exec, and takes connections before anybody accepts',
  async (t) => {
    for (const options of [{ port: 0, host: '127.0.0.1' } as const, { path: newPath() } as const]) {
      using listener = looseListener(options) as Descriptor
      t.is(statusFlags(listener.fd) & (0o4000 | CLOEXEC), CLOEXEC)
      const { address } = listener
      const client = typeof address === 'string' ? connect(address) : clientOf(listener, '127.0.0.1')()
      await once(client, 'connect')
      await acceptsElsewhere(t, listener, () => client)
    }
  }
)

test("a path's file has its mode, and stays after the close", async (t) => {
  for (const mode of [0o600, 0o660, 0o777, 0]) {
    const path = newPath()
    const listener = bindListener({ path, mode })
    t.is(listener.address, path)
    t.is(statSync(path).mode & 0o777, mode)
    listener.closeSync()
    t.true(statSync(path).isSocket())
    await t.throwsAsync(connectUnix(path), { code: 'ECONNREFUSED' })
  }
})

test('a stale file is replaced, a live one and what is no socket are not', async (t) => {
  const path = newPath()
  bindListener({ path }).closeSync()
  using listener = bindListener({ path, mode: 0o600 })
  t.is(statSync(path).mode & 0o777, 0o600)
  const error = t.throws<SystemError>(() => bindListener({ path }))!
  t.deepEqual(
    [error.code, error.errno, error.syscall, error.address],
    ['EADDRINUSE', -constants.errno.EADDRINUSE, 'bind', path]
  )
  const client = await connectUnix(path)
  client.close()
  t.false(existsSync(`${path}.fdpass-lock`))
  const file = newPath()
  writeFileSync(file, 'no socket')
  t.throws(() => bindListener({ path: file }), { code: 'EADDRINUSE' })
  t.is(readFileSync(file, 'utf8'), 'no socket')
  t.is(listener.kind, 'unix-listener')
  t.throws(() => bindListener({ path: `${newPath()}/none` }), { code: 'ENOENT', message: /^ENOENT: .*, bind '/ })
  t.throws(() => bindListener({ path: `/${'x'.repeat(200)}` }), { code: 'ENAMETOOLONG' })
})

withPython('another process accepts on a path and on an abstract address', async (t) => {
  for (const path of [newPath(), `\0fdpass-listener-${process.pid}`]) {
    using listener = bindListener({ path })
    t.is(listener.address, path)
    const { socket, done } = startPython('accept_one')
    await socket.sendFd(listener)
    const client = await connectUnix(path)
    t.is(text(await client.recv()), 'from Python')
    await done
    client.close()
    socket.close()
    t.throws(() => bindListener({ path }), { code: 'EADDRINUSE' })
  }
})

onLinux('the backlog is how many connections wait', async (t) => {
  const path = newPath()
  using listener = bindListener({ path, backlog: 0 })
  const first = await connectUnix(path)
  await t.throwsAsync(connectUnix(path, { signal: AbortSignal.timeout(100) }), { name: 'AbortError' })
  const server = listener.duplicate().toUnixServer()
  const accepted = await server.accept()
  const second = await connectUnix(path)
  for (const socket of [first, second, accepted, server]) socket.close()
})

/** Runs a program of its own. */
async function runs(program: string): Promise<string> {
  const index = JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)
  const { socket, done } = startProgram(process.execPath, [
    '--throw-deprecation',
    '--pending-deprecation',
    '--input-type=module',
    '-e',
    `import { bindListener, memfd, pipe } from ${index}; ${program}`
  ])
  socket.close()
  return done
}

onNode('what is made to be passed does not keep a process alive, nor is its file removed at the exit', async (t) => {
  const path = newPath()
  t.is(
    await runs(`
      const kept = [bindListener({ port: 0 }), bindListener({ path: ${JSON.stringify(path)} }), ...pipe()]
      if (process.platform === 'linux') kept.push(memfd())
      globalThis.kept = kept
      process.stdout.write('made')
    `),
    'made'
  )
  t.true(statSync(path).isSocket())
})

test('bindListener refuses what it cannot take', (t) => {
  for (const options of notOptions) throws(t, inspect(options), TYPE, () => looseListener(options))
  for (const options of [undefined, {}, [], { host: '::1' }, { mode: 0o600 }, { port: 0, path: newPath() }]) {
    throws(t, inspect(options), VALUE, () => looseListener(options), /must have either 'port' or 'path'/)
  }
  for (const port of notNumbers) throws(t, `port ${inspect(port)}`, TYPE, () => looseListener({ port }))
  for (const port of [...notIntegers, -1, 65_536]) throws(t, `port ${port}`, RANGE, () => looseListener({ port }))
  for (const host of [null, 5, true, {}, []]) throws(t, inspect(host), TYPE, () => looseListener({ port: 0, host }))
  for (const host of ['', 'localhost', '1.2.3', '::1::', '[::1]', '127.0.0.1\0', '127.0.0.1:80', ' ::1']) {
    throws(t, inspect(host), VALUE, () => looseListener({ port: 0, host }), /must be an IP address/)
  }
  for (const option of ['ipv6Only', 'reusePort']) {
    for (const value of [null, 0, 1, 'true', {}]) {
      throws(t, `${option} ${inspect(value)}`, TYPE, () => looseListener({ port: 0, [option]: value }))
    }
  }
  for (const where of [{ port: 0 }, { path: newPath() }]) {
    for (const backlog of notNumbers) throws(t, inspect(backlog), TYPE, () => looseListener({ ...where, backlog }))
    for (const backlog of [...notIntegers, -1, 2 ** 31]) {
      throws(t, inspect(backlog), RANGE, () => looseListener({ ...where, backlog }))
    }
    ;(looseListener({ ...where, backlog: 2 ** 31 - 1 }) as Descriptor).closeSync()
  }
  for (const path of [null, 5, true, {}, [], Buffer.from('x')]) {
    throws(t, `path ${inspect(path)}`, TYPE, () => looseListener({ path }))
  }
  for (const path of ['', 'a\0b']) throws(t, inspect(path), VALUE, () => looseListener({ path }))
  const path = newPath()
  for (const mode of notNumbers) throws(t, `mode ${inspect(mode)}`, TYPE, () => looseListener({ path, mode }))
  for (const mode of [...notIntegers, -1, 0o1000]) throws(t, `mode ${mode}`, RANGE, () => looseListener({ path, mode }))
  t.false(existsSync(path))
  if (isLinux)
    throws(t, 'abstract', VALUE, () => looseListener({ path: '\0x', mode: 0o600 }), /this socket has no file/)
})
