import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { Agent, type IncomingMessage, get } from 'node:http'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import test from 'ava'
import { bindListener, connect as connectUnix, pipe } from 'fdpass'
import { type ExitEvent, type ProcessEvent, type Superserver, superserve } from 'fdpass/superserver'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, temporaryFolder } from '../helpers/descriptors.ts'
import { fixturePath, fixtureSource } from '../helpers/processes.ts'
import { text } from '../helpers/messages.ts'
import { endWith } from '../helpers/programs.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { begin, call, fetchFrom, isThere, onLoopback, pidsOf, sceneOf, where } from '../helpers/superserver-clients.ts'
import { until } from '../helpers/superservers.ts'

const handoffs = ['connection', 'listener'] as const
const isRoot = process.getuid?.() === 0
const folder = temporaryFolder()
chmodSync(folder, 0o755)
let paths = 0
const newPath = () => join(folder, `path-${paths++}`)

/** The next event of a process, or of one that is awaited. */
async function nextOf<E extends ProcessEvent>(server: Superserver, name: 'spawn' | 'ready' | 'exit'): Promise<E> {
  return ((await once(server, name)) as [E])[0]
}

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
    t.like(await exit, { code: null, signal: 'SIGKILL', lost: handoff === 'connection' ? 1 : 0 })
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

async function nextText(socket: Socket): Promise<string> {
  return String((await once(socket, 'data'))[0])
}

for (const [name, service, question] of [
  ['workers that are given connections', sceneOf('lines'), 'pid\n'],
  ['workers that accept', { ...sceneOf('lines'), handoff: 'listener' }, 'pid\n'],
  ['workers with an HTTP server that accept', { ...sceneOf('http'), handoff: 'listener' }, 'GET / HTTP/1.0\r\n\r\n'],
  ['programs', { command: ['/bin/cat'] }, 'pid\n']
] as const) {
  test(`before beforeAccept has resolved nothing is taken by ${name}; then what waits is`, async (t) => {
    using listener = bindListener({ host: '127.0.0.1', port: 0 })
    const { port } = listener.address as AddressInfo
    let first!: Promise<string>
    const server = await begin(t, {
      ...service,
      listen: listener,
      async beforeAccept() {
        const client = connect(port, '127.0.0.1')
        t.teardown(() => client.destroy())
        client.on('error', () => {}) // its server goes first
        first = nextText(client)
        client.write(question)
        await sleep(200) // a listener that is watched would have been accepted from
        t.true(await isPending(first))
      }
    })
    t.true((await first).length > 0)
    if (!('handoff' in service)) await until(() => server.stats().active === 1) // of others it is not known
  })
}

test('what beforeAccept throws or rejects with fails the start, which has taken nothing; an abort does not wait for it', async (t) => {
  using listener = bindListener({ host: '127.0.0.1', port: 0 })
  const { port } = listener.address as AddressInfo
  const client = connect(port, '127.0.0.1')
  t.teardown(() => client.destroy())
  client.on('error', () => {}) // its server goes first
  await once(client, 'connect')
  const error = new Error('not now')
  const controller = new AbortController()
  const forever = () => {
    controller.abort()
    return new Promise(() => {})
  }
  for (const handoff of handoffs) {
    const options = { ...sceneOf('lines'), listen: listener, handoff, signals: false, notify: false }
    const throwing = () => {
      throw error
    }
    t.is(await t.throwsAsync(superserve({ ...options, beforeAccept: throwing })), error)
    t.is(await t.throwsAsync(superserve({ ...options, beforeAccept: () => Promise.reject(error) })), error)
    const aborted = superserve({ ...options, beforeAccept: forever, signal: controller.signal })
    await t.throwsAsync(aborted, { code: 'ABORT_ERR' })
  }
  await begin(t, { ...sceneOf('lines'), listen: listener })
  client.write('hello\n')
  t.is(await nextText(client), 'hello\n')
})

test('workers take sockets of datagrams and listeners by name', async (t) => {
  const listen = ['udp:127.0.0.1:0', 'tcp:127.0.0.1:0']
  const server = await begin(t, { ...sceneOf('listeners'), listen, handoff: 'listener' })
  const socket = createSocket('udp4')
  t.teardown(() => void socket.close())
  socket.connect((server.addresses[0]!.address as AddressInfo).port, '127.0.0.1') // no other can answer
  await once(socket, 'connect')
  socket.send('hello')
  const [answer] = (await once(socket, 'message')) as [Buffer]
  t.is(answer.toString(), 'udp:127.0.0.1:0 hello')
  const client = await call(t, where(server, 1))
  t.is(await client.ask('hello'), 'hello')
  client.close()
  const exit = nextOf<ExitEvent>(server, 'exit')
  await server.close()
  t.like(await exit, { code: 0 })
})

test('several services have workers of their own, and are told apart by name', async (t) => {
  const services = { lines: onLoopback('lines', 'one'), more: onLoopback('lines', 'two'), web: onLoopback('http') }
  const server = await begin(t, { services })
  t.deepEqual(
    server.addresses.map(({ service, name }) => `${service} ${name}`),
    Object.keys(services).map((name) => `${name} tcp:127.0.0.1:0`)
  )
  const { workers } = server.stats()
  t.deepEqual(
    workers.map(({ service, state }) => [service, state]),
    Object.keys(services).map((name) => [name, 'ready'])
  )
  t.is(await (await call(t, where(server, 0))).ask('args'), 'lines one')
  t.is(await (await call(t, where(server, 1))).ask('args'), 'lines two')
  t.is(await fetchFrom(where(server, 2)), `${workers[2]!.pid}`)
  const { accepted, spawned } = server.stats()
  t.deepEqual({ accepted, spawned }, { accepted: 3, spawned: 3 })
})

onlyIf(hasPython, 'needs Python')('a worker in another language speaks PROTOCOL.md by itself', async (t) => {
  const command = ['/usr/bin/env', 'python3', '-I', '-S', fixtureSource('superserver-worker.py')]
  const server = await begin(t, { listen: 'tcp:127.0.0.1:0', command, mode: 'workers', workers: 2 })
  const clients = await Promise.all([1, 2, 3, 4].map(() => call(t, where(server))))
  const answers = await Promise.all(clients.map((client, i) => client.ask(`hello ${i}`)))
  const pids = pidsOf(server)
  t.true(answers.every((answer, i) => pids.some((pid) => answer === `${pid} tcp:127.0.0.1:0 hello ${i}`)))
  t.is(new Set(answers.map((answer) => answer.split(' ')[0])).size, 2) // each has as many as the other
  for (const client of clients.slice(1)) client.close()
  await until(() => server.stats().completed === 3)
  const exits: ExitEvent[] = []
  server.on('exit', (event) => exits.push(event))
  const closing = server.close()
  t.regex(await clients[0]!.ask('still'), /still$/)
  clients[0]!.close()
  await closing
  t.deepEqual(
    exits.map(({ code, lost }) => [code, lost]),
    [
      [0, 0],
      [0, 0]
    ]
  )
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

test('stats() counts what was accepted, acknowledged, ended and lost, and what each worker has', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), workers: 2 })
  const clients = await Promise.all([1, 2, 3, 4, 5].map(() => call(t, where(server))))
  const pids = await Promise.all(clients.map((client) => client.ask('pid')))
  const figures = () => {
    const { accepted, acknowledged, completed, lost, refused, handedOn, spawned, active, waiting } = server.stats()
    return { accepted, acknowledged, completed, lost, refused, handedOn, spawned, active, waiting }
  }
  const none = { completed: 0, lost: 0, refused: 0, handedOn: 0, waiting: 0 }
  await until(() => figures().acknowledged === 5)
  t.deepEqual(figures(), { ...none, accepted: 5, acknowledged: 5, spawned: 2, active: 5 })
  const { workers } = server.stats()
  t.deepEqual(workers.map(({ connections }) => connections).toSorted(), [2, 3])
  for (const { service, pid, state, connections, unacknowledged } of workers) {
    t.is(connections, pids.filter((other) => other === `${pid}`).length)
    t.deepEqual([service, state, unacknowledged], ['service', 'ready', 0])
  }
  t.is(await clients[0]!.ask('bye'), 'bye') // ended by the worker
  clients[0]!.close()
  clients[1]!.close() // and by the client
  await until(() => figures().completed === 2)
  t.deepEqual(figures(), { ...none, accepted: 5, acknowledged: 5, completed: 2, spawned: 2, active: 3 })
  const dying = Number(pids[2])
  const lost = [2, 3, 4].filter((i) => pids[i] === pids[2])
  const exit = nextOf<ExitEvent>(server, 'exit')
  process.kill(dying, 'SIGKILL')
  t.deepEqual(await exit, { service: 'service', pid: dying, code: null, signal: 'SIGKILL', lost: lost.length })
  for (const i of lost) t.is(await clients[i]!.ended, 'ECONNRESET')
  t.like(figures(), { completed: 2, lost: lost.length, active: 3 - lost.length })
})

test('workers that accept themselves are told, and their connections are not known', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), handoff: 'listener' })
  await (await call(t, where(server))).ask('hello')
  const { workers, accepted, active, spawned } = server.stats()
  t.deepEqual({ accepted, active, spawned }, { accepted: 0, active: 0, spawned: 1 })
  t.is(workers[0]!.connections, null)
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
  test(`a worker that is given each ${handoff} and sends descriptors is ended, and they are closed; so is one that says what is no frame`, async (t) => {
    const path = newPath()
    execFileSync('mkfifo', [path])
    const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const intruder = await begin(t, { ...onLoopback('intruder', path), handoff })
    t.is((await nextOf<ExitEvent>(intruder, 'exit')).signal, 'SIGKILL')
    await intruder.close({ timeout: 0 })
    t.false(hasWriter(read))
    closeSync(read)
    const garbage = await begin(t, { ...onLoopback('garbage'), handoff })
    t.is((await nextOf<ExitEvent>(garbage, 'exit')).signal, 'SIGKILL')
  })
}

test('a worker that dies is replaced at once: events tell of its end, the start of another, and when that is ready', async (t) => {
  for (const handoff of handoffs) {
    const server = await begin(t, { ...onLoopback('lines'), handoff })
    const [pid] = pidsOf(server)
    const [exit, spawned, ready] = [nextOf(server, 'exit'), nextOf(server, 'spawn'), nextOf(server, 'ready')]
    const client = await call(t, where(server))
    client.say('exit 7')
    t.regex(await client.ended, /end|ECONNRESET/)
    const lost = handoff === 'connection' ? 1 : 0
    t.deepEqual(await exit, { service: 'service', pid: pid!, code: 7, signal: null, lost } as ProcessEvent)
    t.not((await spawned).pid, pid)
    t.deepEqual(await ready, await spawned)
    const other = await call(t, where(server))
    t.is(await other.ask('pid'), `${(await spawned).pid}`)
  }
})

test('connections that come while no worker is there wait for the next one', async (t) => {
  const server = await begin(t, onLoopback('lines'))
  const [pid] = pidsOf(server)
  const spawned = nextOf(server, 'spawn')
  process.kill(pid!, 'SIGKILL')
  const clients = await Promise.all([1, 2, 3].map(() => call(t, where(server))))
  const answers = await Promise.all(clients.map((client) => client.ask('pid')))
  t.deepEqual(new Set(answers), new Set([`${(await spawned).pid}`]))
})

test.serial(
  'workers that keep dying soon are replaced after pauses, each twice as long as the one before',
  async (t) => {
    const server = await begin(t, onLoopback('brief'))
    const exits: number[] = []
    const spawns: number[] = []
    server.on('exit', () => exits.push(performance.now()))
    server.on('spawn', () => spawns.push(performance.now()))
    await until(() => spawns.length >= 6)
    // Whether the first end was seen depends on how soon it came.
    const pauses = [4, 3, 2, 1].map((back) => spawns.at(-back)! - exits.at(-back)!)
    for (const [index, pause] of pauses.entries()) {
      const least = 50 * 2 ** index
      t.true(pause >= least - 2, `pause ${index} took ${pause} ms`)
    }
  }
)

test('the time that a worker takes until it is ready does not count as its life', async (t) => {
  const server = await begin(t, onLoopback('brief', '1100'))
  await nextOf(server, 'spawn') // at once
  await nextOf(server, 'exit')
  const ended = performance.now()
  await nextOf(server, 'spawn')
  t.true(performance.now() - ended >= 48)
})

test('what a worker had not acknowledged when it was killed is answered by another', async (t) => {
  const server = await begin(t, { ...onLoopback('deaf', newPath()), workers: 2 })
  const clients = await Promise.all([1, 2, 3, 4].map(() => call(t, where(server))))
  const asked = clients.map((client) => client.ask('pid'))
  await until(() => server.stats().accepted === 4 && server.stats().acknowledged === 2)
  const deaf = server.stats().workers.find(({ unacknowledged }) => unacknowledged > 0)!
  t.is(deaf.unacknowledged, 2)
  const exit = nextOf<ExitEvent>(server, 'exit')
  process.kill(deaf.pid, 'SIGKILL')
  t.like(await exit, { pid: deaf.pid, signal: 'SIGKILL', lost: 0 })
  const answers = await Promise.all(asked)
  t.false(answers.includes(`${deaf.pid}`))
  t.like(server.stats(), { accepted: 4, handedOn: 2, lost: 0 })
})

test('a worker that is stopped before it acknowledges is killed after acknowledgeTimeout, and others answer', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), workers: 2, acknowledgeTimeout: 150 })
  const [stopped] = pidsOf(server)
  process.kill(stopped!, 'SIGSTOP')
  const exit = nextOf<ExitEvent>(server, 'exit')
  const clients = await Promise.all([1, 2, 3, 4].map(() => call(t, where(server))))
  const answers = await Promise.all(clients.map((client) => client.ask('pid')))
  t.false(answers.includes(`${stopped}`))
  t.like(await exit, { pid: stopped!, signal: 'SIGKILL', lost: 0 })
  t.like(server.stats(), { accepted: 4, handedOn: 2, lost: 0 })
})

test('what was waiting when close() was called and its worker died is answered', async (t) => {
  const server = await begin(t, onLoopback('deaf', newPath()))
  const [deaf] = pidsOf(server)
  const client = await call(t, where(server))
  const asked = client.ask('pid')
  await until(() => server.stats().accepted === 1)
  const closing = server.close()
  process.kill(deaf!, 'SIGKILL')
  t.not(await asked, `${deaf}`)
  t.is(await client.ask('bye'), 'bye')
  client.close()
  await closing
  t.like(server.stats(), { accepted: 1, completed: 1, lost: 0 })
})

test('a worker that is not ready in time fails the start, and is killed', async (t) => {
  const never = superserve({ ...onLoopback('never'), readyTimeout: 100, signals: false })
  await t.throwsAsync(never, { code: 'ERR_WORKER_FAILED', message: /SIGKILL/ })
})

for (const [limit, workers] of [
  ['maxConnections', 2],
  ['maxPerWorker', 1]
] as const) {
  test(`beyond ${limit} connections wait in the backlog until another one ends`, async (t) => {
    const server = await begin(t, { ...onLoopback('lines'), workers, [limit]: 2 })
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => call(t, where(server))))
    const all = [first!, second!, third!]
    const answered = new Set<number>()
    const asked = all.map((client, i) => client.ask('hello').then(() => answered.add(i)))
    await until(() => answered.size === 2)
    const [served] = answered
    for (let i = 0; i < 20; i++) await all[served!]!.ask('hello')
    t.is(answered.size, 2)
    t.like(server.stats(), { accepted: 2, active: 2, waiting: 0 })
    all[served!]!.close()
    await Promise.all(asked)
    t.is(answered.size, 3)
  })
}

test('beyond maxPerClient the connections of an address are closed at once, and another address is served', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), listen: 'tcp:0.0.0.0:0', maxPerClient: 2 })
  const clients = await Promise.all([1, 2].map(() => call(t, where(server))))
  await Promise.all(clients.map((client) => client.ask('hello')))
  t.is(await (await call(t, where(server))).ended, 'end')
  t.like(server.stats(), { accepted: 3, refused: 1, active: 2 })
  if (isLinux) {
    const other = await call(t, {
      ...(where(server) as { port: number }),
      host: '127.0.0.1',
      localAddress: '127.0.0.2'
    })
    t.is(await other.ask('hello'), 'hello')
  }
  clients[0]!.close()
  await until(() => server.stats().completed === 1)
  t.is(await (await call(t, where(server))).ask('hello'), 'hello')
})

onlyIf(isRoot && isLinux, 'needs root')(
  'beyond maxPerClient the connections of a user of this machine are closed at once, and another user is served',
  async (t) => {
    const path = newPath()
    const listen = `unix:${path}`
    const server = await begin(t, { ...sceneOf('lines'), listen, socketMode: 0o666, maxPerClient: 1 })
    const mine = await call(t, where(server))
    await mine.ask('hello')
    t.is(await (await call(t, where(server))).ended, 'end')
    const client = `const socket = require('node:net').connect(process.argv[1], () => socket.write('bye\\n'))
      socket.pipe(process.stdout)`
    const asNobody = { uid: 65_534, gid: 65_534, cwd: '/' }
    t.is(await endWith(t, spawn(process.execPath, ['-e', client, path], asNobody) as ChildProcess), 'bye\n')
    await until(() => server.stats().completed === 1)
    t.like(server.stats(), { accepted: 3, refused: 1, active: 1 })
  }
)

test('reload() leaves a connection to its worker, which drains, and gives new ones to another', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), drainTimeout: 20_000 })
  const [old] = pidsOf(server)
  const client = await call(t, where(server))
  await client.ask('hello')
  await server.reload()
  t.deepEqual(
    server.stats().workers.map(({ pid, state, connections }) => [pid === old, state, connections]),
    [
      [true, 'draining', 1],
      [false, 'ready', 0]
    ]
  )
  t.is(await client.ask('pid'), `${old}`)
  t.not(await (await call(t, where(server))).ask('pid'), `${old}`)
  const exit = nextOf<ExitEvent>(server, 'exit')
  client.close()
  t.like(await exit, { pid: old!, code: 0, lost: 0 })
})

test('a worker that drains for longer than drainTimeout is killed', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), drainTimeout: 50 })
  const [old] = pidsOf(server)
  const client = await call(t, where(server))
  await client.ask('hello')
  const exit = nextOf<ExitEvent>(server, 'exit')
  await server.reload()
  t.like(await exit, { pid: old!, signal: 'SIGKILL', lost: 1 })
  t.is(await client.ended, 'ECONNRESET')
})

test('close() while a reload waits for its workers ends them all', async (t) => {
  for (const handoff of handoffs) {
    const path = newPath()
    const server = await begin(t, { ...onLoopback('lines'), handoff, env: { ...process.env, FDPASS_PATH: path } })
    const reloading = Promise.allSettled([server.reload()])
    await nextOf(server, 'spawn')
    const pids = pidsOf(server)
    t.is(pids.length, 2)
    await server.close()
    await reloading
    t.deepEqual(pids.filter(isThere), [])
  }
})

test('close() while a reload that changes the handoff waits for its workers closes each listener once', async (t) => {
  for (const [from, to] of [handoffs, handoffs.toReversed()] as const) {
    const file = newPath()
    const configure = (handoff: string) => writeFileSync(file, JSON.stringify({ ...onLoopback('lines'), handoff }))
    configure(from!)
    const server = await superserve(file, { signals: false, notify: false })
    t.teardown(() => server.close({ timeout: 0 }))
    configure(to!)
    const reloading = t.throwsAsync(server.reload(), { code: 'ERR_SERVER_CLOSED' })
    await nextOf(server, 'spawn')
    const closing = server.close()
    const pipes = Array.from({ length: 10 }, () => pipe()) // which have the numbers of what was closed
    await closing
    await reloading
    for (const [read, write] of pipes) {
      t.deepEqual([read.kind, write.kind], ['fifo', 'fifo'])
      read.closeSync()
      write.closeSync()
    }
  }
})

test('close() while a reload opens listeners ends what was begun', async (t) => {
  const file = newPath()
  const configure = (...listen: string[]) => writeFileSync(file, JSON.stringify({ ...sceneOf('lines'), listen }))
  configure('tcp:127.0.0.1:0')
  const server = await superserve(file, { signals: false, notify: false })
  t.teardown(() => server.close({ timeout: 0 }))
  configure('tcp:127.0.0.1:0', `unix:${newPath()}`, 'tcp:localhost:0') // the last is a name to be looked up
  const reloading = t.throwsAsync(server.reload(), { code: 'ERR_SERVER_CLOSED' })
  while (server.addresses.length === 1) await turns(1)
  await server.close()
  await reloading
  t.deepEqual(server.addresses, [])
})

test('relative paths of a file begin in its folder', async (t) => {
  const file = newPath()
  const module = relative(folder, fixturePath('superserver-worker'))
  const program = join(folder, 'program')
  writeFileSync(program, '#!/bin/sh\npwd; exec cat\n', { mode: 0o755 })
  const web = { ...sceneOf('lines'), listen: 'tcp:127.0.0.1:0', module, cwd: '.' }
  const cat = { listen: 'tcp:127.0.0.1:0', command: ['./program'], cwd: '..' }
  writeFileSync(file, JSON.stringify({ services: { web, cat }, signals: false }))
  for (const named of [file, pathToFileURL(file), relative(process.cwd(), file)]) {
    const server = await superserve(named, { notify: false })
    t.teardown(() => server.close({ timeout: 0 }))
    t.is(await (await call(t, where(server))).ask('cwd'), realpathSync(folder))
    t.is(await (await call(t, where(server, 1))).next(), realpathSync(join(folder, '..')))
  }
})

test('what waits in the backlog while a file is read again is served as the file says then', async (t) => {
  const file = newPath()
  const configure = (maxConnections: number, word: string) =>
    writeFileSync(file, JSON.stringify({ services: { it: { ...onLoopback('lines', word), maxConnections } } }))
  configure(1, 'before')
  const server = await superserve(file, { signals: false, notify: false })
  t.teardown(() => server.close({ timeout: 0 }))
  const { addresses } = server
  const first = await call(t, where(server))
  t.is(await first.ask('args'), 'lines before')
  const second = await call(t, where(server))
  const asked = second.ask('args')
  configure(2, 'after')
  await server.reload()
  t.deepEqual(server.addresses, addresses)
  t.is(await asked, 'lines after')
  t.is(await first.ask('args'), 'lines before')
})

test('unref() lets the process end although the superserver is open, and its workers end with it', async (t) => {
  for (const handoff of handoffs) {
    const options = { ...onLoopback('lines'), handoff, signals: false }
    const program = `import { superserve } from 'fdpass/superserver'
      const server = (await superserve(${JSON.stringify(options)})).unref()
      console.log(server.stats().workers[0].pid)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const pid = Number(await endWith(t, child)) // when it has ended with code 0
    await until(() => !isThere(pid))
    t.true(pid > 0)
  }
})

test('a signal aborts a start, at whatever point, and nothing is left', async (t) => {
  const already = superserve({ ...onLoopback('lines'), signal: AbortSignal.abort() })
  await t.throwsAsync(already, { code: 'ABORT_ERR', name: 'AbortError' })
  const marks = `abort-${process.pid}`
  for (const handoff of handoffs) {
    for (const milliseconds of [-1, 0, 1, 2, 4, 8, 16]) {
      const controller = new AbortController()
      const listen = 'tcp:localhost:0' // a name that has to be looked up
      const starting = superserve({ ...sceneOf('never', marks), listen, handoff, signal: controller.signal })
      if (milliseconds < 0) controller.abort()
      else setTimeout(() => controller.abort('enough'), milliseconds)
      const error = await t.throwsAsync(starting, { code: 'ABORT_ERR', name: 'AbortError' })
      if (milliseconds >= 0) t.is(error.cause, 'enough')
    }
  }
  const left = (await endWith(t, spawn('ps', ['-A', '-o', 'args=']))).split('\n')
  t.deepEqual(
    left.filter((line) => line.includes(`never ${marks}`)),
    []
  )
})
