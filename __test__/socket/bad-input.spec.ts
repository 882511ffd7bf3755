import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { Server, Socket, connect as netConnect } from 'node:net'
import { constants } from 'node:os'
import { join } from 'node:path'
import { TLSSocket } from 'node:tls'
import { inspect } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import {
  type Credentials,
  Descriptor,
  type SystemError,
  UnixServer,
  UnixSocket,
  bind,
  capabilities,
  connect,
  listen,
  recvFd,
  sendFd,
  socketpair
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
  notSignals,
  rejects,
  throws
} from '../helpers/arguments.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, isOpen, openFile, openPipe, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'

const looseConnect = connect as Loose
const looseBind = bind as Loose
const looseListen = listen as Loose
const looseFrom = UnixSocket.from.bind(UnixSocket) as Loose
const looseSocketpair = socketpair as Loose

const CLOSED = 'ERR_SOCKET_CLOSED'
const RETURN = 'ERR_INVALID_RETURN_VALUE'

const root = temporaryFolder()
chmodSync(root, 0o755)

/** A folder of its own for a test. */
function newFolder(): string {
  return mkdtempSync(join(root, 'x'))
}

/** The most bytes of a path; an abstract address has one more. */
const MOST = isLinux ? 107 : 103

const onLinux = onlyIf(isLinux, 'Linux only', test.serial)

const numbers = [0, 3, NaN, 1.5, -1, 2 ** 31, 2 ** 32, Infinity]
const notAddresses = [
  ...numbers,
  null,
  true,
  false,
  3n,
  Symbol('address'),
  () => '/address',
  ['/address'],
  {},
  new String('/address'),
  Buffer.from('/address'),
  new URL('file:///address'),
  new Date(),
  new Map(),
  Object.create(null)
]
const notBooleans = [
  ...numbers,
  null,
  '',
  'true',
  1n,
  Symbol('true'),
  () => true,
  [true],
  {},
  new Boolean(true),
  new Date(),
  new Map()
]
const notFunctions = [...numbers, null, true, 'allow', 1n, Symbol('allow'), [() => true], {}, new Date(), new Map()]
const notTypes = [
  ...numbers,
  'raw',
  '',
  'STREAM',
  'toString',
  '0',
  null,
  true,
  1n,
  Symbol('stream'),
  () => 'stream',
  ['stream'],
  {},
  new Date(),
  new Map()
]

/** A value of the argument that an error names, and the error's code. */
type Bad = readonly [argument: string, value: unknown, code: string]

/** Bad values of one option, each in an object of options. */
function badOption(name: string, values: readonly unknown[], code: string): Bad[] {
  return values.map((value) => [`options.${name}`, { [name]: value }, code])
}

/** What an option refuses that is an integer between two bounds. */
function integers(name: string, outside: readonly number[]): Bad[] {
  return [
    ...badOption(name, notNumbers, TYPE),
    ...badOption(name, [...notIntegers, -1, 2 ** 31, 2 ** 32, ...outside], RANGE)
  ]
}

const badOptions: Bad[] = [...notOptions, 1.5, -1, 2 ** 31, 2 ** 32, Infinity].map((value) => ['options', value, TYPE])
const badReceiving = ['credentials', 'pidfd'].flatMap((name) => badOption(name, notBooleans, TYPE))
const badSignals = badOption('signal', [...notSignals, ...numbers, 3n, new Date(), new Map()], TYPE)

/** What no address is, for the argument of this name. */
function badAddresses(argument: string): Bad[] {
  return [
    ...notAddresses.map((value) => [argument, value, TYPE] as const),
    ...['', 'a\0b', '/tmp/\0', '/\0'].map((value) => [argument, value, VALUE] as const),
    ...(isLinux ? [] : ['\0abstract'].map((value) => [argument, value, VALUE] as const))
  ]
}

/** The words with which an error names an argument. */
function naming(argument: string, code: string): RegExp {
  const name = argument.replaceAll('.', '\\.')
  if (code === RANGE) return new RegExp(`^The value of "${name}" is out of range\\. It must be .* Received `)
  const kind = argument.includes('.') ? 'property' : 'argument'
  return new RegExp(`^The "${name}" ${kind} ${code === TYPE ? 'must be .* Received ' : ''}`, 's')
}

async function rejectsBad(t: ExecutionContext, what: string, bad: readonly Bad[], call: Loose): Promise<void> {
  for (const [argument, value, code] of bad) {
    await rejects(t, `${what}: ${inspect(value)}`, code, () => call(value), naming(argument, code))
  }
}

function throwsBad(t: ExecutionContext, what: string, bad: readonly Bad[], call: Loose): void {
  for (const [argument, value, code] of bad) {
    throws(t, `${what}: ${inspect(value)}`, code, () => call(value), naming(argument, code))
  }
}

/** What the files of a folder are. */
function contents(folder: string): unknown[] {
  return readdirSync(folder).map((name) => {
    const { mode, ino } = lstatSync(join(folder, name))
    return [name, mode, ino]
  })
}

/** Runs what may neither leave a descriptor open nor change a folder. */
async function unchanged(t: ExecutionContext, folder: string, body: () => void | Promise<void>): Promise<void> {
  const files = contents(folder)
  const open = countFds()
  await body()
  t.is(countFds(), open)
  t.deepEqual(contents(folder), files)
}

/** That a server takes connections, and that none came to it before this one. */
async function takesConnections(t: ExecutionContext, server: UnixServer): Promise<void> {
  const client = await connect(server.address)
  await client.send('the first')
  const connection = await server.accept()
  t.is(text(await connection.recv()), 'the first')
  const controller = new AbortController()
  const next = server.accept({ signal: controller.signal })
  t.true(await isPending(next))
  controller.abort()
  await t.throwsAsync(next, { name: 'AbortError' })
  client.close()
  connection.close()
}

/** That a datagram socket receives, and that nothing came to it before. */
async function takesDatagrams(t: ExecutionContext, receiver: UnixSocket): Promise<void> {
  const sender = bind(null)
  await sender.send('the first', { to: receiver.localAddress! })
  const message = (await receiver.recv())!
  t.is(text(message), 'the first')
  t.deepEqual(message.fds, [])
  sender.close()
}

/** That two connected sockets work, and that nothing came to them before. */
async function areConnected(t: ExecutionContext, a: UnixSocket, b: UnixSocket): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a]
  ] as const) {
    await from.send('the first')
    t.is(text(await to.recv()), 'the first')
  }
}

/** Closes sockets also where the test fails: collected later, they would change another test's count. */
function closeAtLast(t: ExecutionContext, ...sockets: readonly (UnixServer | UnixSocket)[]): void {
  t.teardown(() => {
    for (const socket of sockets) socket.close()
  })
}

/** A path of so many bytes. */
function pathOf(folder: string, length: number): string {
  return join(folder, 'x'.repeat(length - folder.length - 1))
}

/** An abstract address of so many bytes. */
function abstractOf(length: number): string {
  return `\0fdpass-${process.pid}-`.padEnd(length, 'x')
}

/** Leaves a file at a path as a socket does that was closed by the end of its process. */
function leaveSocket(path: string): void {
  closeSync(bind(path).release())
}

/** Objects that are no server or socket of ours, though some look like one. */
function impostors(constructor: typeof UnixServer | typeof UnixSocket, others: readonly object[]): object[] {
  return [Object.create(constructor.prototype), Object.create(null), {}, new Map(), () => {}, new Server(), ...others]
}

const primitives = [undefined, null, 5, 'server', true, 5n, Symbol('server')]

test.before('what the first socket opens stays open', async () => {
  const server = await listen(join(newFolder(), 'first'))
  const waiting = server.accept()
  const client = await connect(server.address)
  const connection = await waiting
  for (const socket of [server, client, connection]) socket.close()
})

test.serial('listen refuses what is no address and no option of its own', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  await unchanged(t, folder, async () => {
    await rejectsBad(t, 'listen', [...badAddresses('address'), ['address', undefined, TYPE]], looseListen)
    await rejects(t, 'listen without arguments', TYPE, () => looseListen(), naming('address', TYPE))
    await rejectsBad(
      t,
      'listen',
      [
        ...badOptions,
        ...badOption('type', [...notTypes, 'dgram'], VALUE),
        ...integers('mode', [0o1000, 0o1777]),
        ...integers('backlog', []),
        ...badOption('descriptors', notBooleans, TYPE),
        ...badOption('allow', notFunctions, TYPE),
        ...badReceiving
      ],
      (value) => looseListen(path, value)
    )
  })
  const server = await listen(path)
  await takesConnections(t, server)
  server.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('bind refuses what is no address and no option of its own', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  await unchanged(t, folder, () => {
    const addresses = badAddresses('address').filter(([, value]) => value !== null)
    throwsBad(t, 'bind', [...addresses, ['address', undefined, TYPE]], looseBind)
    throws(t, 'bind without arguments', TYPE, () => looseBind(), naming('address', TYPE))
    throwsBad(t, 'bind', [...badOptions, ...integers('mode', [0o1000, 0o1777]), ...badReceiving], (value) =>
      looseBind(path, value)
    )
    throwsBad(t, 'bind to null', [...badOptions, ...badReceiving], (value) => looseBind(null, value))
  })
  const receiver = bind(path)
  await takesDatagrams(t, receiver)
  receiver.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('connect refuses what is no address and no option of its own, and does not connect', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'socket'))
  await unchanged(t, folder, async () => {
    await rejectsBad(t, 'connect', [...badAddresses('address'), ['address', undefined, TYPE]], looseConnect)
    await rejects(t, 'connect without arguments', TYPE, () => looseConnect(), naming('address', TYPE))
    const localAddresses = badAddresses('options.localAddress')
    await rejectsBad(
      t,
      'connect',
      [
        ...badOptions,
        ...badOption('type', notTypes, VALUE),
        ...localAddresses.map(([name, value, code]) => [name, { localAddress: value }, code] as const),
        ...badReceiving,
        ...badSignals
      ],
      (value) => looseConnect(server.address, value)
    )
    // Nor is the local address bound where another option is refused.
    const localAddress = join(folder, 'local')
    await rejectsBad(t, 'connect', [...badReceiving, ...badSignals], (value) =>
      looseConnect(server.address, { localAddress, ...(value as object) })
    )
  })
  await takesConnections(t, server)
  server.close()
})

test.serial('an address that is too long is refused with the limit and its length', async (t) => {
  const folder = newFolder()
  const stream = await listen(join(folder, 'server'))
  const sender = bind(null)
  const wide = `${folder}/${'é'.repeat(MOST)}`
  const long = [pathOf(folder, MOST + 1), wide, ...(isLinux ? [abstractOf(MOST + 2)] : [])]
  await unchanged(t, folder, async () => {
    for (const address of long) {
      const length = Buffer.byteLength(address)
      const limit = address.startsWith('\0') ? MOST + 1 : MOST
      const calls: [string, string, () => unknown][] = [
        ['"address" argument', 'connect', () => connect(address)],
        ['"options.localAddress" property', 'bind', () => connect(stream.address, { localAddress: address })],
        ['"address" argument', 'bind', () => listen(address)],
        ['"address" argument', 'bind', () => listen(address, { type: 'seqpacket' })],
        ['"address" argument', 'bind', async () => bind(address)],
        ['"options.to" property', 'sendmsg', () => sender.send('x', { to: address })]
      ]
      for (const [name, syscall, call] of calls) {
        const error = await t.throwsAsync<SystemError>(call() as Promise<unknown>, { code: 'ENAMETOOLONG' })
        t.is(error!.errno, -constants.errno.ENAMETOOLONG)
        t.is(error!.syscall, syscall)
        t.is(error!.address, address)
        t.is(
          error!.message,
          `ENAMETOOLONG: the ${name} has ${length} bytes, the platform's limit for a socket's address is ${limit}, ${syscall}`
        )
      }
    }
    throws(t, 'bind', 'ENAMETOOLONG', () => bind(long[0]!))
  })
  await takesConnections(t, stream)
  stream.close()
  sender.close()
})

test.serial('an address of the greatest length works', async (t) => {
  const folder = newFolder()
  for (const address of [pathOf(folder, MOST), ...(isLinux ? [abstractOf(MOST + 1)] : [])]) {
    const server = await listen(address)
    t.is(server.address, address)
    const client = await connect(address)
    t.is(client.remoteAddress, address)
    client.close()
    server.close()
    const receiver = bind(address)
    t.is(receiver.localAddress, address)
    await takesDatagrams(t, receiver)
    receiver.close()
    t.deepEqual(readdirSync(folder), [])
  }
  // Where a file was left behind, the name of the lock is longer than that of any socket.
  const path = pathOf(folder, MOST)
  leaveSocket(path)
  const server = await listen(path)
  t.is(server.address, path)
  server.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('a mode is for a path', async (t) => {
  const folder = newFolder()
  const open = countFds()
  for (const mode of [0, 0o600, 0o777]) {
    throws(t, 'bind to null', VALUE, () => bind(null, { mode }), naming('options.mode', VALUE))
    if (!isLinux) continue
    const address = abstractOf(40)
    throws(t, 'bind', VALUE, () => bind(address, { mode }), naming('options.mode', VALUE))
    await rejects(t, 'listen', VALUE, () => listen(address, { mode }), naming('options.mode', VALUE))
  }
  t.is(countFds(), open)
  for (const mode of [0, 0o600, 0o777]) {
    const path = join(folder, `mode-${mode}`)
    const socket = bind(path, { mode })
    t.is(lstatSync(path).mode & 0o7777, mode)
    socket.close()
  }
})

/** Puts everything into a folder that is no socket. Gives each path, and what tells that the file is still what it was. */
function putOthers(folder: string): Record<string, string> {
  const path = (name: string) => join(folder, name)
  writeFileSync(path('file'), 'content of the file')
  mkdirSync(path('folder'))
  execFileSync('mkfifo', [path('fifo')])
  symlinkSync(path('file'), path('link'))
  symlinkSync(path('nowhere'), path('dangling'))
  leaveSocket(path('left'))
  symlinkSync(path('left'), path('link to a socket'))
  const names = ['file', 'folder', 'fifo', 'link', 'dangling', 'link to a socket']
  return Object.fromEntries(names.map((name) => [name, path(name)]))
}

test.serial('what is no socket is in use, and is never removed', async (t) => {
  const folder = newFolder()
  const others = putOthers(folder)
  const server = await listen(join(folder, 'server'))
  await unchanged(t, folder, async () => {
    for (const [name, path] of Object.entries(others)) {
      const calls: [string, () => unknown][] = [
        ['listen', () => listen(path)],
        ['listen with a mode', () => listen(path, { mode: 0o600 })],
        ['bind', async () => bind(path)],
        ['bind with a mode', async () => bind(path, { mode: 0o600 })],
        ['connect', () => connect(server.address, { localAddress: path })]
      ]
      for (const [what, call] of calls) {
        const error = await t.throwsAsync<SystemError>(call() as Promise<unknown>, { code: 'EADDRINUSE' }, what + name)
        t.is(error!.errno, -constants.errno.EADDRINUSE)
        t.is(error!.syscall, 'bind')
        t.is(error!.address, path)
        t.true(error!.message.endsWith(`, bind ${inspect(path)}`), error!.message)
      }
    }
    t.is(readFileSync(others.file!, 'utf8'), 'content of the file')
  })
  await takesConnections(t, server)
  server.close()
})

test.serial('an address with a live socket of any type is in use, and the socket goes on', async (t) => {
  const folder = newFolder()
  const stream = await listen(join(folder, 'stream'))
  const receiver = bind(join(folder, 'datagram'))
  const abstract = isLinux ? [await listen(abstractOf(50))] : []
  const addresses = [stream.address, receiver.localAddress!, ...abstract.map((server) => server.address)]
  await unchanged(t, folder, async () => {
    for (const address of addresses) {
      for (const call of [
        () => listen(address),
        () => connect(stream.address, { localAddress: address }),
        // Each type has abstract names of its own.
        ...(address.startsWith('\0') ? [] : [async () => bind(address)])
      ]) {
        const error = await t.throwsAsync<SystemError>(call(), { code: 'EADDRINUSE' })
        t.is(error!.address, address)
        t.is(error!.syscall, 'bind')
      }
    }
  })
  await takesConnections(t, stream)
  await takesDatagrams(t, receiver)
  for (const socket of [stream, receiver, ...abstract]) socket.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('a folder that is missing, and one that is none', async (t) => {
  const folder = newFolder()
  writeFileSync(join(folder, 'file'), '')
  const server = await listen(join(folder, 'server'))
  const sender = bind(null)
  const cases = [
    [join(folder, 'missing', 'socket'), 'ENOENT'],
    [join(folder, 'file', 'socket'), 'ENOTDIR']
  ] as const
  await unchanged(t, folder, async () => {
    for (const [address, code] of cases) {
      const calls: [string, () => unknown][] = [
        ['bind', () => listen(address)],
        ['bind', async () => bind(address)],
        ['bind', () => connect(server.address, { localAddress: address })],
        ['connect', () => connect(address)],
        ['sendmsg', () => sender.send('x', { to: address })]
      ]
      for (const [syscall, call] of calls) {
        const error = await t.throwsAsync<SystemError>(call() as Promise<unknown>, { code })
        t.is(error!.errno, -constants.errno[code])
        t.is(error!.syscall, syscall)
        t.is(error!.address, address)
      }
    }
  })
  await takesConnections(t, server)
  server.close()
  sender.close()
})

test.serial('connect to nobody and to what does not fit leaves no local address behind', async (t) => {
  const folder = newFolder()
  const others = putOthers(folder)
  const stream = await listen(join(folder, 'stream'))
  const receiver = bind(join(folder, 'datagram'))
  const cases: [string, string, ('stream' | 'dgram')?][] = [
    [others.file!, 'ECONNREFUSED'],
    [others.folder!, 'ECONNREFUSED'],
    [others.fifo!, 'ECONNREFUSED'],
    [others.link!, 'ECONNREFUSED'],
    [others['link to a socket']!, 'ECONNREFUSED'],
    [join(folder, 'left'), 'ECONNREFUSED'],
    [join(folder, 'left'), 'ECONNREFUSED', 'dgram'],
    [others.dangling!, 'ENOENT'],
    [join(folder, 'nobody'), 'ENOENT'],
    [join(folder, 'nobody'), 'ENOENT', 'dgram'],
    [stream.address, 'EPROTOTYPE', 'dgram'],
    [receiver.localAddress!, 'EPROTOTYPE']
  ]
  if (isLinux) cases.push([abstractOf(60), 'ECONNREFUSED'], [abstractOf(60), 'ECONNREFUSED', 'dgram'])
  await unchanged(t, folder, async () => {
    for (const [address, code, type] of cases) {
      for (const rest of [{}, { localAddress: join(folder, 'local') }]) {
        const error = await t.throwsAsync<SystemError>(connect(address, { type, ...rest }), { code }, address)
        t.is(error!.errno, -(constants.errno as Record<string, number>)[code]!)
        t.is(error!.syscall, 'connect')
        t.is(error!.address, address)
        t.true(error!.message.endsWith(`, connect ${inspect(address)}`), error!.message)
      }
    }
  })
  await takesConnections(t, stream)
  await takesDatagrams(t, receiver)
  stream.close()
  receiver.close()
})

onLinux('a seqpacket socket and a stream do not connect', async (t) => {
  const folder = newFolder()
  const stream = await listen(join(folder, 'stream'))
  const packets = await listen(join(folder, 'packets'), { type: 'seqpacket' })
  await unchanged(t, folder, async () => {
    await t.throwsAsync(connect(packets.address), { code: 'EPROTOTYPE' })
    await t.throwsAsync(connect(packets.address, { type: 'dgram' }), { code: 'EPROTOTYPE' })
    await t.throwsAsync(connect(stream.address, { type: 'seqpacket' }), { code: 'EPROTOTYPE' })
  })
  await takesConnections(t, stream)
  stream.close()
  packets.close()
})

onLinux('what the permissions and the kernel refuse says so', async (t) => {
  const folder = newFolder()
  chmodSync(folder, 0o755)
  const closed = join(folder, 'closed')
  mkdirSync(closed)
  leaveSocket(join(closed, 'stale'))
  chmodSync(join(closed, 'stale'), 0o777)
  leaveSocket(join(closed, 'unknown')) // nobody but its owner can tell whether it is stale
  chmodSync(join(closed, 'unknown'), 0o444)
  // Connecting takes the permission to write, which nobody has but root.
  const server = await listen(join(closed, 'listening'), { mode: 0o444 })
  const receiver = bind(join(closed, 'datagram'), { mode: 0o444 })
  chmodSync(closed, 0o555)
  await unchanged(t, closed, async () => {
    const { socket, done } = startFixture('bad-input', ['unprivileged', closed], { timeout: 20_000 })
    socket.close()
    const { EACCES, EADDRINUSE, EPERM } = constants.errno
    const result = JSON.parse(await done)
    const to = result.outcomes.uid[3]
    t.regex(to, /^\0/)
    t.deepEqual(result, {
      outcomes: {
        listen: ['EACCES', -EACCES, 'bind', join(closed, 'new')],
        listenStale: ['EACCES', -EACCES, 'bind', join(closed, 'stale')],
        listenUnknown: ['EADDRINUSE', -EADDRINUSE, 'bind', join(closed, 'unknown')],
        bind: ['EACCES', -EACCES, 'bind', join(closed, 'new')],
        connect: ['EACCES', -EACCES, 'connect', server.address],
        localAddress: ['EACCES', -EACCES, 'bind', join(closed, 'new')],
        to: ['EACCES', -EACCES, 'sendmsg', receiver.localAddress],
        pid: ['EPERM', -EPERM, 'sendmsg', to],
        uid: ['EPERM', -EPERM, 'sendmsg', to],
        gid: ['EPERM', -EPERM, 'sendmsg', to]
      },
      open: 0,
      received: 'only this'
    })
  })
  chmodSync(closed, 0o755)
  server.close()
  receiver.close()
})

for (const [kind, code, put] of [
  ['a folder', 'EISDIR', (path: string) => mkdirSync(path)],
  ['a symlink', 'ELOOP', (path: string) => symlinkSync('elsewhere', path)],
  ['a FIFO', undefined, (path: string) => execFileSync('mkfifo', [path])]
] as const) {
  test.serial(`${kind} in the place of the lock is left there, and not waited for`, async (t) => {
    const folder = newFolder()
    const path = join(folder, 'socket')
    leaveSocket(path)
    put(`${path}.fdpass-lock`)
    await unchanged(t, folder, async () => {
      // In a process of its own, as opening a FIFO waits for a reader.
      const { socket, done } = startFixture('bad-input', ['lock', path], { timeout: 5000 })
      socket.close()
      await t.notThrowsAsync(done)
      for (const [got, , syscall, address] of JSON.parse(await done)) {
        if (code === undefined) t.regex(got, /^E[A-Z]+$/)
        else t.is(got, code)
        t.is(syscall, 'bind')
        t.is(address, path)
      }
    })
  })
}

test.serial('a signal that has been aborted ends an operation before it begins', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'datagram'))
  const sender = bind(null)
  const reason = new Error('the reason')
  const signal = AbortSignal.abort(reason)
  await unchanged(t, folder, async () => {
    for (const call of [
      () => connect(server.address, { signal }),
      () => connect(server.address, { signal, localAddress: join(folder, 'local') }),
      () => server.accept({ signal }),
      () => sender.send('x', { signal, to: receiver.localAddress! })
    ]) {
      const error = await t.throwsAsync(call(), { name: 'AbortError', code: 'ABORT_ERR' })
      t.is(error!.cause, reason)
    }
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  for (const socket of [server, receiver, sender]) socket.close()
})

onLinux('connect that is ended while it waits for room leaves no local address behind', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'), { backlog: 0 })
  const first = await connect(server.address)
  await unchanged(t, folder, async () => {
    const controller = new AbortController()
    const waiting = connect(server.address, { signal: controller.signal, localAddress: join(folder, 'local') })
    t.true(await isPending(waiting))
    t.true(readdirSync(folder).includes('local'))
    controller.abort()
    await t.throwsAsync(waiting, { name: 'AbortError' })
  })
  ;(await server.accept()).close()
  await takesConnections(t, server)
  first.close()
  server.close()
})

onLinux('what only looks like a signal is refused where it would be listened to', async (t) => {
  const { socket, done } = startFixture('bad-input', ['signal', join(newFolder(), 'socket')], { timeout: 20_000 })
  socket.close()
  await t.notThrowsAsync(async () => t.is(JSON.parse(await done)[0], TYPE))
})

test.serial('what only looks like a signal leaves no duplicates of descriptors behind', async (t) => {
  const [a, b] = socketpair()
  const file = openFile()
  t.teardown(() => a.close()) // or what waits would keep the process alive after a failure
  const filler = t.throwsAsync(a.send(Buffer.alloc(4 * 1024 * 1024)), { code: CLOSED })
  t.true(await isPending(filler))
  const open = countFds()
  const signal = { aborted: false, addEventListener: 5 }
  await rejects(t, 'send', undefined, () => loose(a, 'send')('x', { fds: [file, file], signal }))
  t.is(countFds(), open)
  a.close()
  await filler
  b.close()
  closeSync(file)
})

test.serial('what an option throws when it is read is what comes of it', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'datagram'))
  const thrown = new Error('thrown by an option')
  const failing = (name: string) =>
    Object.defineProperty({}, name, {
      get: () => {
        throw thrown
      }
    })
  await unchanged(t, folder, async () => {
    for (const name of ['type', 'mode', 'backlog', 'descriptors', 'allow', 'credentials', 'pidfd']) {
      t.is(await t.throwsAsync(listen(path, failing(name))), thrown, name)
    }
    for (const name of ['type', 'localAddress', 'credentials', 'pidfd', 'signal']) {
      t.is(await t.throwsAsync(connect(server.address, failing(name))), thrown, name)
    }
    for (const name of ['mode', 'credentials', 'pidfd']) t.throws(() => bind(path, failing(name)), { is: thrown }, name)
    for (const name of ['type', 'credentials', 'pidfd']) t.throws(() => socketpair(failing(name)), { is: thrown }, name)
    for (const name of ['to', 'credentials', 'signal', 'fds']) {
      t.is(await t.throwsAsync(receiver.send('x', failing(name))), thrown, name)
    }
    for (const name of ['pid', 'uid', 'gid']) {
      const credentials = Object.defineProperties(
        { pid: 1, uid: 0, gid: 0 },
        Object.getOwnPropertyDescriptors(failing(name))
      )
      t.is(await t.throwsAsync(receiver.send('x', { to: receiver.localAddress!, credentials })), thrown, name)
    }
    t.is(await t.throwsAsync(server.accept(failing('signal'))), thrown)
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  server.close()
  receiver.close()
})

for (const name of ['to', 'credentials', 'fds', 'signal']) {
  test.serial(
    `a socket that is closed while options.${name} is read sends nothing, nor does its number's next owner`,
    async (t) => {
      const [a, b] = socketpair({ type: 'dgram' })
      let others: UnixSocket[] = []
      const closing = Object.defineProperty({}, name, {
        get: () => {
          a.close()
          others = socketpair({ type: 'dgram' })
          closeAtLast(t, ...others)
          return undefined
        }
      })
      closeAtLast(t, a, b)
      await rejects(t, name, CLOSED, () => a.send('not to be sent', closing))
      await areConnected(t, others[0]!, others[1]!)
    }
  )
}

test.serial('accept refuses what is no signal, and loses no connection', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const open = countFds()
  await rejectsBad(t, 'accept', [...badOptions, ...badSignals], loose(server, 'accept'))
  t.is(countFds(), open)
  await takesConnections(t, server)
  // Also while a connection waits.
  const client = await connect(server.address)
  await rejectsBad(t, 'accept', [...badOptions, ...badSignals], loose(server, 'accept'))
  const connection = await server.accept()
  await areConnected(t, client, connection)
  for (const socket of [client, connection, server]) socket.close()
})

test.serial('the methods of a server are of a UnixServer', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const [a, b] = socketpair()
  const prototype = UnixServer.prototype as unknown as Record<string | symbol, Loose>
  const getters = Object.getOwnPropertyDescriptors(UnixServer.prototype)
  await unchanged(t, folder, async () => {
    for (const other of impostors(UnixServer, [a, Object.create(UnixSocket.prototype)])) {
      const what = `on ${inspect(other)}`
      const message = naming('server', TYPE)
      await rejects(t, `accept ${what}`, TYPE, () => Reflect.apply(prototype.accept!, other, []), message)
      throws(t, `release ${what}`, TYPE, () => Reflect.apply(prototype.release!, other, []), message)
      await rejects(t, `sent ${what}`, TYPE, () => a.send('x', { fds: [Object.create(UnixServer.prototype)] }))
    }
    for (const other of [...primitives, ...impostors(UnixServer, [a])]) {
      const what = `on ${inspect(other)}`
      await rejects(t, `accept ${what}`, undefined, () => Reflect.apply(prototype.accept!, other, []))
      await rejects(t, what, undefined, () => Reflect.apply(prototype[Symbol.asyncDispose]!, other, []))
      for (const name of ['ref', 'unref', 'release', 'close', Symbol.asyncIterator]) {
        t.throws(() => Reflect.apply(prototype[name]!, other, []), { instanceOf: TypeError }, `${String(name)} ${what}`)
      }
      for (const name of ['address', 'type', 'closed'] as const) {
        t.throws(() => Reflect.apply(getters[name].get!, other, []), { instanceOf: TypeError }, `${name} ${what}`)
      }
    }
  })
  t.false(a.closed)
  await areConnected(t, a, b)
  await takesConnections(t, server)
  for (const socket of [a, b, server]) socket.close()
})

test.serial('the methods of a socket are of a UnixSocket, not of a server', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const prototype = UnixSocket.prototype as unknown as Record<string | symbol, Loose>
  const getters = Object.getOwnPropertyDescriptors(UnixSocket.prototype)
  await unchanged(t, folder, async () => {
    for (const other of impostors(UnixSocket, [server, Object.create(UnixServer.prototype)])) {
      const what = `on ${inspect(other)}`
      const message = naming('socket', TYPE)
      for (const [name, ...args] of [
        ['send', 'x'],
        ['send', 'x', { to: server.address }],
        ['send', 'x', { credentials: true }],
        ['sendFd', 0],
        ['recv'],
        ['recvFd']
      ] as const) {
        await rejects(t, `${name} ${what}`, TYPE, () => Reflect.apply(prototype[name]!, other, args), message)
      }
      for (const name of ['peer', 'peerPidfd', 'release', 'shutdown']) {
        throws(t, `${name} ${what}`, TYPE, () => Reflect.apply(prototype[name]!, other, []), message)
      }
      await rejects(t, `sendFd ${what}`, TYPE, () => sendFd(other as UnixSocket, 0))
      await rejects(t, `recvFd ${what}`, TYPE, () => recvFd(other as UnixSocket))
    }
    for (const other of [...primitives, ...impostors(UnixSocket, [server])]) {
      const what = `on ${inspect(other)}`
      await rejects(t, `send ${what}`, undefined, () => Reflect.apply(prototype.send!, other, ['x']))
      await rejects(t, what, undefined, () => Reflect.apply(prototype[Symbol.asyncDispose]!, other, []))
      for (const name of ['peer', 'peerPidfd', 'ref', 'unref', 'close', 'messages']) {
        t.throws(() => Reflect.apply(prototype[name]!, other, []), { instanceOf: TypeError }, `${String(name)} ${what}`)
      }
      for (const name of ['localAddress', 'remoteAddress', 'type', 'closed'] as const) {
        t.throws(() => Reflect.apply(getters[name].get!, other, []), { instanceOf: TypeError }, `${name} ${what}`)
      }
    }
  })
  t.false(server.closed)
  await takesConnections(t, server)
  server.close()
})

test.serial('an iteration called on something else rejects', async (t) => {
  const server = await listen(join(newFolder(), 'server'))
  closeAtLast(t, server)
  const iteration = server[Symbol.asyncIterator]()
  for (const other of [undefined, null, {}, server, Object.create(Object.getPrototypeOf(iteration))]) {
    for (const name of ['next', 'return'] as const) {
      await rejects(t, `${name} on ${inspect(other)}`, undefined, () => Reflect.apply(iteration[name]!, other, []))
    }
  }
  await takesConnections(t, server)
  server.close()
})

test.serial('the constructor of a server is private', async (t) => {
  const file = openFile('mine')
  for (const args of [[], [file], [file, 0, 'address', true, undefined, Symbol('made')]]) {
    const error = t.throws(() => Reflect.construct(UnixServer, args), { code: VALUE })
    t.regex(error!.message, /^The "key" argument .*listen\(\)/)
  }
  t.is(readAll(file), 'mine')
  closeSync(file)
})

test.serial('a closed or released server accepts nothing, and does nothing else either', async (t) => {
  const folder = newFolder()
  for (const ending of ['close', 'release'] as const) {
    const path = join(folder, ending)
    const server = await listen(path)
    const waiting = t.throwsAsync(server.accept(), { code: CLOSED })
    const iteration = server[Symbol.asyncIterator]()
    const number = server[ending]()
    await waiting
    const open = countFds()
    await rejects(t, 'accept', CLOSED, () => server.accept())
    await rejects(t, 'accept', CLOSED, () => server.accept({}))
    await rejectsBad(t, 'accept', [...badOptions, ...badSignals], loose(server, 'accept'))
    throws(t, 'release', CLOSED, () => server.release())
    t.deepEqual(await iteration.next(), { done: true, value: undefined })
    t.deepEqual(await server[Symbol.asyncIterator]().next(), { done: true, value: undefined })
    const [a, b] = socketpair()
    await rejects(t, 'sent', CLOSED, () => a.send('x', { fds: [server] }))
    await areConnected(t, a, b)
    a.close()
    b.close()
    t.is(server.ref(), server)
    t.is(server.unref(), server)
    t.is(server.close(), undefined)
    t.is(await server[Symbol.asyncDispose](), undefined)
    t.true(server.closed)
    t.is(server.address, path)
    t.is(server.type, 'stream')
    t.is(countFds(), open)
    if (number === undefined) {
      t.false(lstatSync(path, { throwIfNoEntry: false }) !== undefined)
      continue
    }
    // What was released is the caller's, and goes on.
    t.true(isOpen(number))
    const client = await connect(path)
    client.close()
    closeSync(number)
  }
})

test.serial('the new methods of a closed or released socket', async (t) => {
  const folder = newFolder()
  const receiver = bind(join(folder, 'receiver'))
  for (const ending of ['close', 'release'] as const) {
    const path = join(folder, ending)
    const socket = bind(path)
    const number = socket[ending]()
    const open = countFds()
    for (const options of [{ to: receiver.localAddress! }, { credentials: true as const }, {}]) {
      await rejects(t, 'send', CLOSED, () => socket.send('x', options))
    }
    throws(t, 'peer', CLOSED, () => socket.peer())
    throws(t, 'peerPidfd', CLOSED, () => socket.peerPidfd())
    t.is(socket.localAddress, null)
    t.is(socket.remoteAddress, null)
    throws(t, 'from', TYPE, () => looseFrom(socket), naming('source', TYPE))
    t.is(countFds(), open)
    t.is(lstatSync(path, { throwIfNoEntry: false }) !== undefined, ending === 'release')
    if (number === undefined) continue
    const again = UnixSocket.from(number)
    t.is(again.localAddress, path)
    again.close()
  }
  await takesDatagrams(t, receiver)
  receiver.close()
})

test.serial('peer and peerPidfd of a socket without a peer', async (t) => {
  const socket = bind(join(newFolder(), 'socket'))
  const open = countFds()
  const error = t.throws<SystemError>(() => socket.peer(), { code: 'ENOTCONN' })
  t.is(error!.errno, -constants.errno.ENOTCONN)
  t.is(error!.syscall, 'getsockopt')
  const code = capabilities().peerPidfd ? 'ENODATA' : 'ENOPROTOOPT'
  const other = t.throws<SystemError>(() => socket.peerPidfd(), { code })
  t.is(other!.errno, -constants.errno[code])
  t.is(other!.syscall, 'getsockopt')
  t.is(socket.remoteAddress, null)
  t.is(countFds(), open)
  await takesDatagrams(t, socket)
  socket.close()
})

test.serial('addresses cannot be set', async (t) => {
  const path = join(newFolder(), 'socket')
  const server = await listen(path)
  const client = await connect(path)
  for (const object of [server, client]) {
    for (const name of ['address', 'localAddress', 'remoteAddress', 'type', 'closed']) {
      if (name in object) t.throws(() => Object.assign(object, { [name]: 'another' }), { instanceOf: TypeError }, name)
    }
  }
  t.is(server.address, path)
  t.is(client.remoteAddress, path)
  await takesConnectionsAfter(t, server, client)
})

/** That a server goes on behind a connection that already waits. */
async function takesConnectionsAfter(t: ExecutionContext, server: UnixServer, client: UnixSocket): Promise<void> {
  const connection = await server.accept()
  await areConnected(t, client, connection)
  client.close()
  connection.close()
  await takesConnections(t, server)
  server.close()
}

test.serial('capabilities takes nothing, tells the same each time, and cannot be changed', (t) => {
  const first = capabilities()
  const copy = { ...first }
  const open = countFds()
  for (const value of [...notAddresses, undefined, { backend: 'none' }]) {
    t.is((capabilities as Loose)(value), first)
  }
  for (const name of Object.keys(first)) {
    t.throws(() => Object.assign(first, { [name]: 'another' }), { instanceOf: TypeError }, name)
  }
  t.deepEqual({ ...capabilities() }, copy)
  t.is(countFds(), open)
})

test.serial('socketpair refuses what is no option of its own', (t) => {
  const open = countFds()
  const bad = [...badOptions, ...badOption('type', notTypes, VALUE), ...badReceiving]
  throwsBad(t, 'socketpair', bad, looseSocketpair)
  t.is(countFds(), open)
})

test.serial(
  'UnixSocket.from refuses what is no socket, and bad options, and leaves the source as it was',
  async (t) => {
    const folder = newFolder()
    const [a, b] = socketpair()
    const number = b.release()
    const server = await listen(join(folder, 'server'))
    const others = [server, a, new Server(), Object.create(UnixServer.prototype), Object.create(null), process, '', '3']
    await unchanged(t, folder, () => {
      throwsBad(
        t,
        'from',
        [
          ...[undefined, ...notNumbers, ...others].map((value) => ['source', value, TYPE] as const),
          ...[...notIntegers, -1, 2 ** 31, 2 ** 32].map((value) => ['source', value, RANGE] as const)
        ],
        looseFrom
      )
      throwsBad(t, 'from a number', [...badOptions, ...badReceiving], (value) => looseFrom(number, value))
    })
    await takesConnections(t, server)
    // As a Descriptor's.
    const descriptor = Descriptor.from(number)
    await unchanged(t, folder, () => {
      throwsBad(t, 'from a Descriptor', [...badOptions, ...badReceiving], (value) => looseFrom(descriptor, value))
      t.true(isOpen(descriptor.fd))
    })
    const taken = UnixSocket.from(descriptor)
    t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    await areConnected(t, a, taken)
    throws(t, 'from a closed Descriptor', 'ERR_DESCRIPTOR_CLOSED', () => UnixSocket.from(descriptor))
    for (const socket of [a, taken, server]) socket.close()
  }
)

test.serial('UnixSocket.from refuses a socket that listens', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'released')
  const released = await listen(path)
  const number = released.release()
  const nodes = new Server().listen(join(folder, 'nodes')).unref()
  await once(nodes, 'listening')
  const nodesNumber = (nodes as unknown as { _handle: { fd: number } })._handle.fd
  const message = /^The "source" argument is a listening socket/
  await unchanged(t, folder, () => {
    for (const fd of [number, nodesNumber]) throws(t, 'a number', VALUE, () => UnixSocket.from(fd), message)
  })
  for (const at of [path, join(folder, 'nodes')]) (await connect(at)).close()
  const descriptor = Descriptor.from(number)
  await unchanged(t, folder, () => throws(t, 'a Descriptor', VALUE, () => UnixSocket.from(descriptor), message))
  t.true(isOpen(descriptor.fd))
  ;(await connect(path)).close()
  descriptor.closeSync()
  nodes.close()
  await once(nodes, 'close')
})

/** A server of Node's and both ends of a connection to it; the end of the server is paused. */
async function nodePair(folder: string): Promise<[client: Socket, connection: Socket]> {
  const path = join(folder, 'nodes')
  const server = new Server({ pauseOnConnect: true }).listen(path)
  await once(server, 'listening')
  const client = netConnect(path)
  const [[connection]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [
    [Socket],
    unknown
  ]
  client.pause()
  server.close()
  return [client, connection]
}

/** That a connection of Node's is as it was. */
async function nodesWork(t: ExecutionContext, a: Socket, b: Socket): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a]
  ] as const) {
    from.write('through Node')
    to.resume()
    const [data] = (await once(to, 'data')) as [Buffer]
    t.is(data.toString(), 'through Node')
  }
}

async function destroyed(...sockets: Socket[]): Promise<void> {
  await Promise.all(sockets.map((socket) => (socket.closed ? undefined : once(socket.destroy(), 'close'))))
}

test.serial('UnixSocket.from refuses bad options for a net.Socket, and leaves it as it was', async (t) => {
  const folder = newFolder()
  const [client, connection] = await nodePair(folder)
  await unchanged(t, folder, () => {
    throwsBad(t, 'from a net.Socket', [...badOptions, ...badReceiving], (value) => looseFrom(connection, value))
  })
  t.false(connection.destroyed)
  await nodesWork(t, client, connection)
  await destroyed(client, connection)
})

test.serial('UnixSocket.from takes a net.Socket once', async (t) => {
  const [client, connection] = await nodePair(newFolder())
  const socket = UnixSocket.from(connection)
  const open = countFds()
  throws(t, 'at once', VALUE, () => UnixSocket.from(connection), /^The "source" argument is destroyed/)
  t.is(countFds(), open)
  if (!connection.closed) await once(connection, 'close')
  throws(t, 'once it is closed', VALUE, () => UnixSocket.from(connection), /^The "source" argument is destroyed/)
  client.write('still connected')
  t.is(text(await socket.recv()), 'still connected')
  socket.close()
  await destroyed(client)
})

test.serial('UnixSocket.from refuses a net.Socket of which something would stay behind', async (t) => {
  const folder = newFolder()
  const [client, connection] = await nodePair(folder)
  // What was read, also if nobody has taken it yet.
  client.write('read')
  connection.resume()
  await once(connection, 'data')
  connection.pause()
  await unchanged(t, folder, () => {
    const message = /^The "source" argument has read 4 bytes/
    throws(t, 'has read', VALUE, () => UnixSocket.from(connection), message)
    throws(t, 'has read', VALUE, () => UnixSocket.from(connection, { credentials: true }), message)
  })
  // What is to be written.
  client.cork()
  client.write('to be written')
  await unchanged(t, folder, () => {
    throws(t, 'to write', VALUE, () => UnixSocket.from(client), /^The "source" argument has 13 bytes waiting/)
  })
  client.uncork()
  connection.resume()
  const [data] = (await once(connection, 'data')) as [Buffer]
  t.is(data.toString(), 'to be written')
  await nodesWork(t, client, connection)
  await destroyed(client, connection)
})

test.serial('UnixSocket.from refuses a net.Socket that is not connected, or no Unix socket', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'nodes')
  const nodes = new Server((connection) => connection.resume()).listen(path)
  const tcp = new Server({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await Promise.all([once(nodes, 'listening'), once(tcp, 'listening')])
  const accepted = once(tcp, 'connection') as Promise<[Socket]>
  const overTcp = netConnect((tcp.address() as { port: number }).port, '127.0.0.1')
  const [[other]] = await Promise.all([accepted, once(overTcp, 'connect')])
  overTcp.pause()
  const { read, write } = openPipe()
  const pipe = new Socket({ fd: read, readable: true, writable: false })
  const connecting = netConnect(path)
  const connected = once(connecting, 'connect')
  const unconnected = new Socket()
  const lost = new Socket().destroy()
  const wrapped = new Socket()
  const tls = new TLSSocket(wrapped)
  tls.on('error', () => {})
  const prototype = Object.create(Socket.prototype)
  await unchanged(t, folder, () => {
    const cases: [string, unknown, RegExp][] = [
      ['connecting', connecting, /^The "source" argument is still connecting/],
      ['not connected', unconnected, /^The "source" argument has no descriptor/],
      ['destroyed', lost, /^The "source" argument is destroyed/],
      ['TLS', tls, /^The "source" argument is a TLSSocket/]
    ]
    for (const [what, source, message] of cases) {
      throws(t, what, VALUE, () => looseFrom(source), message)
      throws(t, what, VALUE, () => looseFrom(source, { credentials: true }), message)
    }
    throws(t, 'only the prototype', TYPE, () => looseFrom(prototype), naming('source', TYPE))
    throws(t, 'TCP', 'EAFNOSUPPORT', () => UnixSocket.from(overTcp))
    throws(t, 'a pipe', 'ENOTSOCK', () => UnixSocket.from(pipe))
  })
  for (const socket of [connecting, unconnected, tls, overTcp, pipe]) t.false(socket.destroyed)
  await nodesWork(t, overTcp, other)
  await connected
  const taken = UnixSocket.from(connecting)
  await taken.send('works')
  taken.close()
  closeSync(write)
  await destroyed(overTcp, other, pipe, unconnected)
  tls.destroy()
  wrapped.destroy()
  nodes.close()
  tcp.close()
  await Promise.all([once(nodes, 'close'), once(tcp, 'close')])
})

test.serial('send refuses what is no address, and what no credentials are', async (t) => {
  const folder = newFolder()
  const receiver = bind(join(folder, 'receiver'))
  const to = receiver.localAddress!
  const sender = bind(null)
  const file = openFile()
  const mine = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
  const badClaims: Bad[] = [
    ...badOption('credentials', [null, false, ...numbers, '', 'true', 3n, Symbol('true'), () => mine], TYPE),
    ...[[], {}, new Date(), new Map(), Object.create(null)].map(
      (credentials) => ['options.credentials.pid', { credentials }, TYPE] as const
    ),
    ...(['pid', 'uid', 'gid'] as const).flatMap((name) => {
      const nothing = name === 'pid' ? notNumbers.filter((value) => value !== null) : notNumbers
      const outside = name === 'pid' ? [0, 2 ** 31, 2 ** 32] : [2 ** 32 - 1, 2 ** 32]
      const bad = (value: unknown, code: string): Bad => [
        `options.credentials.${name}`,
        { credentials: { ...mine, [name]: value } },
        code
      ]
      return [
        ...[undefined, ...nothing].map((value) => bad(value, TYPE)),
        ...[...notIntegers, -1, ...outside].map((value) => bad(value, RANGE))
      ]
    })
  ]
  await unchanged(t, folder, async () => {
    const addresses = badAddresses('options.to')
    await rejectsBad(t, 'send', addresses, (value) => loose(sender, 'send')('x', { to: value }))
    await rejectsBad(t, 'send', addresses, (value) => loose(sender, 'send')('x', { to: value, fds: [file] }))
    await rejectsBad(t, 'send', [...badOptions, ...badSignals], (value) => loose(sender, 'send')('x', value))
    await rejectsBad(t, 'send', [...badClaims, ...badSignals], (value) =>
      loose(sender, 'send')('x', { to, fds: [file], ...(value as object) })
    )
  })
  await takesDatagrams(t, receiver)
  closeSync(file)
  for (const type of ['stream', 'dgram'] as const) {
    const [a, b] = socketpair({ type })
    const open = countFds()
    await rejectsBad(t, 'send', badClaims, (value) => loose(a, 'send')('x', value))
    t.is(countFds(), open)
    await areConnected(t, a, b)
    a.close()
    b.close()
  }
  sender.close()
  receiver.close()
})

test.serial('an address is for a datagram socket', async (t) => {
  const folder = newFolder()
  const receiver = bind(join(folder, 'receiver'))
  const server = await listen(join(folder, 'server'))
  const client = await connect(server.address)
  for (const socket of [...socketpair(), ...(isLinux ? socketpair({ type: 'seqpacket' }) : []), client]) {
    for (const data of ['x', '', new Uint8Array(100_000)]) {
      const call = () => socket.send(data, { to: receiver.localAddress! })
      await rejects(t, socket.type, VALUE, call, /^The "options\.to" property is for datagram sockets/)
    }
    if (socket !== client) socket.close()
  }
  await takesDatagrams(t, receiver)
  await takesConnectionsAfter(t, server, client)
  receiver.close()
})

test.serial('a datagram to nobody, or to what takes none', async (t) => {
  const folder = newFolder()
  const others = putOthers(folder)
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'receiver'))
  const sender = bind(null)
  const file = openFile()
  const cases: [string, string][] = [
    [join(folder, 'nobody'), 'ENOENT'],
    [others.dangling!, 'ENOENT'],
    [others.file!, 'ECONNREFUSED'],
    [others.folder!, 'ECONNREFUSED'],
    [others.fifo!, 'ECONNREFUSED'],
    [join(folder, 'left'), 'ECONNREFUSED'],
    [server.address, 'EPROTOTYPE']
  ]
  if (isLinux) cases.push([abstractOf(70), 'ECONNREFUSED'])
  await unchanged(t, folder, async () => {
    for (const [to, code] of cases) {
      for (const rest of [{}, { fds: [file] }, { credentials: true as const }]) {
        const error = await t.throwsAsync<SystemError>(sender.send('x', { to, ...rest }), { code }, to)
        t.is(error!.errno, -(constants.errno as Record<string, number>)[code]!)
        t.is(error!.syscall, 'sendmsg')
        t.is(error!.address, to)
      }
    }
    await t.throwsAsync(sender.send('x'), { code: 'ENOTCONN' })
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  closeSync(file)
  for (const socket of [server, receiver, sender]) socket.close()
})

/** That a connection was closed by the other side, which sent nothing. */
async function isRefused(t: ExecutionContext, client: UnixSocket, what: string): Promise<void> {
  t.is(await client.recv({ signal: AbortSignal.timeout(2000) }), null, what)
  client.close()
}

const verdicts = [
  undefined,
  null,
  0,
  1,
  NaN,
  '',
  'yes',
  1n,
  Symbol('yes'),
  {},
  [],
  () => true,
  new Boolean(true),
  new Map(),
  Object.create(null)
]

/** Servers whose `allow` decides as told, at once or later. */
async function deciding(
  folder: string,
  later: boolean
): Promise<{ server: UnixServer; decide: (verdict: () => unknown) => void; asked: Credentials[] }> {
  let next: (() => unknown) | undefined
  const asked: Credentials[] = []
  const decideLater = async () => {
    await undefined
    return next!()
  }
  const allow = (credentials: Credentials): unknown => {
    asked.push(credentials)
    return later ? decideLater() : next!()
  }
  const server = (await looseListen(join(folder, 'server'), { allow })) as UnixServer
  return { server, asked, decide: (verdict) => (next = verdict) }
}

for (const [when, later] of [
  ['at once', false],
  ['in a promise', true]
] as const) {
  test.serial(`allow that gives no boolean, ${when}: the connection is closed, and the server goes on`, async (t) => {
    const folder = newFolder()
    const { server, decide, asked } = await deciding(folder, later)
    await unchanged(t, folder, async () => {
      for (const verdict of verdicts) {
        decide(() => verdict)
        const message = /^Expected a boolean to be returned from the "options\.allow" function\. Received /
        const expected = { code: RETURN, instanceOf: TypeError, message }
        // For a connection that already waits, for one that comes later, and for an iteration.
        const waits = await connect(server.address)
        await t.throwsAsync(server.accept(), expected, inspect(verdict))
        const accept = t.throwsAsync(server.accept(), expected, inspect(verdict))
        t.true(await isPending(accept))
        const comes = await connect(server.address)
        await accept
        const iteration = t.throwsAsync(server[Symbol.asyncIterator]().next(), expected, inspect(verdict))
        const iterated = await connect(server.address)
        await iteration
        for (const client of [waits, comes, iterated]) await isRefused(t, client, inspect(verdict))
      }
    })
    t.is(asked.length, 3 * verdicts.length)
    t.deepEqual([asked[0]!.pid, asked[0]!.uid, asked[0]!.gid], [process.pid, process.getuid!(), process.getgid!()])
    decide(() => true)
    await takesConnections(t, server)
    server.close()
  })

  test.serial(
    `allow that fails, ${when}: with its error, the connection is closed, and the server goes on`,
    async (t) => {
      const folder = newFolder()
      const { server, decide } = await deciding(folder, later)
      await unchanged(t, folder, async () => {
        for (const thrown of [new Error('from allow'), new RangeError('also'), undefined, null, 'text', 5]) {
          decide(() => {
            throw thrown
          })
          const fails = async (promise: Promise<unknown>) => {
            const result = await promise.then(
              () => ['no error'],
              (error: unknown) => [error]
            )
            t.is(result[0], thrown)
          }
          const waits = await connect(server.address)
          await fails(server.accept())
          const accept = fails(server.accept())
          t.true(await isPending(accept))
          const comes = await connect(server.address)
          await accept
          const iteration = fails(server[Symbol.asyncIterator]().next())
          const iterated = await connect(server.address)
          await iteration
          for (const client of [waits, comes, iterated]) await isRefused(t, client, inspect(thrown))
        }
      })
      decide(() => true)
      await takesConnections(t, server)
      server.close()
    }
  )

  for (const waiting of [true, false]) {
    const whom = waiting ? 'while an accept waits' : 'while a connection waits'
    test.serial(`allow that closes the server, ${when}, ${whom}, leaves nothing open`, async (t) => {
      const folder = newFolder()
      for (const verdict of [true, false, undefined]) {
        await unchanged(t, folder, async () => {
          const { server, decide } = await deciding(folder, later)
          decide(() => {
            server.close()
            return verdict
          })
          const expected = { code: CLOSED }
          let accept = waiting ? t.throwsAsync(server.accept(), expected, `${verdict}`) : undefined
          const client = await connect(server.address)
          closeAtLast(t, client, server)
          accept ??= t.throwsAsync(server.accept(), expected, `${verdict}`)
          await accept
          t.true(server.closed)
          await isRefused(t, client, `${verdict}`)
        })
      }
    })
  }
}

test.serial('a descriptor of a server can be sent, and stays open', async (t) => {
  const server = await listen(join(newFolder(), 'server'))
  const [a, b] = socketpair()
  await a.send('x', { fds: [server] })
  const { fds } = (await b.recv())!
  t.is(fds.length, 1)
  throws(t, 'from', VALUE, () => UnixSocket.from(fds[0]!), /^The "source" argument is a listening socket/)
  t.true(isOpen(fds[0]!.fd))
  fds[0]!.closeSync()
  await takesConnections(t, server)
  for (const socket of [a, b, server]) socket.close()
})
