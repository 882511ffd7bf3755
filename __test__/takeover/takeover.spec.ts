import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, get } from 'node:http'
import { type AddressInfo, type Server, type Socket, connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Channel, Descriptor, bindListener, connect, listen as listenAt } from 'fdpass'
import { type Takeover, type TakeoverOptions, takeover } from 'fdpass/takeover'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { readAllOf } from '../helpers/connections.ts'
import { isOpen, openFile, readAll, sameFile, temporaryFolder } from '../helpers/descriptors.ts'
import { runs } from '../helpers/programs.ts'
import { isPending } from '../helpers/promises.ts'
import { until } from '../helpers/superservers.ts'

const folder = temporaryFolder()
let paths = 0

const newPath = () => join(folder, `x${paths++}`)

/** Takes over, or begins; what it has does not outlive the test. */
async function open(t: ExecutionContext, options: TakeoverOptions): Promise<Takeover> {
  const place = await takeover(options)
  t.teardown(() => {
    place.close()
    for (const listener of Object.values(place.listeners)) listener.closeSync()
  })
  return place
}

/** As `open`, and is ready. */
async function begin(t: ExecutionContext, options: TakeoverOptions): Promise<Takeover> {
  const place = await open(t, options)
  await place.ready()
  return place
}

const portOf = ({ address }: Descriptor) => (address as AddressInfo).port

/** Asks over a new connection, and gives the answer. */
async function ask(to: number | string): Promise<string> {
  const socket = typeof to === 'number' ? dial(to, '127.0.0.1') : dial(to)
  return (await readAllOf(socket)).toString()
}

/** A server that says a word on each connection. */
const saying = (word: string) => createServer((connection) => connection.end(word))

const tcp = { http: 'tcp:127.0.0.1:0' }

test('the first process opens what is listened on; the next one gets the same sockets, and serves from its ready on', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  t.is(old.predecessor, null)
  const oldEnded = old.serve(saying('old'), 'http')
  const port = portOf(old.listeners.http!)
  t.is(await ask(port), 'old')
  const next = await open(t, { path, listen: tcp })
  t.is(next.predecessor!.pid, process.pid)
  t.is(portOf(next.listeners.http!), port)
  void next.serve(saying('next'), 'http')
  for (let i = 0; i < 10; i++) t.is(await ask(port), 'old')
  t.true(await isPending(old.superseded))
  await next.ready()
  t.is((await old.superseded).credentials.uid, process.getuid!())
  await oldEnded
  for (let i = 0; i < 10; i++) t.is(await ask(port), 'next')
})

test('listeners, ready and superseded can be taken out of the result', async (t) => {
  const path = newPath()
  const { listeners, ready, superseded } = await open(t, { path, listen: tcp })
  await ready()
  t.is(listeners.http!.kind, 'tcp-listener')
  const next = await begin(t, { path })
  await superseded
  t.deepEqual(Object.keys(next.listeners), [])
})

test('the open connections of an old HTTP server end with their next answer', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const port = portOf(old.listeners.http!)
  const http = createHttpServer((_request, response) => void response.end('old'))
  const ended = old.serve(http, 'http')
  const client = dial(port, '127.0.0.1')
  const request = async () => {
    client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    return String((await once(client, 'data'))[0])
  }
  t.regex(await request(), /keep-alive[^]*old/)
  await begin(t, { path, listen: tcp })
  await old.superseded
  t.true(await isPending(ended))
  t.regex(await request(), /Connection: close[^]*old/)
  await once(client, 'end')
  await ended
})

test('close has a server finish what it has, and listens no more', async (t) => {
  const path = newPath()
  const place = await begin(t, { path, listen: tcp })
  const port = portOf(place.listeners.http!)
  let answer: (() => void) | undefined
  const ended = place.serve(
    createServer((connection) => void (answer = () => connection.end('late'))),
    'http'
  )
  const asked = ask(port)
  await until(() => answer !== undefined)
  place.close()
  await t.throwsAsync(ask(port), { code: 'ECONNREFUSED' })
  t.true(await isPending(ended))
  answer!()
  t.is(await asked, 'late')
  await ended
})

test('a server that is not begun yet is left alone by close', async (t) => {
  const place = await open(t, { path: newPath(), listen: tcp })
  const server = saying('never')
  const ended = place.serve(server, 'http')
  place.close()
  await ended
  t.false(server.listening)
  t.throws(() => place.listeners.http!.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  await t.throwsAsync(place.ready(), { code: 'ERR_INVALID_STATE' })
})

test('bytes and descriptors are left to the successor; a Descriptor is given away', async (t) => {
  const path = newPath()
  const given = Descriptor.from(openFile('given'))
  const lent = openFile('lent')
  await begin(t, { path, state: () => ({ data: 'counters: 3', fds: [given, lent] }) })
  const { predecessor } = await begin(t, { path })
  const { state, fds } = predecessor!
  t.is(Buffer.from(state).toString(), 'counters: 3')
  t.deepEqual(
    fds.map((fd) => readAll(fd.fd)),
    ['given', 'lent']
  )
  t.throws(() => given.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.true(isOpen(lent))
  closeSync(lent)
  for (const fd of fds) fd.closeSync()
})

test('state may be bytes alone, a promise, or nothing', async (t) => {
  const path = newPath()
  await begin(t, { path, state: () => Promise.resolve(Buffer.from([1, 0, 255])) })
  const second = await begin(t, { path, state: () => 'text' })
  t.deepEqual([...second.predecessor!.state], [1, 0, 255])
  const third = await begin(t, { path })
  t.is(Buffer.from(third.predecessor!.state).toString(), 'text')
  const fourth = await begin(t, { path })
  t.is(fourth.predecessor!.state.length, 0)
  t.deepEqual(fourth.predecessor!.fds, [])
})

test('16 MiB of state arrive whole', async (t) => {
  const path = newPath()
  const state = Buffer.alloc(16 * 2 ** 20 + 5, 'state')
  await begin(t, { path, state: () => state })
  const next = await begin(t, { path })
  t.true(state.equals(next.predecessor!.state))
})

test("what the state function throws is the successor's error, and the old process serves on", async (t) => {
  const path = newPath()
  let fails = true
  const old = await begin(t, {
    path,
    state() {
      if (fails) throw Object.assign(new Error('not now'), { code: 'EBUSY' })
      return 'now'
    }
  })
  await t.throwsAsync(takeover({ path }), { code: 'EBUSY', message: 'not now' })
  fails = false
  t.true(await isPending(old.superseded))
  t.is(Buffer.from((await begin(t, { path })).predecessor!.state).toString(), 'now')
})

test('a state function may fail with an error that reads as if the process had gone', async (t) => {
  for (const code of ['ECONNRESET', 'EPIPE']) {
    const path = newPath()
    const old = await begin(t, {
      path,
      state() {
        throw Object.assign(new Error('the upstream has gone'), { code })
      }
    })
    const since = performance.now()
    await t.throwsAsync(takeover({ path, timeout: 5000 }), { code, message: 'the upstream has gone' })
    t.true(performance.now() - since < 4000) // and not by being tried until the time is up
    t.true(await isPending(old.superseded))
  }
})

test('a state that is none is told to the successor', async (t) => {
  const path = newPath()
  await begin(t, { path, state: (() => 5) as never })
  await t.throwsAsync(takeover({ path }), { code: 'ERR_INVALID_RETURN_VALUE' })
})

test("a successor that goes before it is ready changes nothing; the state's signal tells", async (t) => {
  const path = newPath()
  const signals: AbortSignal[] = []
  const options: TakeoverOptions = {
    path,
    listen: tcp,
    state(signal) {
      signals.push(signal)
      return ''
    }
  }
  const old = await begin(t, options)
  const port = portOf(old.listeners.http!)
  void old.serve(saying('old'), 'http')
  const failed = await open(t, options)
  failed.close()
  const next = await open(t, options)
  t.deepEqual(
    signals.map((signal) => signal.aborted),
    [true, false]
  )
  t.is(await ask(port), 'old')
  await next.ready()
  await old.superseded
  t.false(signals[1]!.aborted)
})

test('several that start at a time have their turn one after the other', async (t) => {
  const path = newPath()
  const first = await begin(t, { path, state: () => 'first' })
  const second = await open(t, { path, state: () => 'second' })
  const waiting = open(t, { path })
  t.true(await isPending(waiting))
  await second.ready()
  const third = await waiting
  t.is(Buffer.from(third.predecessor!.state).toString(), 'second')
  await first.superseded
  t.true(await isPending(second.superseded))
  await third.ready()
  await second.superseded
})

test('of ten that begin at a time one is first, and the others follow', async (t) => {
  const path = newPath()
  const order: string[] = []
  const all = Array.from({ length: 10 }, async (_, name) => {
    const place = await open(t, { path, listen: tcp, state: () => String(name) })
    order.push(Buffer.from(place.predecessor?.state ?? []).toString())
    await place.ready()
    return place
  })
  const places = await Promise.all(all)
  t.is(order[0], '')
  t.is(new Set(order).size, 10)
  t.is(new Set(places.map(({ listeners }) => portOf(listeners.http!))).size, 1)
})

test('a listener is known by what it is before its name, and what is new is opened', async (t) => {
  const path = newPath()
  const unix = `unix:${newPath()}`
  const old = await begin(t, { path, listen: { a: 'tcp:127.0.0.1:0', b: unix, gone: 'tcp:[::1]:0' } })
  const gone = portOf(old.listeners.gone!)
  const goneEnded = old.serve(saying('gone'), 'gone')
  const next = await open(t, { path, listen: { b: 'tcp:127.0.0.1:0', a: unix, c: 'udp:127.0.0.1:0' } })
  t.is(portOf(next.listeners.b!), portOf(old.listeners.a!))
  t.is(next.listeners.a!.address, unix.slice('unix:'.length))
  t.is(next.listeners.c!.kind, 'udp')
  await next.ready()
  await goneEnded
  await t.throwsAsync(
    once(dial(gone, '::1'), 'connect'),
    { code: 'ECONNREFUSED' },
    'what nobody wants any more is closed'
  )
})

test('what is listened on may be said as to bindListener, and be a descriptor', async (t) => {
  const path = newPath()
  const socket = newPath()
  const made = bindListener({ port: 0, host: '127.0.0.1' })
  const listen = { unix: { path: socket, mode: 0o600 }, tcp: { port: 0, host: '::1' }, made }
  const first = await begin(t, { path, listen })
  t.is(statSync(socket).mode & 0o777, 0o600)
  t.is((first.listeners.tcp!.address as AddressInfo).family, 'IPv6')
  t.is(portOf(first.listeners.made!), portOf(made))
  const next = await begin(t, { path, listen })
  t.is(portOf(next.listeners.tcp!), portOf(first.listeners.tcp!))
  t.is(portOf(next.listeners.made!), portOf(made))
  made.closeSync()
  void next.serve(saying('made'), 'made')
  t.is(await ask(portOf(first.listeners.made!)), 'made')
})

test('a UDP socket goes on: what was sent meanwhile is received by the successor', async (t) => {
  const path = newPath()
  const listen = { dns: 'udp:127.0.0.1:0' }
  const old = await begin(t, { path, listen })
  const receiving = old.listeners.dns!.toDatagramSocket()
  const { port } = receiving.address()
  const client = createSocket('udp4')
  t.teardown(() => client.close())
  const send = (word: string) => client.send(word, port, '127.0.0.1')
  send('one')
  t.is(String((await once(receiving, 'message'))[0]), 'one')
  const next = await open(t, { path, listen })
  await next.ready()
  await old.superseded
  receiving.close()
  send('two')
  await delay(20)
  const theirs = next.listeners.dns!.toDatagramSocket()
  t.teardown(() => void theirs.close())
  t.is(String((await once(theirs, 'message'))[0]), 'two')
  t.is(theirs.address().port, port)
})

test('the files of sockets stay while anybody serves, and go with the last', async (t) => {
  const [path, socket] = [newPath(), newPath()]
  const listen = { unix: `unix:${socket}` }
  const places: Takeover[] = []
  for (let i = 0; i < 3; i++) {
    const place = await begin(t, { path, listen })
    void place.serve(saying(String(i)), 'unix')
    await places.at(-1)?.superseded
    places.push(place)
    t.is(await ask(socket), String(i))
  }
  places[0]!.close()
  places[1]!.close()
  t.is(await ask(socket), '2')
  places[2]!.close()
  t.false(existsSync(socket))
  t.false(existsSync(path))
})

test('the files of sockets go with the old process where a successor has failed', async (t) => {
  const [path, socket] = [newPath(), newPath()]
  const listen = { unix: `unix:${socket}` }
  let attempt: AbortSignal | undefined
  const old = await begin(t, { path, listen, state: (signal) => ((attempt = signal), '') })
  const failed = await open(t, { path, listen: { ...listen, other: `unix:${newPath()}` } })
  const other = failed.listeners.other!.address as string
  t.true(existsSync(other))
  failed.close()
  t.false(existsSync(other))
  t.true(existsSync(socket))
  const last = await open(t, { path, listen })
  last.close()
  await until(() => attempt!.aborted) // the old process has noticed
  old.close()
  t.false(existsSync(socket))
  t.false(existsSync(path))
})

test('a process that ends while its successor starts leaves it everything', async (t) => {
  const [path, socket] = [newPath(), newPath()]
  const listen = { unix: `unix:${socket}` }
  const old = await begin(t, { path, listen })
  const next = await open(t, { path, listen })
  old.close()
  void next.serve(saying('next'), 'unix')
  await next.ready()
  t.is(await ask(socket), 'next')
  const third = await begin(t, { path, listen })
  await next.superseded
  void third.serve(saying('third'), 'unix')
  t.is(await ask(socket), 'third')
  third.close()
  t.false(existsSync(socket))
})

test('a file that has taken the place of a socket is not removed', async (t) => {
  const [path, socket] = [newPath(), newPath()]
  const listen = { unix: `unix:${socket}` }
  await begin(t, { path, listen })
  const next = await open(t, { path, listen })
  execFileSync('rm', [socket])
  writeFileSync(socket, 'mine')
  await next.ready()
  next.close()
  t.true(existsSync(socket))
})

test('a successor that takes too long is left out, and learns so when it is ready', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp, timeout: 2000 })
  void old.serve(saying('old'), 'http')
  const slow = await open(t, { path, listen: tcp })
  const next = await open(t, { path, listen: tcp, timeout: 20_000 })
  await t.throwsAsync(slow.ready(), { code: 'ETIMEDOUT', message: /not ready within 2000 ms/ })
  t.is(await ask(portOf(next.listeners.http!)), 'old')
  await next.ready()
  await old.superseded
  t.true(await isPending(slow.superseded))
})

test('a successor that was left out does not take the end of the old process for its turn', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, timeout: 2000 })
  const slow = await open(t, { path })
  await delay(4000)
  old.close()
  await t.throwsAsync(slow.ready(), { code: 'ETIMEDOUT' })
})

test('a process waits for a busy one for no longer than its timeout', async (t) => {
  const path = newPath()
  await begin(t, { path })
  await open(t, { path })
  await t.throwsAsync(takeover({ path, timeout: 100 }), { code: 'ETIMEDOUT', message: /100 ms/ })
})

test('an abort ends the wait, and changes nothing', async (t) => {
  const path = newPath()
  await begin(t, { path })
  const busy = await open(t, { path })
  const controller = new AbortController()
  const waiting = takeover({ path, signal: controller.signal })
  t.true(await isPending(waiting))
  controller.abort('enough')
  const error = await t.throwsAsync(waiting, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is(error.cause, 'enough')
  await t.throwsAsync(takeover({ path, signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  await busy.ready()
  await begin(t, { path })
})

test('who is not allowed is told so, before it gets anything, and the old process serves on', async (t) => {
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
  await t.throwsAsync(takeover({ path, listen: tcp }), { code: 'EACCES', message: /user \d+ is not allowed/ })
  t.deepEqual(asked, [process.pid])
  t.true(await isPending(old.superseded))
})

test("what allow throws is the other end's error", async (t) => {
  const path = newPath()
  await begin(t, { path, allow: () => Promise.reject(new TypeError('a mistake')) })
  await t.throwsAsync(takeover({ path }), { message: 'a mistake' })
  const other = newPath()
  await begin(t, { path: other, allow: (() => 'yes') as never })
  await t.throwsAsync(takeover({ path: other }), { code: 'ERR_INVALID_RETURN_VALUE' })
})

test('a predecessor that is not allowed is not dealt with', async (t) => {
  const path = newPath()
  const old = await begin(t, { path })
  await t.throwsAsync(takeover({ path, allow: () => false }), {
    code: 'EACCES',
    message: /what listens there is of user/
  })
  t.true(await isPending(old.superseded))
})

test("only this process's user may connect, unless mode says otherwise", async (t) => {
  const [path, other] = [newPath(), newPath()]
  await begin(t, { path })
  await begin(t, { path: other, mode: 0o660 })
  t.is(statSync(path).mode & 0o777, 0o600)
  t.is(statSync(other).mode & 0o777, 0o660)
})

test('a path that has something else is an error, and stays', async (t) => {
  const [file, server] = [newPath(), newPath()]
  writeFileSync(file, 'mine')
  await t.throwsAsync(takeover({ path: file }), { code: 'EADDRINUSE' })
  t.true(existsSync(file))
  const other = createServer((connection) => connection.end('HTTP/1.1 400 Bad Request\r\n\r\n')).listen(server)
  await once(other, 'listening')
  await t.throwsAsync(takeover({ path: server }), { code: 'EPROTO' })
  other.close()
})

test('a path whose process says nothing is given up', async (t) => {
  const path = newPath()
  const server = createServer(() => {}).listen(path)
  await once(server, 'listening')
  await t.throwsAsync(takeover({ path, timeout: 100 }), { code: 'ETIMEDOUT' })
  server.close()
})

test('what is listened on that cannot be opened leaves the old process as it was', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const port = portOf(old.listeners.http!)
  void old.serve(saying('old'), 'http')
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const busy = `tcp:127.0.0.1:${(taken.address() as AddressInfo).port}`
  await t.throwsAsync(takeover({ path, listen: { ...tcp, busy } }), { code: 'EADDRINUSE' })
  t.is(await ask(port), 'old')
  await begin(t, { path, listen: tcp })
  await old.superseded
  taken.close()
})

const questions: Record<string, unknown> = {
  'something unknown': 'listeners',
  'a wish of a later version': { ask: 'listeners', version: 2, listen: [], connections: false },
  'a wish without listeners': { ask: 'listeners', version: 1 },
  'to be ready before it has anything': { ask: 'ready' },
  'the state before the listeners': { ask: 'state' }
}
for (const [what, value] of Object.entries(questions)) {
  test(`a process that asks for ${what} is refused, and the old one serves on`, async (t) => {
    const path = newPath()
    const old = await begin(t, { path })
    const channel = new Channel(await connect(path))
    await t.throwsAsync(channel.request(value, [0]), { code: 'EPROTO' })
    channel.close()
    const next = await begin(t, { path })
    await old.superseded
    t.is(next.predecessor!.pid, process.pid)
  })
}

test('bytes that are no protocol are refused, and the old process serves on', async (t) => {
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
  test(`a predecessor that gives ${what} is an error`, async (t) => {
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

async function openPair(t: ExecutionContext, options: Partial<TakeoverOptions> = {}): Promise<[Takeover, Takeover]> {
  const path = newPath()
  const old = await begin(t, { path })
  return [old, await begin(t, { path, ...options })]
}

/** A connection to hand over, and its client. */
async function openLive(t: ExecutionContext): Promise<{ client: Socket; ours: Socket }> {
  const server: Server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = dial({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => void client.destroy())
  const [[ours]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[Socket], unknown]
  server.close()
  return { client, ours }
}

test('live connections go to the successor, with what was read, a name and a state', async (t) => {
  const [old, next] = await openPair(t, { connections: true })
  const successor = await old.superseded
  t.true(successor.takesConnections)
  const { client, ours } = await openLive(t)
  client.write('read by the old process, ')
  await once(ours, 'readable')
  await successor.handOver(ours, { name: '/chat', state: 'user 5' })
  t.true(ours.destroyed)
  for await (const { socket, name, state } of next.predecessor!.connections({ allowHalfOpen: true })) {
    t.is(name, '/chat')
    t.is(Buffer.from(state).toString(), 'user 5')
    client.end('and by the new one')
    t.is((await readAllOf(socket)).toString(), 'read by the old process, and by the new one')
    socket.end('answered')
    break
  }
  t.is((await readAllOf(client)).toString(), 'answered')
})

test('100 connections with states of any bytes arrive in order; the iteration ends with the old process', async (t) => {
  const [old, next] = await openPair(t, { connections: true })
  const successor = await old.superseded
  const sent = (async () => {
    for (let i = 0; i < 100; i++) {
      const { ours } = await openLive(t)
      await successor.handOver(ours, { name: 'ü'.repeat(i), state: Buffer.alloc(i * 1000, i) })
    }
    old.close()
  })()
  let count = 0
  for await (const { socket, name, state } of next.predecessor!.connections()) {
    t.is(name, 'ü'.repeat(count))
    t.true(Buffer.alloc(count * 1000, count).equals(state))
    socket.destroy()
    count++
  }
  await sent
  t.is(count, 100)
})

test('a successor that asks for no connections gets none', async (t) => {
  const [old, next] = await openPair(t)
  const successor = await old.superseded
  t.false(successor.takesConnections)
  const { client, ours } = await openLive(t)
  await t.throwsAsync(successor.handOver(ours), { code: 'ERR_INVALID_STATE' })
  ours.end('here')
  t.is((await readAllOf(client)).toString(), 'here')
  t.throws(() => next.predecessor!.connections(), { code: 'ERR_INVALID_STATE' })
})

test('connections are not lost where the successor has gone', async (t) => {
  const [old, next] = await openPair(t, { connections: true })
  const successor = await old.superseded
  next.close()
  const { client, ours } = await openLive(t)
  await t.throwsAsync(successor.handOver(ours, { name: 'x' }), { code: 'EPIPE' })
  ours.end('still here')
  t.is((await readAllOf(client)).toString(), 'still here')
})

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
    [{ path, listen: { a: { path: 'relative' } } }, value],
    [{ path, listen: { a: 'tcp:127.0.0.1:81', b: 'tcp:127.0.0.1:81' } }, value],
    [{ path, mode: 0o1000 }, range],
    [{ path, allow: true }, type],
    [{ path, state: 'text' }, type],
    [{ path, connections: 1 }, type],
    [{ path, timeout: 0 }, range],
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

test('ready may be called twice, and serve for several listeners', async (t) => {
  const listen = { a: 'tcp:127.0.0.1:81', b: { host: '127.0.0.1', port: 81 } }
  await t.throwsAsync(takeover({ path: newPath(), listen }), { message: /same as 'a'/ })
  const place = await open(t, { path: newPath(), listen: { a: 'tcp:127.0.0.1:0', b: `unix:${newPath()}` } })
  const address = place.listeners.b!.address as string
  const port = portOf(place.listeners.a!)
  void place.serve(saying('a'), 'a')
  void place.serve(
    createHttpServer((_request, response) => void response.end('b')),
    'b'
  )
  t.is(place.ready(), place.ready())
  await place.ready()
  t.is(await ask(port), 'a')
  const [response] = (await once(get({ socketPath: address }), 'response')) as [NodeJS.ReadableStream]
  t.is(await text(response), 'b')
})

onlyIf(runs('ss', '--version'), 'needs ss')(
  'a listener has 4,096 places for connections that wait, or as many as it is said, and a server leaves it that',
  async (t) => {
    const places = { usual: 'tcp:127.0.0.1:0', few: { port: 0, host: '127.0.0.1', backlog: 77 } }
    const path = newPath()
    const backlogs = () =>
      Object.values(ports).map((port) => {
        const shown = execFileSync('ss', ['-Hltn', `sport = :${port}`], { encoding: 'utf8' })
        return Number(shown.trim().split(/\s+/)[2])
      })
    const most = Math.min(4096, Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8')))
    const place = await open(t, { path, listen: places })
    const ports = { usual: portOf(place.listeners.usual!), few: portOf(place.listeners.few!) }
    t.deepEqual(backlogs(), [most, 77])
    for (const name of ['usual', 'few']) void place.serve(saying(name), name)
    await place.ready()
    t.is(await ask(ports.few), 'few')
    t.deepEqual(backlogs(), [most, 77])
    const next = await begin(t, { path, listen: places })
    for (const name of ['usual', 'few']) void next.serve(saying(`${name} next`), name)
    await place.superseded
    t.is(await ask(ports.few), 'few next')
    t.deepEqual(backlogs(), [most, 77])
  }
)

onlyIf(isLinux, 'abstract addresses are Linux')('an abstract address can be the meeting place', async (t) => {
  const path = `\0fdpass-takeover-${process.pid}`
  const old = await begin(t, { path, listen: { x: `unix:\0fdpass-takeover-x-${process.pid}` } })
  const next = await begin(t, { path, listen: { x: `unix:\0fdpass-takeover-x-${process.pid}` } })
  await old.superseded
  t.is(next.listeners.x!.kind, 'unix-listener')
})

onlyIf(isLinux, 'compares open files by their inodes')(
  'the very same socket comes, and not a second one',
  async (t) => {
    const path = newPath()
    const old = await begin(t, { path, listen: tcp })
    const next = await begin(t, { path, listen: tcp })
    t.true(sameFile(old.listeners.http!.fd, next.listeners.http!.fd))
  }
)
