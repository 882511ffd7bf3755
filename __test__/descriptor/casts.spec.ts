import { once } from 'node:events'
import { constants, openSync } from 'node:fs'
import { type Server, Socket } from 'node:net'
import { inspect } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, bindListener, listen, memfd, pipe, socketpair } from 'fdpass'
import { type Loose, RANGE, TYPE, VALUE, loose, notOptions, rejects, throws } from '../helpers/arguments.ts'
import { type Method, casts } from '../helpers/casts.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { newPath, openFile, readAll, statusFlags, temporaryFile } from '../helpers/descriptors.ts'
import { everyKind } from '../helpers/kinds.ts'
import { startFixture } from '../helpers/processes.ts'

const WRONG = 'ERR_INVALID_FD_TYPE'

const CLOSED = 'ERR_DESCRIPTOR_CLOSED'

const isNode = !('bun' in process.versions || 'deno' in process.versions)

const onNode = onlyIf(isNode, "needs Node's own handles")

const onLinux = onlyIf(isNode && isLinux, "needs Node's own handles, and Linux")

const withPython = onlyIf(isNode && isLinux && hasPython, "needs Node's own handles, Linux and Python 3.9")

const { samples, missing, end: endSamples } = await everyKind(isNode && isLinux && hasPython)

test.after.always(endSamples)

const strict = { execArgv: ['--throw-deprecation', '--pending-deprecation'] }

for (const [title, { method, send, cast }] of Object.entries(casts)) {
  withPython(`${title}, sent to a child, which makes it its own by ${method}`, async (t) => {
    const { socket, done } = startFixture('casts', ['cast', title], strict)
    await t.notThrowsAsync(send(socket))
    t.is(await done, '')
    socket.close()
  })

  withPython(`${title}, sent by a child, is made this process's by ${method}`, async (t) => {
    const { socket, done } = startFixture('casts', ['send', title], strict)
    await t.notThrowsAsync(cast(socket))
    t.is(await done, '')
    socket.close()
  })
}

const methods: Method[] = [
  'toSocket',
  'toServer',
  'toDatagramSocket',
  'toReadStream',
  'toWriteStream',
  'toUnixSocket',
  'toUnixServer',
  'toStream',
  'toDuplex',
  'toTerminal'
]

/** The methods of each kind; all others are refused. */
const castsOf: Record<string, readonly Method[]> = {
  file: ['toReadStream', 'toWriteStream'],
  memfd: ['toReadStream', 'toWriteStream'],
  'character-device': ['toReadStream', 'toWriteStream'],
  'block-device': ['toReadStream', 'toWriteStream'],
  tty: ['toTerminal'],
  pty: ['toTerminal'],
  fifo: ['toSocket', 'toDuplex'],
  tcp: ['toSocket', 'toDuplex'],
  'tcp-listener': ['toServer'],
  udp: ['toDatagramSocket'],
  'unix-stream': ['toSocket', 'toUnixSocket', 'toStream'],
  'unix-seqpacket': ['toUnixSocket'],
  'unix-dgram': ['toUnixSocket'],
  'unix-listener': ['toServer', 'toUnixServer']
}

/** That a cast is refused, and leaves the descriptor as it was. */
async function isRefused(t: ExecutionContext, descriptor: Descriptor, method: Method, message?: RegExp): Promise<void> {
  const { fd, kind } = descriptor
  const call = () => loose(descriptor, method)()
  if (method === 'toServer') await rejects(t, method, WRONG, call, message)
  else throws(t, method, WRONG, call, message)
  t.is(descriptor.fd, fd, method)
  using duplicate = descriptor.duplicate()
  t.is(duplicate.kind, kind, method)
  const [a, b] = socketpair()
  await a.sendFd(descriptor)
  using received = (await b.recvFd())!
  t.is(received.fd!.kind, kind, method)
  a.close()
  b.close()
}

for (const { kind, title, descriptor } of samples) {
  const wrong = methods.filter((method) => title.startsWith('O_PATH') || !castsOf[kind]?.includes(method))
  test(`another process's ${title} refuses ${wrong.join(', ')}, and stays as it was [S16]`, async (t) => {
    const message = title.startsWith('O_PATH')
      ? /^A descriptor opened with O_PATH cannot be used, and so has no /
      : new RegExp(`^A descriptor of kind '${kind}' has no .*\\(\\)`)
    for (const method of wrong) await isRefused(t, descriptor, method, message)
  })
}

for (const [kind, title, reason] of missing)
  onlyIf(false, reason)(`another process's ${title} refuses casts of a '${kind}'`, (t) => t.fail())

onLinux('a seqpacket listener is no net.Server, but a UnixServer', async (t) => {
  const server = await listen(newPath(), { type: 'seqpacket' })
  const descriptor = Descriptor.from(server.release())
  await isRefused(t, descriptor, 'toServer', /seqpacket: use toUnixServer\(\)/)
  const own = descriptor.toUnixServer()
  t.deepEqual([own.type, own.address], ['seqpacket', server.address])
  own.close()
})

onNode('a file refuses the stream for which it was not opened, and stays as it was', async (t) => {
  const path = temporaryFile('contents')
  using reading = Descriptor.from(openSync(path, 'r'))
  await isRefused(t, reading, 'toWriteStream', /opened for reading only/)
  t.is(readAll(reading.fd), 'contents')
  using writing = Descriptor.from(openSync(path, 'a'))
  await isRefused(t, writing, 'toReadStream', /opened for writing only/)
  const stream = writing.duplicate().toWriteStream()
  stream.end(' and more')
  await once(stream, 'close')
  using after = Descriptor.from(openSync(path, 'r'))
  t.is(readAll(after.fd), 'contents and more')
})

test('a descriptor that is closed or given away has no casts', async (t) => {
  const descriptor = Descriptor.from(openFile())
  descriptor.closeSync()
  for (const method of methods) {
    const call = () => loose(descriptor, method)()
    if (method === 'toServer') await rejects(t, method, CLOSED, call)
    else throws(t, method, CLOSED, call)
  }
  const prototype = Object.create(Descriptor.prototype) as Descriptor
  for (const method of methods) {
    const call = () => loose(prototype, method)()
    if (method === 'toServer') await rejects(t, method, TYPE, call)
    else throws(t, method, TYPE, call)
  }
})

onNode('a cast refuses what no options are, and leaves the descriptor as it was', async (t) => {
  const [read, write] = pipe()
  using listener = bindListener({ port: 0 })
  using file = Descriptor.from(openFile('contents'))
  const streams = [
    ...notOptions.map((options) => [options, TYPE] as const),
    [{ start: 'x' }, TYPE] as const,
    [{ start: -1 }, RANGE] as const,
    [{ start: 1.5 }, RANGE] as const,
    [{ highWaterMark: -1 }, VALUE] as const
  ]
  for (const [options, code] of streams) {
    throws(t, inspect(options), code, () => loose(file, 'toReadStream')(options))
    throws(t, inspect(options), code, () => loose(file, 'toWriteStream')(options))
  }
  for (const options of notOptions) {
    throws(t, inspect(options), TYPE, () => loose(read, 'toSocket')(options))
    await rejects(t, inspect(options), TYPE, () => loose(listener, 'toServer')(options))
  }
  for (const signal of [null, 5, 'signal', {}, new AbortController()]) {
    throws(t, inspect(signal), TYPE, () => loose(read, 'toSocket')({ signal }))
  }
  t.is(readAll(file.fd), 'contents')
  t.is(listener.kind, 'tcp-listener')
  const [reader, writer] = [read.toSocket(), write.toSocket()]
  writer.end('works')
  t.is(await readToEnd(reader), 'works')
})

onNode('allowHalfOpen is passed on, and without it the other end of a connection is closed too', async (t) => {
  for (const allowHalfOpen of [true, false]) {
    const [here, there] = socketpair()
    const socket = Descriptor.from(there.release()).toSocket({ allowHalfOpen })
    t.is(socket.allowHalfOpen, allowHalfOpen)
    here.shutdown('write')
    await once(socket.resume(), 'end')
    if (allowHalfOpen) {
      socket.end('after the end')
      t.is(Buffer.from((await here.recv())!.data).toString(), 'after the end')
    }
    t.is(await here.recv(), null)
    here.close()
  }
  using listener = bindListener({ path: newPath() })
  const server = (await listener.duplicate().toServer({ allowHalfOpen: true, pauseOnConnect: true })) as Server & {
    allowHalfOpen: boolean
  }
  t.true(server.allowHalfOpen)
  server.close()
})

onNode('a signal ends a cast socket, and closes its descriptor', async (t) => {
  const abortion = new AbortController()
  const [here, there] = socketpair()
  const socket = Descriptor.from(there.release()).toSocket({ signal: abortion.signal })
  const failed = once(socket, 'error') as Promise<[Error]>
  abortion.abort()
  t.is((await failed)[0].name, 'AbortError')
  t.is(await here.recv(), null)
  here.close()
})

onNode('a signal that is aborted already leaves the descriptor as it was', async (t) => {
  const [here, there] = socketpair()
  const descriptor = Descriptor.from(there.release())
  const reason = new Error('the reason')
  const error = t.throws(() => descriptor.toSocket({ signal: AbortSignal.abort(reason) }), { code: 'ABORT_ERR' })
  t.is(error!.cause, reason)
  const own = descriptor.toUnixSocket()
  await own.send('works')
  t.is(Buffer.from((await here.recv())!.data).toString(), 'works')
  own.close()
  t.is(await here.recv(), null)
  here.close()
})

/** Whether a descriptor's description is in non-blocking mode. */
const isNonBlocking = (descriptor: Descriptor) => (statusFlags(descriptor.fd) & constants.O_NONBLOCK) !== 0

onLinux(
  'Node switches what it makes its own to non-blocking mode, which is shared; setBlocking switches it back',
  (t) => {
    const [read, write] = pipe()
    using kept = read.duplicate()
    t.false(isNonBlocking(kept))
    const socket = read.toSocket()
    t.true(isNonBlocking(kept))
    kept.setBlocking(true)
    t.false(isNonBlocking(kept))
    socket.destroy()
    using other = write.duplicate()
    for (const blocking of [false, false, true, true, false]) {
      write.setBlocking(blocking)
      t.is(isNonBlocking(other), !blocking)
    }
    for (const blocking of [undefined, null, 0, 1, 'true', {}]) {
      throws(t, inspect(blocking), TYPE, () => (loose(write, 'setBlocking') as Loose)(blocking))
    }
    t.true(isNonBlocking(other))
    write.closeSync()
    // O_PATH, as in fcntl.h.
    using place = Descriptor.from(openSync('/', 0o10000000))
    throws(t, 'O_PATH', 'EBADF', () => place.setBlocking(false))
  }
)

onLinux('memory and devices become streams', async (t) => {
  const memory = memfd({ data: 'contents' })
  const writer = memory.duplicate().toWriteStream({ start: 8 })
  writer.end(' and more')
  await once(writer, 'close')
  t.is(await readToEnd(memory.toReadStream({ start: 4 })), 'ents and more')
  t.is(await readToEnd(Descriptor.from(openSync('/dev/null', 'r')).toReadStream()), '')
})

onNode('a server casts, accepts, and can be cast again from what it was sent as', async (t) => {
  const path = newPath()
  const server = await bindListener({ path }).toServer()
  const [a, b] = socketpair()
  await a.sendFd(server)
  const again = (await b.recvFd())!.fd!.toUnixServer()
  server.close()
  const client = new Socket().connect(path)
  const connection = await again.accept()
  await connection.send('accepted')
  connection.close()
  t.is(await readToEnd(client), 'accepted')
  again.close()
  a.close()
  b.close()
})

test('of two calls of toServer at a time, one gets the descriptor', async (t) => {
  const listener = bindListener({ host: '127.0.0.1', port: 0 })
  const [first, second] = await Promise.allSettled([listener.toServer(), listener.toServer()])
  t.is(first.status, 'fulfilled')
  t.like(second, { status: 'rejected', reason: { code: 'ERR_DESCRIPTOR_CLOSED' } })
  if (first.status === 'fulfilled') first.value.close()
})
