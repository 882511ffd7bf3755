import { closeSync, openSync } from 'node:fs'
import test from 'ava'
import { bind, listen, memfd, pipe, socketpair } from 'fdpass'
import { NodeChannel } from 'fdpass/ipc'
import { RANGE, TYPE, VALUE, loose, notOptions, notSignals, rejects, throws } from '../helpers/arguments.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath, openFile } from '../helpers/descriptors.ts'
import { line, next, openWatched, pair, startChild } from '../helpers/ipc.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

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
