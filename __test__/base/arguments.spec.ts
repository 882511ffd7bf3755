import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Server } from 'node:net'
import test from 'ava'
import { type ArgumentError, Descriptor, UnixSocket, recvFd, sendFd, socketpair } from 'fdpass'
import {
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  loose,
  looseSocketpair,
  notIntegers,
  notNumbers,
  rejects
} from '../helpers/arguments.ts'
import { countFds, isOpen, openFile, readAll } from '../helpers/descriptors.ts'
import { text, withPair } from '../helpers/sockets.ts'

const looseSendFd = sendFd as Loose

const looseRecvFd = recvFd as Loose

const looseDescriptorFrom = Descriptor.from.bind(Descriptor) as Loose

const looseSocketFrom = UnixSocket.from.bind(UnixSocket) as Loose

test.serial('maxBytes is an integer of at least 1, maxFds one of at least 0 [C11.2]', async (t) => {
  const limits = [
    ...notNumbers.flatMap((value) =>
      [{ maxBytes: value }, { maxFds: value }].map((options) => [options, TYPE] as const)
    ),
    ...[...notIntegers, -1, 2 ** 31].flatMap((value) =>
      [{ maxBytes: value }, { maxFds: value }].map((options) => [options, RANGE] as const)
    ),
    [{ maxBytes: 0 }, RANGE]
  ] as const
  await withPair(t, async (a, b) => {
    await a.send('received by none of these')
    for (const [options, code] of limits) {
      const name = Object.entries(options)
        .map(([key, value]) => `${key}: ${String(value)}`)
        .join()
      await rejects(t, name, code, () => loose(b, 'recv')(options))
      t.throws(() => loose(b, 'messages')(options), { code }, name)
      if (!('maxBytes' in options)) continue
      await rejects(t, name, code, () => loose(b, 'recvFd')(options))
      await rejects(t, name, code, () => looseRecvFd(b, options))
    }
    t.is(text(await b.recv()), 'received by none of these')
  })
})

test.serial('what an option throws when it is read is how the promise rejects', async (t) => {
  const file = openFile()
  const thrown = new Error('thrown by an option')
  const fail = () => {
    throw thrown
  }
  await withPair(t, async (a) => {
    for (const name of ['signal', 'fds']) {
      const options = Object.defineProperty({}, name, { get: fail, enumerable: true })
      t.is(await t.throwsAsync(a.send('x', options)), thrown)
      if (name === 'signal') t.is(await t.throwsAsync(a.sendFd(file, 'x', options)), thrown)
    }
    for (const name of ['signal', 'maxBytes']) {
      const options = Object.defineProperty({}, name, { get: fail, enumerable: true })
      t.is(await t.throwsAsync(a.recv(options)), thrown)
      t.is(await t.throwsAsync(a.recvFd(options)), thrown)
      t.throws(() => a.messages(options), { is: thrown })
    }
  })
  closeSync(file)
})

test.serial('sendFd and recvFd are of a UnixSocket', async (t) => {
  const file = openFile()
  const descriptor = Descriptor.from(openFile())
  const before = countFds()
  for (const socket of [undefined, ...notNumbers, 3, descriptor, Object.create(null)]) {
    await rejects(t, 'sendFd', TYPE, () => looseSendFd(socket, file))
    await rejects(t, 'recvFd', TYPE, () => looseRecvFd(socket))
  }
  t.is(countFds(), before)
  t.true(isOpen(descriptor.fd))
  descriptor.closeSync()
  closeSync(file)
})

test.serial('an object that has only the prototype of one of ours is not taken for it', async (t) => {
  const descriptor: unknown = Object.create(Descriptor.prototype)
  const socket: unknown = Object.create(UnixSocket.prototype)
  await withPair(t, async (a) => {
    for (const fd of [descriptor, socket]) {
      await rejects(t, 'sendFd', TYPE, () => loose(a, 'sendFd')(fd))
      await rejects(t, 'send', TYPE, () => loose(a, 'send')('x', { fds: [0, fd] }))
    }
    await rejects(t, 'the function sendFd', TYPE, () => looseSendFd(socket, 0))
    await rejects(t, 'the function recvFd', TYPE, () => looseRecvFd(socket))
    t.throws(() => looseSocketFrom(descriptor), { code: TYPE })
  })
})

test.serial('methods that return a promise reject when called on another object', async (t) => {
  const [a, b] = socketpair()
  const descriptor = Descriptor.from(openFile())
  for (const other of [undefined, null, {}, b.recv, Object.create(UnixSocket.prototype)]) {
    for (const [name, ...args] of [
      ['send', 'x'],
      ['sendFd', 0],
      ['recv'],
      ['recvFd'],
      [Symbol.asyncDispose]
    ] as const) {
      const method = a[name] as Loose
      await rejects(t, String(name), undefined, () => Reflect.apply(method, other, args))
    }
    for (const name of ['close', Symbol.asyncDispose] as const) {
      await rejects(t, String(name), undefined, () => Reflect.apply(descriptor[name] as Loose, other, []))
    }
  }
  t.true(isOpen(descriptor.fd))
  descriptor.closeSync()
  a.close()
  b.close()
})

test.serial('socketpair accepts three types', (t) => {
  const before = countFds()
  for (const type of [
    'raw',
    '',
    'STREAM',
    'streams',
    'toString',
    '0',
    0,
    1,
    null,
    true,
    {},
    ['stream'],
    Symbol('stream')
  ]) {
    t.throws(() => looseSocketpair({ type }), { code: VALUE }, String(type))
  }
  t.is(countFds(), before)
})

test.serial('shutdown accepts three directions', async (t) => {
  await withPair(t, (a) => {
    for (const how of ['sideways', '', 'READ', 'length', null, 0, 1, true, {}, ['write'], Symbol('write')]) {
      t.throws(() => loose(a, 'shutdown')(how), { code: VALUE }, String(how))
    }
  })
})

test.serial('Descriptor.from takes the number of an open descriptor that fdpass does not own', (t) => {
  const file = openFile('owned')
  const before = countFds()
  for (const value of [undefined, ...notNumbers]) {
    t.throws(() => looseDescriptorFrom(value), { code: TYPE, instanceOf: TypeError }, String(value))
  }
  for (const value of [...notIntegers, -1, 2 ** 31, 2 ** 53]) {
    t.throws(() => looseDescriptorFrom(value), { code: RANGE, instanceOf: RangeError }, String(value))
  }
  const error = t.throws<NodeJS.ErrnoException>(() => Descriptor.from(1_000_000), { code: 'EBADF' })
  t.is(error!.errno, -9)
  t.is(error!.syscall, 'fcntl')
  const descriptor = Descriptor.from(file)
  t.throws(() => Descriptor.from(file), { code: VALUE, message: /already owned/ })
  t.throws(() => looseDescriptorFrom(descriptor), { code: TYPE })
  t.is(readAll(descriptor.fd), 'owned')
  t.is(countFds(), before)
  descriptor.closeSync()
  t.false(isOpen(file))
})

test.serial(
  'UnixSocket.from takes an open Unix socket that fdpass does not own, and leaves all else as it was',
  async (t) => {
    const file = openFile('no socket')
    const descriptor = Descriptor.from(openFile('no socket either'))
    const closed = Descriptor.from(openFile())
    closed.closeSync()
    const server = new Server().listen(0, '127.0.0.1').unref()
    await once(server, 'listening')
    const listener = (server as unknown as { _handle: { fd: number } })._handle.fd
    const [a, b] = socketpair()
    const number = b.release()
    const again = UnixSocket.from(number)
    const before = countFds()
    for (const value of [undefined, ...notNumbers, Object.create(null)]) {
      t.throws(() => looseSocketFrom(value), { code: TYPE, instanceOf: TypeError })
    }
    for (const value of [...notIntegers, -1, 2 ** 31, 2 ** 53]) {
      t.throws(() => looseSocketFrom(value), { code: RANGE, instanceOf: RangeError }, String(value))
    }
    t.throws(() => UnixSocket.from(1_000_000), { code: 'EBADF' })
    t.throws(() => UnixSocket.from(file), { code: 'ENOTSOCK' })
    t.throws(() => UnixSocket.from(descriptor), { code: 'ENOTSOCK' })
    t.throws(() => UnixSocket.from(closed), { code: 'ERR_DESCRIPTOR_CLOSED' })
    t.throws(() => UnixSocket.from(listener), { code: 'EAFNOSUPPORT' })
    t.throws(() => UnixSocket.from(number), { code: VALUE, message: /already owned/ })
    t.throws(() => looseSocketFrom(again), { code: TYPE })
    t.is(countFds(), before)
    t.is(readAll(file), 'no socket')
    t.is(readAll(descriptor.fd), 'no socket either')
    await a.send('works')
    t.is(text(await again.recv()), 'works')
    // What was refused can be taken by what it is for.
    const taken = Descriptor.from(file)
    taken.closeSync()
    descriptor.closeSync()
    server.close()
    a.close()
    again.close()
  }
)

test.serial('the constructors are private, and take nothing over', (t) => {
  const file = openFile('mine')
  t.throws(() => Reflect.construct(Descriptor, [file]), { code: VALUE, message: /Descriptor\.from/ })
  t.throws(() => Reflect.construct(UnixSocket, [file]), { code: VALUE, message: /UnixSocket\.from/ })
  t.is(readAll(file), 'mine')
  closeSync(file)
})

test.serial('argument errors name the argument, its type and the received value, worded as in Node', async (t) => {
  const [a, b] = socketpair()
  const cases: [() => unknown, string][] = [
    [() => loose(a, 'sendFd')('3'), 'The "fd" argument must be of type number or an instance of '],
    [() => loose(a, 'sendFd')(-1), 'The value of "fd" is out of range. It must be >= 0 and <= 2147483647. Received '],
    [() => loose(a, 'sendFd')(1.5), 'The value of "fd" is out of range. It must be an integer. Received '],
    [
      () => loose(a, 'send')('x', { fds: [0, {}] }),
      'The "options.fds[1]" property must be of type number or an instance of '
    ],
    [() => loose(a, 'send')('x', { fds: 3 }), 'The "options.fds" property must be an instance of Array. Received '],
    [() => loose(a, 'send')(3), 'The "data" argument must be of type string or an instance of Uint8Array. Received '],
    [() => loose(a, 'recv')({ maxBytes: 0 }), 'The value of "options.maxBytes" is out of range. It must be >= 1 and '],
    [() => loose(a, 'recv')({ maxFds: 'x' }), 'The "options.maxFds" property must be of type number. Received '],
    [() => loose(a, 'recv')(null), 'The "options" argument must be of type object. Received null'],
    [
      () => loose(a, 'recv')({ signal: 3 }),
      'The "options.signal" property must be an instance of AbortSignal. Received '
    ],
    [() => looseRecvFd({}), 'The "socket" argument must be an instance of UnixSocket. Received an instance of Object'],
    [
      () => loose(a, 'send')(b),
      'The "data" argument must be of type string or an instance of Uint8Array. Received an instance of UnixSocket'
    ]
  ]
  for (const [call, words] of cases) {
    const error = await t.throwsAsync(call() as Promise<unknown>)
    t.true(error!.message.startsWith(words), error!.message)
  }
  a.close()
  b.close()
})

test('an error about an argument has its path as `argument` and the rest of its message as `reason`', async (t) => {
  await withPair(t, async (a) => {
    const refused = [
      ['data', TYPE, () => loose(a, 'send')(1)],
      ['options.maxBytes', RANGE, () => loose(a, 'recv')({ maxBytes: 0 })],
      ['options.fds[1]', TYPE, () => loose(a, 'send')('x', { fds: [0, null] })]
    ] as const
    for (const [argument, code, call] of refused) {
      const error = (await t.throwsAsync(async () => call(), { code })) as ArgumentError
      t.is(error.argument, argument)
      t.true(error.reason.includes('must be ') && error.message.endsWith(` ${error.reason}`), error.message)
      t.deepEqual(Object.keys(error), ['code'])
    }
  })
})
