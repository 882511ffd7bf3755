import { closeSync } from 'node:fs'
import { inspect } from 'node:util'
import test from 'ava'
import {
  Channel,
  type ChannelOptions,
  UnixSocket,
  connect,
  handOver,
  listen,
  receiveConnection,
  socketpair
} from 'fdpass'
import { RANGE, TYPE, VALUE, notIntegers, notNumbers, notOptions, notSignals } from '../helpers/arguments.ts'
import { CLOSE, MESSAGE, REQUEST, frame, openBare, openChannels, receiveFrame } from '../helpers/channels.ts'
import { isLinux, onlyIf, retainedBytes } from '../helpers/conditions.ts'
import { openConnection } from '../helpers/connections.ts'
import { hasWriter, openPipe, temporaryFolder } from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import { codesOf, isPending, turns } from '../helpers/promises.ts'

const onLinux = onlyIf(isLinux, 'Linux only')
const onRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs Linux, and to begin as root')
const large = Buffer.alloc(1024 * 1024)

test('a message over the limits is refused where it is sent, and nothing of it goes', async (t) => {
  const [a, b] = openChannels<unknown>(t, { maxBytes: 9, maxFds: 2 })
  for (const value of ['€€€', 'xxxxxxxx', new Uint8Array(10), [1, 2, 3, 4, 5]]) {
    await t.throwsAsync(a.send(value), { code: RANGE })
    await t.throwsAsync(a.request(value), { code: RANGE })
  }
  await t.throwsAsync(a.send('x', [0, 0, 0]), { code: RANGE })
  await t.throwsAsync(a.request('x', [0, 0, 0]), { code: RANGE })
  for (const value of ['€€', 'xxxxxxx', new Uint8Array(9)]) await a.send(value, [0, 0])
  for (const value of ['€€', 'xxxxxxx', new Uint8Array(9)]) {
    const message = (await b.receive())!
    t.deepEqual(message.value, value)
    t.is(message.fds.length, 2)
    message.close()
  }
})

test('a message may be empty where nothing else is accepted', async (t) => {
  const [a, b] = openChannels<unknown>(t, { maxBytes: 0, maxFds: 0 })
  await a.send(undefined)
  t.is((await b.receive())!.value, undefined)
  await t.throwsAsync(a.send(1), { code: RANGE })
  await t.throwsAsync(a.send(undefined, [0]), { code: RANGE })
  const { closed } = b // receives
  await t.throwsAsync(a.request(undefined), { code: 'ERR_NO_HANDLER' }) // which is larger
  t.true(await isPending(closed))
})

const tooLarge: Record<string, [options: ChannelOptions<Uint8Array>, value: Uint8Array, fds: number[]]> = {
  bytes: [{ maxBytes: 10 }, new Uint8Array(11), []],
  'bytes by far': [{ maxBytes: 10 }, large, []],
  descriptors: [{ maxFds: 2 }, new Uint8Array(1), [0, 0, 0]],
  'descriptors where none are accepted': [{ maxFds: 0 }, new Uint8Array(1), [0]]
}
for (const [what, [limits, value, fds]] of Object.entries(tooLarge)) {
  test(`a message with too many ${what} ends the channel with EMSGSIZE at both ends, after the messages before it`, async (t) => {
    const { read, write } = openPipe()
    const [a, b] = openChannels<Uint8Array>(t, {}, limits)
    await a.send(Uint8Array.of(1))
    const sent = a.send(
      value,
      fds.map(() => write)
    )
    closeSync(write)
    sent.catch(() => {}) // it may not have gone whole
    t.is((await b.receive())!.value[0], 1)
    await t.throwsAsync(b.receive(), { code: 'EMSGSIZE' })
    t.is(((await b.closed) as NodeJS.ErrnoException).code, 'EMSGSIZE')
    const error = (await a.closed) as NodeJS.ErrnoException
    t.is(error.code, 'EMSGSIZE')
    await t.throwsAsync(a.send(value), { code: 'EMSGSIZE' })
    await t.throwsAsync(a.request(value), { code: 'EMSGSIZE' })
    await t.throwsAsync(b.request(Uint8Array.of(1)), { code: 'EMSGSIZE' })
    await t.throwsAsync(a.receive(), { code: 'EMSGSIZE' })
    t.true(a.socket.closed && b.socket.closed)
    t.false(hasWriter(read))
    closeSync(read)
  })
}

test('a pending send rejects with the reason that the peer sent', async (t) => {
  const [a, b] = openChannels<Uint8Array>(t, {}, { maxBytes: 10 })
  const waiting = [a.send(large), a.send(large), a.request(large)]
  const codes = codesOf(waiting)
  t.true(await isPending(codes))
  await t.throwsAsync(b.receive(), { code: 'EMSGSIZE' })
  t.deepEqual(await codes, ['EMSGSIZE', 'EMSGSIZE', 'EMSGSIZE'])
})

test('more sends than maxPending reject at once, and those before them go [S68]', async (t) => {
  const [a, b] = openChannels<number | Uint8Array>(t, { maxPending: 3 })
  const sending = [a.send(large), a.send(1), a.send(2)]
  await t.throwsAsync(a.send(3), { code: 'ERR_TOO_MANY_PENDING', message: /3 messages/ })
  for (const value of [new Uint8Array(large), 1, 2]) t.deepEqual((await b.receive())!.value, value)
  await Promise.all(sending)
  await a.send(4)
  t.is((await b.receive())!.value, 4)
})

test('more requests than maxPending reject at once', async (t) => {
  const [a, b] = openChannels<number>(t, { maxPending: 3 })
  const replies: (() => void)[] = []
  b.onRequest(({ value }) => new Promise((resolve) => replies.push(() => resolve({ value }))))
  const waiting = [1, 2, 3].map((value) => a.request(value))
  await t.throwsAsync(a.request(4), { code: 'ERR_TOO_MANY_PENDING', message: /3 requests/ })
  while (replies.length < 3) await turns(1)
  replies.forEach((reply) => reply())
  t.deepEqual(
    (await Promise.all(waiting)).map(({ value }) => value),
    [1, 2, 3]
  )
})

test('a socket that takes no descriptors takes none as a channel either', async (t) => {
  const { read, write } = openPipe()
  const server = await listen(`${temporaryFolder()}/s`, { descriptors: false })
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const channel = new Channel(connection)
  // The kernel of Linux 6.16 refuses it; before that the channel does.
  const sent = client.send(frame(MESSAGE, 'x', { fds: 1 }), { fds: [write] }).catch((error: Error) => error)
  closeSync(write)
  const refused = (await sent) as NodeJS.ErrnoException | undefined
  if (refused === undefined) await t.throwsAsync(channel.receive(), { code: 'EMSGSIZE' })
  else t.is(refused.code, 'EPERM')
  t.false(hasWriter(read))
  closeSync(read)
  channel.close()
  client.close()
  server.close()
})

const malformed: Record<string, Uint8Array | string> = {
  'a byte': 'x',
  'another version': Uint8Array.of(0xfd, 2, ...new Uint8Array(14)),
  'a kind that there is none of': frame(6),
  'a format that there is none of': frame(MESSAGE, '', { format: 2 }),
  'a frame without the descriptors that it announced': frame(MESSAGE, 'x', { fds: 1 })
}
for (const [what, data] of Object.entries(malformed)) {
  test(`${what} ends the channel with EPROTO, which is reported to the peer [S26]`, async (t) => {
    const [a, bare] = openBare(t)
    await bare.send(frame(MESSAGE, '"before"', { format: 1 }))
    await bare.send(data)
    t.is((await a.receive())!.value, 'before')
    await t.throwsAsync(a.receive(), { code: 'EPROTO' })
    const { kind, data: why } = (await receiveFrame(bare))!
    t.is(kind, CLOSE)
    t.is((JSON.parse(String(why)) as { code: string }).code, 'EPROTO')
    t.is(await receiveFrame(bare), null)
  })
}

for (const announced of [0, 1, 3]) {
  test(`a frame that announced ${announced} descriptors and has 2 ends the channel, and they are closed [S22]`, async (t) => {
    const { read, write } = openPipe()
    const [a, bare] = openBare(t)
    await bare.send(frame(MESSAGE, 'data', { fds: announced }), { fds: [write, write] })
    closeSync(write)
    await t.throwsAsync(a.receive(), { code: 'EPROTO', message: new RegExp(`announced ${announced} .* 2 arrived`) })
    t.false(hasWriter(read))
    closeSync(read)
  })
}

for (const length of [1, 15, 16, 18]) {
  test(`an end after ${length} bytes of a frame is EPROTO, and closes its descriptors`, async (t) => {
    const { read, write } = openPipe()
    const [a, bare] = openBare(t)
    await bare.send(frame(MESSAGE, 'data', { fds: 1 }).subarray(0, length), { fds: [write] })
    closeSync(write)
    bare.close()
    await t.throwsAsync(a.receive(), { code: 'EPROTO' })
    t.false(hasWriter(read))
    closeSync(read)
  })
}

test('a close rejects pending operations with its reason, after the messages before it', async (t) => {
  const [a, bare] = openBare(t)
  const waiting = [a.request('x'), a.request('y')]
  const handled: AbortSignal[] = []
  a.onRequest(({ signal }) => new Promise(() => handled.push(signal)))
  const receiving = [a.receive(), a.receive(), a.receive()]
  await bare.send(
    Buffer.concat([frame(MESSAGE, 'x'), frame(REQUEST), frame(CLOSE, '{"message":"enough","code":"MINE"}')])
  )
  t.deepEqual((await receiving[0]!)!.value, new Uint8Array(Buffer.from('x')))
  t.deepEqual(await codesOf([...waiting, receiving[1]!, receiving[2]!]), ['MINE', 'MINE', 'MINE', 'MINE'])
  t.true(handled[0]!.aborted)
  t.is((await a.closed)!.message, 'enough')
})

test.serial('a header that announces all that is accepted takes no memory before it comes [S22]', async (t) => {
  const [a, bare] = openBare(t, { maxBytes: 2 ** 31 - 1 })
  const before = retainedBytes()
  await bare.send(frame(MESSAGE, 'x', { length: 2 ** 31 - 1 }))
  t.true(await isPending(a.receive()))
  t.true(retainedBytes() - before < 200 * 1024 * 1024)
})

onLinux('descriptors without room fail only their message, whose bytes are kept', async (t) => {
  const { socket, done } = startLimited(64, 'tables', ['channel'])
  const channel = new Channel<string>(socket)
  const { read, write } = openPipe()
  t.is((await channel.receive())!.value, 'full')
  await channel.send('plain')
  await channel.send('lost', [write, write, write])
  await channel.send('plain again')
  closeSync(write)
  const answers = []
  for (let i = 0; i < 3; i++) answers.push((await channel.receive())!.value)
  t.deepEqual(answers, ['plain, 0', 'ERR_CONTROL_TRUNCATED "lost"', 'plain again, 0'])
  t.false(hasWriter(read))
  await t.throwsAsync(channel.request('lost too', [read, read, read]), { code: 'ERR_CONTROL_TRUNCATED' })
  closeSync(read)
  t.is((await channel.request('fits')).value, 'fits')
  channel.close()
  await done
})

onRoot('messages wait while too many descriptors of a user are in flight, and keep their order', async (t) => {
  const { socket, done } = startLimited(100, 'in-flight', ['channel'])
  const received = Array.from({ length: 7 }, (_, i) => `${i}: 20\n`).join('')
  t.is(await done, `some wait\n${received}rejected, ERR_NO_HANDLER\n`)
  socket.close()
})

// Arguments

const pairOf = (t: { teardown(end: () => void): void }, type?: 'stream' | 'seqpacket' | 'dgram') => {
  const pair = socketpair({ type })
  t.teardown(() => pair.forEach((end) => end.close()))
  return pair
}

test('what is no open stream socket cannot be a channel', async (t) => {
  for (const socket of [undefined, null, 3, 'socket', {}, Object.create(UnixSocket.prototype) as UnixSocket]) {
    t.throws(() => new Channel(socket as UnixSocket), { code: TYPE })
  }
  for (const type of isLinux ? (['seqpacket', 'dgram'] as const) : (['dgram'] as const)) {
    t.throws(() => new Channel(pairOf(t, type)[0]), { code: VALUE, message: /'stream'/ })
  }
  const [closed] = pairOf(t)
  closed.close()
  t.throws(() => new Channel(closed), { code: 'ERR_SOCKET_CLOSED' })
})

test('a socket with operations that wait, or that holds messages, cannot be a channel yet', async (t) => {
  const [a, b] = pairOf(t)
  const receiving = a.recv()
  t.throws(() => new Channel(a), { code: VALUE })
  await b.send('x')
  await receiving
  const sending = a.send(large)
  t.throws(() => new Channel(a), { code: VALUE })
  for (let left = large.length; left > 0;) left -= (await b.recv())!.data.length
  await sending
  for (let i = 0; i < 3; i++) await b.sendFd(0)
  for await (const message of a) {
    message.close()
    break
  }
  t.throws(() => new Channel(a), { code: 'ERR_SOCKET_NOT_EMPTY' })
  for (let i = 0; i < 2; i++) (await a.recv())!.close()
  const [left, right] = [new Channel(a), new Channel(b)]
  await left.send('works')
  t.is((await right.receive())!.value, 'works')
})

test('each option of a channel is checked, and leaves the socket as it was', async (t) => {
  const [a, b] = pairOf(t)
  const refuses = (options: unknown, code: string) =>
    t.throws(() => new Channel(a, options as ChannelOptions), { code }, inspect(options))
  for (const options of notOptions) refuses(options, TYPE)
  for (const name of [
    'maxBytes',
    'maxFds',
    'maxReceivedBytes',
    'maxReceivedFds',
    'maxPending',
    'maxRequestBytes',
    'maxRequestFds'
  ]) {
    for (const value of notNumbers) refuses({ [name]: value }, TYPE)
    for (const value of [...notIntegers, -1, 2 ** 31]) refuses({ [name]: value }, RANGE)
  }
  refuses({ maxFds: 4049 }, RANGE)
  refuses({ maxReceivedFds: 4049 }, RANGE)
  for (const messages of [null, 0, 'false', {}]) refuses({ messages }, TYPE)
  refuses({ maxPending: 0 }, RANGE)
  for (const name of ['encode', 'decode']) for (const value of [null, 5, 'x', {}]) refuses({ [name]: value }, TYPE)
  await a.send('still a socket')
  t.is((await b.recv())!.data.length, 14)
})

test('arguments of the methods are checked', async (t) => {
  const [a, b] = openChannels(t)
  type Any = never
  for (const fds of [5, 'x', {}, new Set([0])]) {
    await t.throwsAsync(a.send('x', fds as Any), { code: TYPE })
    await t.throwsAsync(a.request('x', fds as Any), { code: TYPE })
  }
  await t.throwsAsync(a.send('x', [-1]), { code: RANGE })
  await t.throwsAsync(a.send('x', [1_000_000]), { code: 'EBADF' })
  await t.throwsAsync(a.request('x', [1_000_000]), { code: 'EBADF' })
  for (const options of notOptions) {
    const calls = [a.send('x', [], options as Any), a.request('x', [], options as Any), a.receive(options as Any)]
    t.deepEqual(await codesOf(calls), [TYPE, TYPE, TYPE])
  }
  for (const signal of notSignals) {
    const options = { signal } as Any
    t.deepEqual(await codesOf([a.send('x', [], options), a.request('x', [], options), a.receive(options)]), [
      TYPE,
      TYPE,
      TYPE
    ])
  }
  for (const timeout of notNumbers) await t.throwsAsync(a.request('x', [], { timeout } as Any), { code: TYPE })
  for (const timeout of [...notIntegers, 0, -1, 2 ** 31]) {
    await t.throwsAsync(a.request('x', [], { timeout }), { code: RANGE })
  }
  for (const handler of [undefined, 5, 'x', {}]) t.throws(() => a.onRequest(handler as Any), { code: TYPE })
  const other = b.receive()
  t.true(await isPending(other))
  a.close()
  t.is(await other, null)
})

test('the socket of a channel only reports its peer, and can be closed', async (t) => {
  const [a, b] = openChannels(t)
  const { socket } = a
  const state = { code: 'ERR_INVALID_STATE' }
  const { client, connection } = await openConnection()
  await t.throwsAsync(socket.send('x'), state)
  await t.throwsAsync(socket.recv(), state)
  await t.throwsAsync(socket.recv({ maxBytes: 1 }), state)
  await t.throwsAsync(socket.sendFd(0), state)
  await t.throwsAsync(socket.recvFd(), state)
  await t.throwsAsync(handOver(socket, connection), state)
  await t.throwsAsync(receiveConnection(socket), state)
  client.destroy()
  connection.destroy()
  t.throws(() => socket.messages(), state)
  t.throws(() => socket[Symbol.asyncIterator](), state)
  t.throws(() => socket.shutdown(), state)
  t.throws(() => socket.release(), state)
  t.throws(() => new Channel(socket), state)
  t.is(socket.peer().pid, isLinux ? process.pid : socket.peer().pid)
  t.is(socket.type, 'stream')
  await a.send('works')
  t.is((await b.receive())!.value, 'works')
  const waiting = a.receive()
  socket.close()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.is(await a.closed, null)
  t.is(await b.receive(), null)
})

test('an iteration of the socket that began before it was a channel’s takes nothing any more', async (t) => {
  const [a, b] = pairOf(t)
  const messages = a.messages()
  const channel = new Channel(a)
  await t.throwsAsync(messages.next(), { code: 'ERR_INVALID_STATE' })
  const other = new Channel(b)
  await other.send('x')
  t.is((await channel.receive())!.value, 'x')
})
