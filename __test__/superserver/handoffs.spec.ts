import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, existsSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { Agent, type IncomingMessage, get } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import test from 'ava'
import { bindListener, connect as connectUnix } from 'fdpass'
import type { ExitEvent, ProcessEvent } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newPath } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'
import {
  begin,
  call,
  fetchFrom,
  handoffs,
  isThere,
  nextOf,
  onLoopback,
  pidsOf,
  sceneOf,
  where
} from '../helpers/superserver.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

for (const handoff of handoffs) {
  test(`workers that are given each ${handoff} serve HTTP`, async (t) => {
    const server = await begin(t, { ...onLoopback('http'), handoff, workers: 2 })
    const answers = await Promise.all(Array.from({ length: 20 }, () => fetchFrom(where(server))))
    const pids = pidsOf(server).map(String)
    t.is(pids.length, 2)
    t.true(answers.every((pid) => pids.includes(pid)))
  })

  test(`workers that are given each ${handoff} iterate over connections, of TCP and Unix domain sockets`, async (t) => {
    const listen = ['tcp:127.0.0.1:0', `unix:${newPath()}`]
    const server = await begin(t, { ...sceneOf('lines'), listen, handoff, workers: 2 })
    for (const index of [0, 1]) {
      const clients = await Promise.all([1, 2, 3].map(() => call(t, where(server, index))))
      const pids = await Promise.all(clients.map((client) => client.ask('pid')))
      t.true(pids.every((pid) => pidsOf(server).includes(Number(pid))))
      t.deepEqual(await Promise.all(clients.map((client, i) => client.ask(`line ${i}`))), [
        'line 0',
        'line 1',
        'line 2'
      ])
      for (const client of clients) client.say('bye')
      t.deepEqual(await Promise.all(clients.map((client) => client.ended)), ['end', 'end', 'end'])
    }
  })

  test(`reload() with each ${handoff} has new workers before the old ones go, and fails no request meanwhile`, async (t) => {
    const server = await begin(t, { ...onLoopback('http'), handoff, workers: 2 })
    const old = pidsOf(server)
    const events: string[] = []
    const log = (event: string) => (told: ProcessEvent) =>
      events.push(`${event} ${old.includes(told.pid) ? 'old' : 'new'}`)
    for (const event of ['spawn', 'ready', 'exit'] as const) server.on(event, log(event))
    const over = new AbortController()
    const seen = { first: new Set<string>(), last: new Set<string>() }
    let part: keyof typeof seen = 'first'
    const client = async () => {
      let count = 0
      for (; !over.signal.aborted; count++) {
        const begun = part // an answer of before may be noticed after the end of who gave it
        seen[begun].add(await fetchFrom(where(server)))
      }
      return count
    }
    const clients = [client(), client(), client(), client()]
    await until(() => seen.first.size > 0)
    await server.reload()
    t.true(pidsOf(server).filter((pid) => !old.includes(pid)).length === 2)
    await until(() => old.every((pid) => !isThere(pid)))
    part = 'last'
    await until(() => seen.last.size > 0)
    over.abort()
    const counts = await Promise.all(clients)
    t.true(
      counts.every((count) => count > 1),
      counts.join()
    )
    t.false([...seen.last].some((pid) => old.includes(Number(pid))))
    t.deepEqual(events.slice(0, 2), ['spawn new', 'spawn new'])
    t.deepEqual(events.slice(2, 4), ['ready new', 'ready new'])
    t.deepEqual(events.slice(4), ['exit old', 'exit old'])
    t.is(server.stats().lost, 0)
  })

  test(`a reload with each ${handoff} whose module fails rejects and changes nothing`, async (t) => {
    const path = newPath()
    const server = await begin(t, { ...onLoopback('unless', path), handoff })
    const old = pidsOf(server)
    const client = await call(t, where(server))
    t.is(await client.ask('pid'), `${old[0]}`)
    writeFileSync(path, '')
    await t.throwsAsync(server.reload(), { code: 'ERR_WORKER_FAILED', message: /code 6 before.*superserver-worker/ })
    t.deepEqual(pidsOf(server), old)
    t.is(await client.ask('pid'), `${old[0]}`)
    t.is(await (await call(t, where(server))).ask('pid'), `${old[0]}`)
    rmSync(path)
    await server.reload()
    // One that accepts itself may go on until it has seen that it is to go.
    while ((await (await call(t, where(server))).ask('pid')) === `${old[0]}`);
    t.is(await client.ask('still'), 'still')
  })

  test(`close() with each ${handoff} lets clients finish, and refuses new ones`, async (t) => {
    const server = await begin(t, { ...onLoopback('lines'), handoff, workers: 2 })
    const to = where(server)
    const client = await call(t, to)
    await client.ask('hello')
    const exits: ExitEvent[] = []
    server.on('exit', (event) => exits.push(event))
    const closing = server.close()
    t.true(server.closed)
    await until(() => exits.length === 1) // the one without a connection
    t.true(await isPending(closing))
    t.is(await client.ask('still'), 'still')
    await t.throwsAsync(call(t, to), { code: 'ECONNREFUSED' })
    t.is(await client.ask('bye'), 'bye')
    await closing
    t.is(await client.ended, 'end')
    t.deepEqual(
      exits.map(({ code, signal, lost }) => ({ code, signal, lost })),
      [0, 0].map((code) => ({ code, signal: null, lost: 0 }))
    )
    t.deepEqual(server.stats().workers, [])
    await t.throwsAsync(server.reload(), { code: 'ERR_SERVER_CLOSED' })
  })

  test(`close() with each ${handoff} kills workers that take longer than its timeout`, async (t) => {
    const server = await begin(t, { ...onLoopback('stubborn'), handoff })
    const client = await call(t, where(server))
    await client.ask('hello')
    const exit = nextOf<ExitEvent>(server, 'exit')
    await server.close({ timeout: 50 })
    t.like(await exit, {
      code: null,
      signal: 'SIGKILL',
      lost: handoff === 'connection' ? 1 : 0,
      reason: 'drainTimeout'
    })
    t.regex(await client.ended, /end|ECONNRESET/)
  })

  test(`a second close() with each ${handoff} shortens the time of the first`, async (t) => {
    const server = await begin(t, { ...onLoopback('stubborn'), handoff })
    const client = await call(t, where(server))
    await client.ask('hello')
    const first = server.close()
    t.true(await isPending(first))
    await server.close({ timeout: 50 })
    await first
    t.regex(await client.ended, /end|ECONNRESET/)
  })
}

test('net servers, and programs that leave the iteration after each connection, serve one after the other', async (t) => {
  for (const scene of ['serve-lines', 'again']) {
    const server = await begin(t, onLoopback(scene))
    for (let i = 0; i < 5; i++) {
      const client = await call(t, where(server))
      t.is(await client.ask('pid'), `${pidsOf(server)[0]}`)
      t.is(await client.ask('bye'), 'bye')
      t.is(await client.ended, 'end')
    }
    const exit = nextOf<ExitEvent>(server, 'exit')
    await server.close()
    t.like(await exit, { code: 0 }, scene)
  }
})

test("what is under way when HTTP workers are to go is answered, and idle connections don't hold them", async (t) => {
  const server = await begin(t, onLoopback('http'))
  const to = where(server) as { host: string; port: number }
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const [first] = (await once(get({ ...to, agent }), 'response')) as [IncomingMessage]
  t.is(first.headers.connection, 'keep-alive')
  await once(first.resume(), 'end')
  const [slow] = (await once(get({ ...to, path: '/slow', agent: false }), 'response')) as [IncomingMessage]
  const exit = nextOf<ExitEvent>(server, 'exit')
  const closing = server.close()
  let body = ''
  for await (const part of slow.setEncoding('utf8')) body += part as string
  t.is(body, `slow ${(await exit).pid}`)
  await closing
  t.like(await exit, { code: 0, lost: 0 })
})

test('the file of a Unix domain socket has its mode and goes with the superserver; abstract ones have no file', async (t) => {
  const path = newPath()
  const listen = [`unix:${path}`, ...(isLinux ? [`unix:\0${path}`] : [])]
  const server = await begin(t, { ...sceneOf('lines'), listen, socketMode: 0o640 })
  t.is(statSync(path).mode & 0o777, 0o640)
  for (const [index, name] of listen.entries()) {
    t.deepEqual(server.addresses[index], { service: 'service', name, address: name.slice('unix:'.length) })
    // Not by Node's net, which cannot connect to every abstract address (Node 20).
    const client = await connectUnix(name.slice('unix:'.length))
    await client.send('hello\n')
    t.is(text(await client.recv()), 'hello\n')
    client.close()
  }
  await server.close({ timeout: 0 })
  t.false(existsSync(path))
})

onlyIf(process.getuid?.() === 0, 'needs root')(
  'the file of a Unix domain socket has the given owner and group',
  async (t) => {
    const path = newPath()
    const listen = [`unix:${path}`, ...(isLinux ? [`unix:\0${path}`] : [])]
    await begin(t, { ...sceneOf('lines'), listen, socketOwner: 'nobody', socketGroup: 1 })
    t.like(statSync(path), { uid: 65_534, gid: 1 })
  }
)

test('a descriptor that listens stays its owner’s, and accepts when the superserver has gone', async (t) => {
  using listener = bindListener({ host: '127.0.0.1', port: 0 })
  const server = await begin(t, { ...sceneOf('lines'), listen: listener })
  const to = where(server)
  t.is(server.addresses[0]!.name, `tcp:127.0.0.1:${(server.addresses[0]!.address as AddressInfo).port}`)
  t.is(await (await call(t, to)).ask('hello'), 'hello')
  await server.close({ timeout: 0 })
  t.is(listener.kind, 'tcp-listener')
  const own = await listener.toServer()
  t.teardown(() => own.close())
  own.on('connection', (socket) => socket.end('its owner\n'))
  t.is(await (await call(t, to)).next(), 'its owner')
})

test('allowHalfOpen lets a worker answer a client that has ended its half', async (t) => {
  for (const handoff of handoffs) {
    for (const allowHalfOpen of [true, false]) {
      const server = await begin(t, { ...onLoopback('half-open', `${allowHalfOpen}`), handoff })
      const client = await call(t, where(server))
      client.end()
      await client.ended
      t.deepEqual(client.unread, allowHalfOpen ? ['after the end'] : [])
    }
  }
})

for (const handoff of handoffs) {
  test(`clients of each ${handoff} that are reset before the program takes their connections end no worker`, async (t) => {
    const server = await begin(t, { ...onLoopback('again'), handoff }) // which serves one after the other
    const first = await call(t, where(server))
    const pid = await first.ask('pid')
    for (let i = 0; i < 3; i++) {
      const socket = connect(where(server))
      await once(socket, 'connect')
      await new Promise((done) => socket.write('unread\n', done))
      if (handoff === 'connection') await until(() => server.stats().acknowledged === i + 2)
      t.is(await first.ask(`${i}`), `${i}`)
      socket.resetAndDestroy()
      t.is(await first.ask('after'), 'after')
    }
    first.say('bye')
    t.is(await first.ended, 'end')
    const last = await call(t, where(server))
    t.is(await last.ask('pid'), pid)
  })
}

for (const handoff of handoffs) {
  test(`a worker that is given each ${handoff} and sends descriptors is ended, and they are closed; so is one that sends an invalid frame [S52]`, async (t) => {
    const path = newPath()
    execFileSync('mkfifo', [path])
    const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const intruder = await begin(t, { ...onLoopback('intruder', path), handoff })
    t.like(await nextOf<ExitEvent>(intruder, 'exit'), { signal: 'SIGKILL', reason: 'channel' })
    await intruder.close({ timeout: 0 })
    t.false(hasWriter(read))
    closeSync(read)
    const garbage = await begin(t, { ...onLoopback('garbage'), handoff })
    t.like(await nextOf<ExitEvent>(garbage, 'exit'), { signal: 'SIGKILL', reason: 'channel' })
  })
}

onLinux(
  'while the table of a worker that accepts is full, its clients wait in the accept queue, with a warning [S249]',
  async (t) => {
    const server = await begin(t, { ...onLoopback('lines'), handoff: 'listener', rlimits: { nofile: 256 } })
    const first = await call(t, where(server))
    t.is(await first.ask('fill 1'), 'full')
    const second = await call(t, where(server))
    t.is(await second.ask('hello'), 'hello')
    const third = await call(t, where(server))
    third.say('good morning')
    const warning = /A worker of a superserver cannot accept connections, which wait: EMFILE/
    while (!warning.test(await first.ask('warnings'))) t.true(await isPending(third.ended))
    t.true(await isPending(third.ended))
    t.deepEqual(third.unread, [])
    t.is(await second.ask('bye'), 'bye')
    t.is(await third.next(), 'good morning')
  }
)

onLinux('a worker whose program takes no connection leaves all but a few in the accept queue [S249]', async (t) => {
  const server = await begin(t, { ...onLoopback('first-only'), handoff: 'listener' })
  const first = await call(t, where(server))
  const sockets = async () => Number(await first.ask('sockets'))
  const before = await sockets()
  for (let i = 0; i < 40; i++) await call(t, where(server))
  for (let i = 0; i < 50; i++) t.true((await sockets()) <= before + 17)
})
