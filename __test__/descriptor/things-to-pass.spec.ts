import { once } from 'node:events'
import {
  existsSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  readlinkSync,
  statSync,
  writeFileSync,
  writeSync
} from 'node:fs'
import { type AddressInfo, Socket, connect } from 'node:net'
import { constants } from 'node:os'
import { inspect } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import {
  Descriptor,
  type Seal,
  type SystemError,
  type TcpListenerOptions,
  bindListener,
  connect as connectUnix,
  memfd,
  pipe
} from 'fdpass'
import {
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  loose,
  notIntegers,
  notNumbers,
  notOptions,
  throws
} from '../helpers/arguments.ts'
import { newPath, readToEnd } from '../helpers/casts.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, openFile, readAll, statusFlags } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { startProgram, startPython } from '../helpers/processes.ts'

const onLinux = onlyIf(isLinux, 'Linux only')
const withPython = onlyIf(isLinux && hasPython, 'needs Linux and Python 3.9')
const onNode = onlyIf(!('bun' in process.versions || 'deno' in process.versions), "needs Node's own handles")
const hasIPv6 = canListen('::1')
const withIPv6 = onlyIf(hasIPv6, 'needs IPv6')

function canListen(host: string): boolean {
  try {
    bindListener({ port: 0, host }).closeSync()
    return true
  } catch {
    return false
  }
}

const looseMemfd = memfd as Loose
const looseListener = bindListener as unknown as Loose

/** What memory holds from its first byte on. */
function contentOf(memory: Descriptor): string {
  const buffer = Buffer.alloc(fstatSync(memory.fd).size)
  readSync(memory.fd, buffer, 0, buffer.length, 0)
  return buffer.toString()
}

const nameOf = (memory: Descriptor) => readlinkSync(`/proc/self/fd/${memory.fd}`)

onLinux('memory has a name, and is close-on-exec', (t) => {
  using unnamed = memfd()
  t.is(nameOf(unnamed), '/memfd:fdpass (deleted)')
  t.not(statusFlags(unnamed.fd) & CLOEXEC, 0)
  for (const given of ['', 'a name', 'with/slashes', 'ünïcode', 'x'.repeat(249)]) {
    using memory = memfd({ name: given })
    t.is(nameOf(memory), `/memfd:${given} (deleted)`)
    using same = memfd({ name: given })
    t.is(same.kind, 'memfd')
  }
})

onLinux('memory holds what it is given, and its offset is at the start', (t) => {
  using empty = memfd()
  t.is(fstatSync(empty.fd).size, 0)
  for (const data of ['text', 'ünïcode', Buffer.from('bytes'), new Uint8Array([65, 66]), '', new Uint8Array()]) {
    using memory = memfd({ data })
    t.is(readAll(memory.fd), Buffer.from(data as string).toString())
  }
  using part = memfd({ data: Buffer.from('a part').subarray(2) })
  t.is(readAll(part.fd), 'part')
  const large = Buffer.alloc(5_000_000, 'large')
  using much = memfd({ data: large })
  t.true(readFileSync(much.fd).equals(large))
})

onLinux('memory has the size that it is given, filled up with zeros', (t) => {
  using filled = memfd({ data: 'data', size: 6 })
  t.is(contentOf(filled), 'data\0\0')
  using exact = memfd({ data: 'data', size: 4 })
  t.is(contentOf(exact), 'data')
  using zeros = memfd({ size: 4096 })
  t.is(contentOf(zeros), '\0'.repeat(4096))
  using none = memfd({ size: 0 })
  t.is(contentOf(none), '')
})

/** What is refused by which seal. */
const forbids: [Seal, (memory: Descriptor) => unknown][] = [
  ['write', ({ fd }) => writeSync(fd, 'x', 0)],
  ['future-write', ({ fd }) => writeSync(fd, 'x', 0)],
  ['grow', ({ fd }) => ftruncateSync(fd, 100)],
  ['shrink', ({ fd }) => ftruncateSync(fd, 1)],
  ['seal', (memory) => memory.seal(['grow'])]
]

for (const [seal, change] of forbids) {
  onLinux(`the seal '${seal}' holds, whether given at the start or later, and for every duplicate`, (t) => {
    using atStart = memfd({ data: 'data', seals: [seal] })
    using later = memfd({ data: 'data' })
    t.false(later.seals.includes(seal))
    t.notThrows(() => seal === 'seal' || change(later))
    ftruncateSync(later.fd, 4)
    using duplicate = later.duplicate()
    later.seal([seal])
    for (const memory of [atStart, later, duplicate]) {
      t.true(memory.seals.includes(seal))
      t.throws(() => change(memory), { code: 'EPERM' })
      t.is(fstatSync(memory.fd).size, 4)
    }
  })
}

onLinux('seals are told in one order, and are never taken back', (t) => {
  using memory = memfd({ seals: ['write', 'shrink'] })
  const before = memory.seals
  t.deepEqual(
    before.filter((seal) => seal !== 'exec'),
    ['shrink', 'write']
  )
  memory.seal([])
  memory.seal(['write'])
  t.deepEqual(memory.seals, before)
  memory.seal(['seal', 'grow'])
  t.deepEqual(
    memory.seals.filter((seal) => seal !== 'exec'),
    ['seal', 'shrink', 'grow', 'write']
  )
  t.throws(() => memory.seal(['future-write']), { code: 'EPERM', message: /^EPERM: .*, fcntl$/ })
})

onLinux('what is no memory has no seals and takes none, nor does memory opened for reading only', (t) => {
  using file = Descriptor.from(openFile('a file'))
  t.deepEqual(file.seals, [])
  t.throws(() => file.seal(['write']), { code: 'EINVAL' })
  using memory = memfd({ data: 'data' })
  using reading = Descriptor.from(openSync(`/proc/self/fd/${memory.fd}`, 'r'))
  t.throws(() => reading.seal(['write']), { code: 'EPERM' })
  t.is(readAll(reading.fd), 'data')
  const [read, write] = pipe()
  t.deepEqual(read.seals, [])
  t.throws(() => write.seal([]), { code: 'EINVAL' })
  t.throws(() => read.seal([]), { code: 'EPERM' })
  read.closeSync()
  write.closeSync()
})

withPython('memory is shared with the process that it is passed to, in both directions', async (t) => {
  const { socket, done } = startPython('map_memory')
  using memory = memfd({ data: 'here', size: 4096 })
  await socket.sendFd(memory)
  t.is(text(await socket.recv()), 'here')
  t.throws(() => memory.seal(['write']), { code: 'EBUSY' })
  writeSync(memory.fd, 'more', 0)
  await socket.send('!')
  t.is(text(await socket.recv()), 'more')
  t.is(contentOf(memory).slice(0, 8), 'moreback')
  await socket.send('!')
  await done
  memory.seal(['write'])
  socket.close()
})

/** What another process meets when it changes memory with these seals. */
const tried = async (seals: Seal[]) => {
  const { socket, done } = startPython('try_memory')
  using memory = memfd({ data: 'data', seals })
  await socket.sendFd(memory)
  const answer = JSON.parse(text(await socket.recv())!) as [Record<string, string | null>, number]
  await done
  socket.close()
  return answer
}

withPython('who receives memory sees its seals, and cannot break them', async (t) => {
  const EPERM = 'EPERM'
  const [sealed, bits] = await tried(['seal', 'shrink', 'grow', 'write'])
  t.deepEqual(sealed, { write: EPERM, map: EPERM, grow: EPERM, shrink: EPERM, seal: EPERM })
  t.is(bits & 15, 15)
  const [open] = await tried([])
  t.deepEqual(open, { write: null, map: null, grow: null, shrink: null, seal: null })
})

onNode('a pipe carries what is written, up to the end, and both ends are in blocking mode', async (t) => {
  const [read, write] = pipe()
  if (isLinux) {
    for (const { fd } of [read, write]) t.is(statusFlags(fd) & (0o4000 | CLOEXEC), CLOEXEC)
  }
  writeSync(write.fd, 'through a pipe')
  write.closeSync()
  t.is(readAll(read.fd), 'through a pipe')
  read.closeSync()
})

onNode("a pipe's ends are a program's standard input and output", async (t) => {
  const [input, output] = [pipe(), pipe()]
  const { socket, done } = startProgram('cat', [], { standard: [input[0].fd, output[1].fd, 'inherit'] })
  input[0].closeSync()
  output[1].closeSync()
  const writer = input[1].toSocket()
  writer.end('through cat')
  t.is(await readToEnd(output[0].toSocket()), 'through cat')
  await done
  socket.close()
})

onNode('writing to a pipe without a reader is EPIPE', (t) => {
  const [read, write] = pipe()
  read.closeSync()
  t.throws(() => writeSync(write.fd, 'x'), { code: 'EPIPE' })
  write.closeSync()
})

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
    `another process accepts on a listener bound to ${host ?? 'no host'}, for a client of ${reached}`,
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

test('memfd refuses what it cannot take', (t) => {
  if (!isLinux) t.log('no memory here; the arguments are checked all the same')
  for (const options of notOptions) throws(t, inspect(options), TYPE, () => looseMemfd(options))
  for (const name of [null, 5, true, {}, [], Buffer.from('x'), Symbol('x')]) {
    throws(t, `name ${inspect(name)}`, TYPE, () => looseMemfd({ name }), /"options\.name" property/)
  }
  for (const name of ['x'.repeat(250), 'ü'.repeat(125), 'a\0b', '\0']) {
    throws(t, `name ${inspect(name)}`, VALUE, () => looseMemfd({ name }), /^The "options\.name" property/)
  }
  for (const data of [
    null,
    5,
    true,
    {},
    [],
    [65],
    new ArrayBuffer(4),
    new DataView(new ArrayBuffer(4)),
    new Uint16Array(2)
  ]) {
    throws(t, `data ${inspect(data)}`, TYPE, () => looseMemfd({ data }))
  }
  for (const size of notNumbers) throws(t, `size ${inspect(size)}`, TYPE, () => looseMemfd({ size }))
  for (const size of [...notIntegers, -1, 2 ** 53, 3]) {
    throws(t, `size ${size}`, RANGE, () => looseMemfd({ size, data: 'data' }), /"options\.size"/)
  }
  for (const seals of [null, 5, 'write', true, {}, new Set(['write'])]) {
    throws(t, `seals ${inspect(seals)}`, TYPE, () => looseMemfd({ seals }))
  }
  for (const seals of [[''], ['Write'], ['write', 'bad'], [undefined], [null], [8], [['write']], new Array(2)]) {
    throws(t, `seals ${inspect(seals)}`, VALUE, () => looseMemfd({ seals }), /must hold 'seal', 'shrink', /)
  }
})

onLinux('seal refuses what no seals are, and seals nothing then', (t) => {
  using memory = memfd({ data: 'data' })
  const before = memory.seals
  for (const seals of [undefined, null, 5, 'write', {}, new Set(['write'])]) {
    throws(t, inspect(seals), TYPE, () => loose(memory, 'seal')(seals), /"seals" argument must be an instance of Array/)
  }
  for (const seals of [['bad'], ['write', 'bad'], ['write', undefined], [8]]) {
    throws(t, inspect(seals), VALUE, () => loose(memory, 'seal')(seals))
  }
  t.deepEqual(memory.seals, before)
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

test('pipe takes nothing', (t) => {
  const [read, write] = (pipe as Loose)(5, {}) as [Descriptor, Descriptor]
  t.deepEqual([read.kind, write.kind], ['fifo', 'fifo'])
  read.closeSync()
  write.closeSync()
})
