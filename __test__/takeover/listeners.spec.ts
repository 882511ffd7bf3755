import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, get } from 'node:http'
import { type AddressInfo, connect as dial, createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { bindListener } from 'fdpass'
import { type Takeover, takeover } from 'fdpass/takeover'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath, sameFile } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { runs } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { ask, begin, open, portOf, saying, tcp } from '../helpers/takeovers.ts'

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

test('listeners may be given as options of bindListener, and as descriptors', async (t) => {
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

test('a source may be given with a backlog and a mode, which apply to the sockets that have them', async (t) => {
  const socket = newPath()
  const choices = { backlog: 5, mode: 0o600 }
  const listen = {
    unix: { source: `unix:${socket}`, ...choices },
    tcp: { source: 'tcp:127.0.0.1:0', ...choices },
    udp: { source: 'udp:127.0.0.1:0', ...choices }
  }
  const { listeners } = await begin(t, { path: newPath(), listen })
  t.is(statSync(socket).mode & 0o777, 0o600)
  t.deepEqual(
    [listeners.unix!.kind, listeners.tcp!.kind, listeners.udp!.kind],
    ['unix-listener', 'tcp-listener', 'udp']
  )
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

test("only this process's user may connect, unless mode says otherwise [S62] [S92]", async (t) => {
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
  'a listener has 4,096 places for connections that wait, or the given number, and a server keeps it',
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
