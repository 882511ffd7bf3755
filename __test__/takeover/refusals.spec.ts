import { once } from 'node:events'
import { closeSync, existsSync, symlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import test from 'ava'
import { Channel, bindListener, connect, listen as listenAt, socketpair } from 'fdpass'
import { takeover } from 'fdpass/takeover'
import { CLOSE, REQUEST, frame, receiveFrame } from '../helpers/channels.ts'
import { hasWriter, newPath, openFile, openPipe } from '../helpers/descriptors.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'
import { begin, tcp } from '../helpers/takeovers.ts'

test('a process that is not allowed is refused before it gets anything, and the old process serves on [S61]', async (t) => {
  const path = newPath()
  const asked: number[] = []
  const old = await begin(t, {
    path,
    listen: tcp,
    allow({ pid, uid }) {
      asked.push(pid!)
      return uid !== process.getuid!()
    },
    state: () => t.fail() as never
  })
  await t.throwsAsync(takeover({ path, listen: tcp }), { code: 'EACCES', message: /does not allow user \d+/ })
  t.deepEqual(asked, [process.pid])
  t.true(await isPending(old.superseded))
})

test.serial(
  'what allow throws is a warning here, and the other process is refused without it [S7] [S161]',
  async (t) => {
    const mistakes: [() => never, RegExp][] = [
      [() => Promise.reject(new TypeError('a secret mistake')) as never, /takeover: a secret mistake/],
      [() => 'yes' as never, /takeover: Expected a boolean/]
    ]
    for (const [allow, message] of mistakes) {
      const path = newPath()
      await begin(t, { path, allow })
      const warned = once(process, 'warning') as Promise<[Error]>
      await t.throwsAsync(takeover({ path }), { code: 'EACCES', message: /^EACCES: .* does not allow user \d+/ })
      t.regex((await warned)[0].message, message)
    }
  }
)

test('a process that is refused gets the reason, and nothing of it is received [S162]', async (t) => {
  const path = newPath()
  const { read, write } = openPipe()
  const decisions: ((isAllowed: boolean) => void)[] = []
  await begin(t, { path, allow: () => new Promise((resolve) => decisions.push(resolve)) })
  const socket = await connect(path)
  const large = frame(REQUEST, new Uint8Array(4096), { length: 2 ** 30, fds: 4048 })
  await socket.send(large.subarray(0, 1), { fds: Array<number>(253).fill(write) })
  await socket.send(large.subarray(1))
  closeSync(write)
  while (decisions.length === 0) await turns(1)
  t.true(hasWriter(read))
  decisions[0]!(false)
  const { kind, data } = (await receiveFrame(socket))!
  t.is(kind, CLOSE)
  t.is((JSON.parse(String(data)) as { code: string }).code, 'EACCES')
  while (hasWriter(read)) await turns(1) // closed on another thread, after shutdown(2)
  closeSync(read)
  await t.throwsAsync(socket.recv(), { code: 'ECONNRESET' })
  socket.close()
})

test('a predecessor that is not allowed is not dealt with [S61]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path })
  await t.throwsAsync(takeover({ path, allow: () => false }), {
    code: 'EACCES',
    message: /the listening process runs as user/
  })
  t.true(await isPending(old.superseded))
})

test('a path whose process does not answer is given up [S64]', async (t) => {
  const path = newPath()
  const server = createServer(() => {}).listen(path)
  await once(server, 'listening')
  await t.throwsAsync(takeover({ path, timeout: 100 }), { code: 'ETIMEDOUT' })
  server.close()
})

const questions: Record<string, unknown> = {
  'something unknown': 'listeners',
  'a wish of a later version': { ask: 'listeners', version: 2, listen: [], connections: false },
  'a wish without listeners': { ask: 'listeners', version: 1 },
  'to be ready before it has anything': { ask: 'ready' },
  'the state before the listeners': { ask: 'state' }
}

for (const [what, value] of Object.entries(questions)) {
  test(`a process that requests ${what} is refused, and the old one serves on [S63]`, async (t) => {
    const path = newPath()
    const old = await begin(t, { path })
    const channel = new Channel(await connect(path))
    await t.throwsAsync(channel.request(value), { code: 'EPROTO' })
    channel.close()
    const next = await begin(t, { path })
    await old.superseded
    t.is(next.predecessor!.pid, process.pid)
  })
}

for (const [what, send] of Object.entries({
  'a request of more than 1 MiB': (channel: Channel) => channel.request(new Uint8Array(1024 * 1024 + 1)),
  'a request with descriptors': (channel: Channel) => channel.request({ ask: 'state' }, [0]),
  'a message': (channel: Channel) => channel.send('hello').then(() => channel.receive())
})) {
  test(`${what} ends a successor's turn, and the old process serves on [S273]`, async (t) => {
    const path = newPath()
    const old = await begin(t, { path })
    const channel = new Channel(await connect(path))
    await t.throwsAsync(send(channel), { code: what === 'a message' ? 'EPROTO' : 'EMSGSIZE' })
    const next = await begin(t, { path })
    await old.superseded
    t.is(next.predecessor!.pid, process.pid)
    channel.close()
  })
}

test('a process that requests the listeners twice is refused, and the old one serves on [S63]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path })
  const channel = new Channel(await connect(path))
  const question = { ask: 'listeners', version: 1, listen: [], connections: false }
  for (const fd of (await channel.request(question)).fds) fd.closeSync()
  const message = /the successor requested the listeners twice/
  await t.throwsAsync(channel.request(question), { code: 'EPROTO', message })
  channel.close()
  const next = await begin(t, { path })
  await old.superseded
  t.is(next.predecessor!.pid, process.pid)
})

test('bytes that are no protocol are refused, and the old process serves on [S63]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path })
  const hostile = await connect(path)
  await hostile.send('GET / HTTP/1.1\r\n\r\n'.repeat(100))
  const next = await begin(t, { path })
  await old.superseded
  t.is(next.predecessor!.pid, process.pid)
  hostile.close()
})

const answers: Record<string, (listener: number) => [unknown, number[]]> = {
  'nothing of the kind': () => ['hello', []],
  'fewer listeners than it says': () => [{ pid: 1, control: null, listeners: [{ file: null }] }, []],
  'a file in the place of a listener': (listener) => [
    { pid: 1, control: null, listeners: [{ file: null }] },
    [listener, openFile('no listener')]
  ],
  'a file name that is none': (listener) => [{ pid: 1, control: '../x', listeners: [null] }, [listener]],
  'more listeners than were asked for': (listener) => [
    { pid: 1, control: null, listeners: [{ file: null }, { file: null }] },
    [listener, listener, listener]
  ]
}

for (const [what, answer] of Object.entries(answers)) {
  test(`a predecessor that sends ${what} is an error [S64]`, async (t) => {
    const path = newPath()
    const server = await listenAt(path)
    const unix = bindListener({ path: newPath() })
    const serving = (async () => {
      const channel = new Channel(await server.accept())
      const [value, fds] = answer(unix.fd)
      channel.onRequest(({ value: wish }) => ((wish as { ask: string }).ask === 'state' ? undefined : { value, fds }))
      await channel.closed
    })()
    await t.throwsAsync(takeover({ path, listen: tcp }), { code: 'EPROTO' })
    await serving
    server.close()
    unix.closeSync()
  })
}

test('arguments are checked', async (t) => {
  const path = newPath()
  const type = { code: 'ERR_INVALID_ARG_TYPE' }
  const value = { code: 'ERR_INVALID_ARG_VALUE' }
  const range = { code: 'ERR_OUT_OF_RANGE' }
  const wrong: [unknown, object][] = [
    [undefined, type],
    [5, type],
    [{}, type],
    [{ path: '' }, value],
    [{ path, listen: 'tcp:80' }, type],
    [{ path, listen: { a: 80 } }, type],
    [{ path, listen: { a: 'tcp:x:y' } }, value],
    [{ path, listen: { a: {} } }, value],
    [{ path, listen: { a: { port: 70_000 } } }, range],
    [{ path, listen: { a: { source: 'tcp:x:y' } } }, value],
    [{ path, listen: { a: { source: 80 } } }, type],
    [{ path, listen: { a: { source: 'tcp:0', port: 0 } } }, value],
    [{ path, listen: { a: { path: 'relative' } } }, value],
    [{ path, listen: { a: 'tcp:127.0.0.1:81', b: 'tcp:127.0.0.1:81' } }, value],
    [{ path, mode: 0o1000 }, range],
    [{ path, allow: true }, type],
    [{ path, state: 'text' }, type],
    [{ path, connections: 1 }, type],
    [{ path, timeout: 0 }, range],
    [{ path, drainTimeout: -1 }, range],
    [{ path, signal: {} }, type]
  ]
  for (const [options, error] of wrong) await t.throwsAsync(takeover(options as never), error, JSON.stringify(options))
  const place = await begin(t, { path, listen: { ...tcp, dns: 'udp:127.0.0.1:0' } })
  await t.throwsAsync(place.serve({} as never, 'http'), type)
  await t.throwsAsync(place.serve(createServer(), 'https'), value)
  await t.throwsAsync(place.serve(createServer(), 'toString'), value)
  await t.throwsAsync(place.serve(createServer(), 'dns'), { code: 'ERR_INVALID_FD_TYPE' })
  place.listeners.http!.closeSync()
  await t.throwsAsync(place.serve(createServer(), 'http'), { code: 'ERR_DESCRIPTOR_CLOSED' })
})

test('a symbolic link at the path leads to no other service [S217]', async (t) => {
  const [path, link] = [newPath(), newPath()]
  const other = await begin(t, { path, listen: tcp, state: () => t.fail() as never })
  symlinkSync(path, link)
  await t.throwsAsync(takeover({ path: link, listen: tcp }), { code: 'EACCES', message: /is a link to the socket/ })
  t.true(await isPending(other.superseded))
  t.true(existsSync(path))
  // The old process still removes its file.
  other.close()
  t.false(existsSync(path))
})

test('a service does not take over from another one, whichever end has the name [S218]', async (t) => {
  for (const [old, next] of [
    ['one', 'other'],
    ['', 'other'],
    ['one', undefined]
  ] as const) {
    const path = newPath()
    const place = await begin(t, { path, listen: tcp, service: old, state: () => t.fail() as never })
    const message = `EACCES: the listening process is the service '${old}', not '${next ?? ''}', connect '${path}'`
    await t.throwsAsync(takeover({ path, listen: tcp, service: next }), { code: 'EACCES', message })
    t.true(await isPending(place.superseded))
  }
  const path = newPath()
  const first = await begin(t, { path, listen: tcp, service: 'one' })
  await begin(t, { path, listen: tcp, service: 'one' })
  await t.notThrowsAsync(first.superseded)
  await t.throwsAsync(takeover({ path, service: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
})

test('a predecessor of another service is refused by the successor [S218]', async (t) => {
  const path = newPath()
  using server = await listenAt(path)
  const accepting = server.accept()
  const taking = takeover({ path, service: 'one' })
  const channel = new Channel(await accepting)
  t.teardown(() => channel.close())
  channel.onRequest(() => ({ value: { pid: 1, control: null, service: 'other', listeners: [] }, fds: [server] }))
  await t.throwsAsync(taking, { code: 'EACCES', message: /is the service 'other', not 'one'/ })
})

for (const [what, message] of [
  ['shorter than its header', [0, 0, 0, 3, 1, 2, 3]],
  ['with a name longer than itself', [0, 0, 0, 8, 255, 255, 255, 255, 0, 0, 0, 0]],
  ['with a state longer than itself', [0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 97]]
] as const) {
  test(`a connection ${what} from a predecessor is an error and is closed; the next one is received [S64]`, async (t) => {
    const path = newPath()
    const [ours, theirs] = socketpair()
    const server = await listenAt(path)
    const control = bindListener({ path: newPath() })
    const serving = (async () => {
      const channel = new Channel(await server.accept())
      const value = { pid: 1, control: null, listeners: [] }
      channel.onRequest(({ value: wish }) => {
        return (wish as { ask: string }).ask === 'listeners' ? { value, fds: [control.fd, theirs.fd] } : undefined
      })
      await channel.closed
    })()
    const next = await begin(t, { path, listen: {}, connections: true })
    theirs.close()
    const [client, connection] = socketpair()
    await ours.send(Uint8Array.from(message), { fds: [connection.fd] })
    await ours.send(Uint8Array.from([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]), { fds: [connection.fd] })
    connection.close()
    const received = next.predecessor!.connections()
    await t.throwsAsync(received.next(), { code: 'EPROTO', message: /a connection arrived without its name and state/ })
    const { socket, name, state } = (await next.predecessor!.connections().next()).value!
    t.deepEqual([name, state.length], ['', 0])
    socket.end('the last one')
    t.is(text(await client.recv()), 'the last one')
    t.is(await client.recv(), null) // the first one is closed too
    for (const end of [client, ours]) end.close()
    next.close()
    await serving
    server.close()
    control.closeSync()
  })
}
