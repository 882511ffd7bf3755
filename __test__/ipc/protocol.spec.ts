import { closeSync, openSync } from 'node:fs'
import test from 'ava'
import { NodeChannel } from 'fdpass/ipc'
import { bind, listen, memfd, pipe, socketpair } from 'fdpass'
import { isLinux, onlyIf, retainedBytes } from '../helpers/conditions.ts'
import { ACK, line, next, openWatched, pair, startChild } from '../helpers/ipc.ts'
import { fixturePath, startProgram } from '../helpers/processes.ts'
import { codesOf, isPending, turns } from '../helpers/promises.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'
import { RANGE, TYPE, VALUE, loose, notOptions, notSignals, rejects, throws } from '../helpers/arguments.ts'
import { newPath, openFile } from '../helpers/descriptors.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const NACK = line({ cmd: 'NODE_HANDLE_NACK' })

test('a descriptor that the other end could not receive is sent again, three times at most', async (t) => {
  const { channel, peer } = pair(t)
  const { sent, isClosed } = openWatched(t)
  const sending = channel.send('again', sent)
  const behind = channel.send('behind it')
  sent.close()
  for (let i = 0; i < 3; i++) {
    const message = await receiveSoon(peer)
    t.is(text(message), line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'again' }))
    t.is(message.fds.length, 1)
    message.close()
    await peer.send(NACK)
  }
  const last = await receiveSoon(peer)
  t.is(last.fds.length, 1)
  await peer.send(ACK)
  await sending
  t.is(text(await receiveSoon(peer)), line('behind it'))
  await behind
  last.close()
  t.true(await isClosed())

  const lost = openWatched(t)
  const failing = channel.send('lost', lost.sent)
  lost.sent.close()
  const after = channel.send('after it')
  for (let i = 0; i < 4; i++) {
    ;(await receiveSoon(peer)).close()
    await peer.send(NACK)
  }
  await t.throwsAsync(failing, { code: 'ERR_HANDLE_NOT_RECEIVED' })
  t.is(text(await receiveSoon(peer)), line('after it'))
  await after
  t.true(await lost.isClosed())
})

test('what comes without its descriptor is refused to the sender, and what Node sends again is acknowledged once', async (t) => {
  const { channel, peer } = pair(t)
  const { sent, isClosed } = openWatched(t)
  await peer.send(line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'lost' }))
  const receiving = channel.receive()
  t.is(text(await receiveSoon(peer)), NACK)
  t.true(await isPending(receiving))
  const inner = { cmd: 'NODE_HANDLE', type: 'net.Socket', msg: { a: 1 } }
  await peer.sendFd(sent, line({ cmd: 'NODE_HANDLE', type: 'net.Native', msg: inner }))
  sent.close()
  t.is(text(await receiveSoon(peer)), ACK)
  const { message, fd } = (await receiving)!
  t.deepEqual(message, { a: 1 })
  t.is(fd!.kind, 'unix-stream')
  fd!.closeSync()
  t.true(await isClosed())
  await t.throwsAsync(peer.recv({ signal: AbortSignal.timeout(50) }), { name: 'AbortError' })
})

for (const program of ['Node', 'this end']) {
  onLinux(
    `where the table of ${program} is full, a descriptor is refused, and taken when there is room again`,
    async (t) => {
      const isNode = program === 'Node'
      const script = 'ulimit -n 256 && exec "$@"'
      const args = [
        process.execPath,
        ...process.execArgv,
        ...(isNode ? [fixturePath('node-child')] : [fixturePath('peer'), 'node'])
      ]
      const env = isNode ? { ...process.env, NODE_CHANNEL_FD: '3' } : process.env
      const { socket, child, done } = startProgram('sh', ['-c', script, 'sh', ...args], { env })
      const channel = new NodeChannel(socket)
      t.teardown(() => channel.close())
      done.catch(() => {})
      t.teardown(() => child.kill('SIGKILL'))
      const say = (word: string) => channel.send(isNode ? [word] : { [word]: true })
      if (!isNode) t.deepEqual((await next(channel)).message, { ready: child.pid })
      await say('fill')
      t.deepEqual((await next(channel)).message, { filled: true })
      const lost = openWatched(t)
      const failing = channel.send(isNode ? ['use'] : { echo: 'lost' }, lost.sent)
      lost.sent.close()
      await t.throwsAsync(failing, { code: 'ERR_HANDLE_NOT_RECEIVED' })
      t.true(await lost.isClosed())
      await say('free')
      t.deepEqual((await next(channel)).message, { filled: false })
      const taken = openWatched(t)
      await channel.send(isNode ? ['use'] : { echo: 'taken' }, taken.sent)
      taken.sent.close()
      t.deepEqual((await next(channel)).message, isNode ? { is: 'Socket' } : { echo: 'taken', kind: 'unix-stream' })
    }
  )
}

const handle = (msg: unknown) => line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg })

test('descriptors belong to their lines, however the bytes come', async (t) => {
  const { channel, peer } = pair(t)
  const things = Array.from({ length: 4 }, () => openWatched(t))
  const [a, b, c, d] = things.map(({ sent }) => sent)
  await peer.send(line('plain') + line({ cmd: 'NODE_CLUSTER', act: 'not ours' }))
  await peer.send(handle('first').slice(0, 10), { fds: [a!] })
  await peer.send(handle('first').slice(10) + line('between'))
  await peer.send(handle('second') + handle('third') + line('last'), { fds: [b!, c!] })
  for (const byte of handle('fourth'))
    await peer.send(byte, byte === '{' && d !== undefined ? { fds: d.closed ? [] : [d] } : {}).finally(() => d!.close())
  for (const { sent } of things) sent.close()
  const received: [unknown, boolean][] = []
  while (received.length < 7) {
    const { message, fd } = await next(channel)
    received.push([message, fd !== null])
    fd?.closeSync()
  }
  t.deepEqual(received, [
    ['plain', false],
    ['first', true],
    ['between', false],
    ['second', true],
    ['third', true],
    ['last', false],
    ['fourth', true]
  ])
  for (const { isClosed } of things) t.true(await isClosed())
})

test('what is not the protocol closes the channel with an error, and every descriptor [S25]', async (t) => {
  const cases: [data: string | Uint8Array, code: string, message: RegExp][] = [
    ['not JSON\n', 'EPROTO', /could not be decoded/],
    ['\n', 'EPROTO', /could not be decoded/],
    [Uint8Array.of(0, 0, 0, 5, 0xff), 'EPROTO', /serialization: 'advanced'/],
    [`"${'x'.repeat(2000)}`, 'EMSGSIZE', /2001 bytes or more, and 1000 are accepted/],
    [`"${'x'.repeat(2000)}"\n`, 'EMSGSIZE', /2002 bytes or more, and 1000 are accepted/]
  ]
  for (const [data, code, message] of cases) {
    const { channel, peer } = pair(t, { maxBytes: 1000 })
    const { sent, isClosed } = openWatched(t)
    const waiting = openWatched(t)
    const sending = channel.send('never acknowledged', waiting.sent)
    waiting.sent.close()
    await peer.send(data, { fds: [sent] })
    sent.close()
    const error = await t.throwsAsync(channel.receive(), { code, message })
    t.true((error as unknown as { errno: number }).errno < 0)
    await t.throwsAsync(sending, { code })
    t.true(channel.closed)
    await t.throwsAsync(channel.receive(), { code })
    await t.throwsAsync(channel.send('more'), { code })
    await t.throwsAsync(
      async () => {
        for await (const each of channel) t.fail(String(each))
      },
      { code }
    )
    t.true(await isClosed())
    peer.close()
    t.true(await waiting.isClosed())
  }
})

test.serial('a line that arrives byte by byte takes no more memory than its bytes [S25] [S160]', async (t) => {
  const { channel, peer } = pair(t)
  const receiving = channel.receive()
  const sendBytes = async (count: number) => {
    for (let i = 0; i < count; i++) {
      await peer.send('x')
      await turns(1) // otherwise several arrive together
    }
  }
  await peer.send('"')
  await sendBytes(1000) // what is allocated once
  const before = retainedBytes()
  const count = 10_000
  await sendBytes(count)
  const perByte = (retainedBytes() - before) / count
  await peer.send(line('').slice(1))
  t.is((await receiving)!.message, 'x'.repeat(1000 + count))
  t.true(perByte < 64, `${perByte}`)
})

test('descriptors without messages are not piled up [S25]', async (t) => {
  const { channel, peer } = pair(t)
  const { sent, isClosed } = openWatched(t)
  const failing = channel.receive()
  for (let i = 0; i < 10; i++) await peer.send(' ', { fds: Array.from({ length: 10 }, () => sent) }).catch(() => {})
  sent.close()
  await t.throwsAsync(failing, { code: 'EPROTO', message: /without a message/ })
  t.true(await isClosed())
})

test('questions of the other end, which takes no answers, are not taken without end [S25]', async (t) => {
  const { channel, peer } = pair(t)
  const receiving = channel.receive()
  const questions = line({ cmd: 'NODE_SOCKET_GET_COUNT', key: 1 }).repeat(10_000)
  const held = async () => {
    for (let i = 0; i < 100; i++) {
      const signal = AbortSignal.timeout(1000)
      if ((await codesOf([peer.send(questions, { signal })]))[0] === 'ABORT_ERR') return true
    }
    return false
  }
  t.true(await held())
  t.true(await isPending(receiving))
  channel.close()
  t.deepEqual(await codesOf([receiving]), ['ERR_SOCKET_CLOSED'])
})

onLinux('what Node makes no handle of is refused, and nothing is sent', async (t) => {
  const { channel, next: receiveNext } = startChild(t)
  const [read, write] = pipe()
  const [packets, packetsToo] = socketpair({ type: 'seqpacket' })
  const datagrams = bind(null)
  const seqpacketListener = await listen(newPath(), { type: 'seqpacket' })
  const refused = {
    file: openFile('a file'),
    memfd: memfd({ data: 'memory' }),
    directory: openSync('/', 'r'),
    'character-device': openSync('/dev/null', 'r'),
    pty: openSync('/dev/ptmx', 'r+'),
    fifo: read,
    'unix-seqpacket': packets,
    'unix-dgram': datagrams,
    'unix-listener': seqpacketListener
  }
  for (const [kind, fd] of Object.entries(refused)) {
    const error = await t.throwsAsync(channel.send(['use'], fd), { code: 'ERR_INVALID_FD_TYPE' }, kind)
    t.true(error.message.includes(`'${kind}'`), error.message)
  }
  await channel.send(['echo', 'alive'])
  t.deepEqual((await receiveNext()).message, { echo: 'alive' })
  for (const fd of Object.values(refused)) {
    if (typeof fd === 'number') closeSync(fd)
    else if ('closeSync' in fd) fd.closeSync()
    else fd.close()
  }
  packetsToo.close()
  write.closeSync()
})

test('two ends of ours speak with each other', async (t) => {
  const [one, other] = socketpair()
  using left = new NodeChannel(one)
  using right = new NodeChannel(other)
  const [a, b] = [openWatched(t), openWatched(t)]
  const sent = [left.send('to the right', a.sent), right.send('to the left', b.sent)]
  for (const { sent: each } of [a, b]) each.close()
  using atRight = await next(right)
  using atLeft = await next(left)
  t.deepEqual([atRight.message, atRight.fd!.kind], ['to the right', 'unix-stream'])
  t.deepEqual([atLeft.message, atLeft.fd!.kind], ['to the left', 'unix-stream'])
  await Promise.all(sent)
})

const make = (...args: unknown[]) => new (NodeChannel as unknown as new (...args: unknown[]) => unknown)(...args)

test('arguments of the wrong kind are refused, and nothing is sent', async (t) => {
  const { channel, peer } = pair(t)
  const send = loose(channel, 'send')
  for (const message of [undefined, () => {}, Symbol('message'), 5n])
    await rejects(t, 'message', TYPE, () => send(message))
  for (const message of [{ cmd: 'NODE_HANDLE' }, { cmd: 'NODE_x', a: 1 }]) {
    await rejects(t, 'message', VALUE, () => send(message), /NODE_/)
    await rejects(t, 'message', VALUE, () => send(message, peer), /NODE_/)
  }
  await rejects(t, 'message', VALUE, () => send({ toJSON: () => undefined }))
  await rejects(t, 'message', undefined, () => send({ a: 5n }), /BigInt/)
  await rejects(t, 'message', undefined, () => send({ a: 5n }, peer), /BigInt/)
  for (const fd of ['3', {}, true, []]) await rejects(t, 'fd', TYPE, () => send('message', fd), /"fd"/)
  for (const fd of [-1, 1.5, 2 ** 31]) await rejects(t, 'fd', RANGE, () => send('message', fd), /"fd"/)
  await rejects(t, 'fd', 'EBADF', () => send('message', 999_999))
  for (const name of ['send', 'receive'] as const) {
    const before = name === 'send' ? ['message', null] : []
    for (const options of notOptions) await rejects(t, name, TYPE, () => loose(channel, name)(...before, options))
    for (const signal of notSignals) await rejects(t, name, TYPE, () => loose(channel, name)(...before, { signal }))
    await rejects(t, name, 'ABORT_ERR', () => loose(channel, name)(...before, { signal: AbortSignal.abort() }))
  }
  for (const options of notOptions) throws(t, 'messages', TYPE, () => loose(channel, 'messages')(options))
  await channel.send({ cmd: 'NODE_' }) // nothing internal
  t.is(text(await receiveSoon(peer)), line({ cmd: 'NODE_' })) // the first that came

  for (const socket of [undefined, null, 3, {}, channel]) throws(t, 'socket', TYPE, () => make(socket))
  const [packets, other] = socketpair({ type: 'seqpacket' })
  throws(t, 'socket', VALUE, () => make(packets), /seqpacket/)
  t.false(packets.closed)
  for (const options of notOptions) throws(t, 'options', TYPE, () => make(packets, options))
  for (const maxBytes of [null, '5']) throws(t, 'maxBytes', TYPE, () => make(packets, { maxBytes }))
  for (const maxBytes of [0, 1.5, 2 ** 31]) throws(t, 'maxBytes', RANGE, () => make(packets, { maxBytes }))
  for (const socket of [packets, other, peer]) socket.close()
  throws(t, 'socket', 'ERR_SOCKET_CLOSED', () => make(peer))
})
