import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { bindListener } from 'fdpass'
import { type ExitEvent, superserve } from 'fdpass/superserver'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { endWith, fixtureSource } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
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

test.serial(
  'nothing is taken before SIGTERM and SIGINT are handled: by default they would end it at once',
  async (t) => {
    using listener = bindListener({ host: '127.0.0.1', port: 0 })
    const { port } = listener.address as AddressInfo
    const client = `require('net').connect(${port}, '127.0.0.1').on('data', (data) => process.stdout.write(data, () => process.exit())).write('pid\\n')`
    const answers: string[] = []
    const { on } = process
    t.teardown(() => (process.on = on))
    process.on = function (this: NodeJS.Process, ...args: never[]) {
      // A superserver that accepted already would answer, as its connections are passed on by another thread.
      if ((args as unknown[])[0] === 'SIGTERM')
        answers.push(spawnSync(process.execPath, ['-e', client], { timeout: 2000, encoding: 'utf8' }).stdout)
      return Reflect.apply(on, this, args) as NodeJS.Process
    } as typeof on
    const server = await superserve({ ...sceneOf('lines'), listen: listener, workers: 1 })
    t.deepEqual(answers, [''])
    await server.close({ timeout: 0 })
  }
)

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

test('several services have workers of their own, and are distinguished by name', async (t) => {
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
  t.deepEqual(await exit, {
    service: 'service',
    pid: dying,
    code: null,
    signal: 'SIGKILL',
    lost: lost.length,
    reason: null
  })
  for (const i of lost) t.is(await clients[i]!.ended, 'ECONNRESET')
  t.like(figures(), { completed: 2, lost: lost.length, active: 3 - lost.length })
})

test('workers that accept themselves are reported, and their connections are not counted', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), handoff: 'listener' })
  await (await call(t, where(server))).ask('hello')
  const { workers, accepted, active, spawned } = server.stats()
  t.deepEqual({ accepted, active, spawned }, { accepted: 0, active: 0, spawned: 1 })
  t.is(workers[0]!.connections, null)
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

test("'fd:N' is the number of a descriptor that listens, which stays open", async (t) => {
  using listener = bindListener({ host: '127.0.0.1', port: 0 })
  const { port } = listener.address as AddressInfo
  const server = await begin(t, { listen: `fd:${listener.fd}`, command: ['/bin/cat'] })
  const client = connect(port, '127.0.0.1')
  client.write('through a number')
  t.is(await nextText(client), 'through a number')
  // `fdpass serve` prints a line for each worker that is 'ready'.
  t.deepEqual(
    server.stats().workers.map(({ state }) => state),
    ['running']
  )
  client.destroy()
  await server.close()
  t.deepEqual(listener.address, { address: '127.0.0.1', family: 'IPv4', port })
})

test("'fd:N' of a Unix domain socket has the name of its path", async (t) => {
  const path = newPath()
  using listener = bindListener({ path })
  const server = await begin(t, { listen: `fd:${listener.fd}`, command: ['/bin/cat'] })
  t.like(server.addresses[0], { name: `unix:${path}`, address: path })
})

test("a real-time signal that ended a program is in its 'exit' event [S135]", async (t) => {
  const server = await begin(t, { listen: 'tcp:127.0.0.1:0', command: ['/bin/sh', '-c', 'kill -40 $$'] })
  const exit = nextOf<ExitEvent>(server, 'exit')
  await call(t, where(server))
  const { code, signal } = await exit
  t.deepEqual({ code, signal }, { code: null, signal: 'SIG40' })
})

test("each worker's inspector has a port of its own, counted up from that of this process", async (t) => {
  const { port } = (await begin(t, onLoopback('lines'))).addresses[0]!.address as { port: number }
  const first = (port % 20_000) + 10_000
  const server = await begin(t, { ...onLoopback('lines'), workers: 2, execArgv: [`--inspect=127.0.0.1:${first}`] })
  for (const next of [1, 2]) {
    const response = await fetch(`http://127.0.0.1:${first + next}/json/version`)
    t.like(await response.json(), { Browser: `node.js/${process.version}` })
  }
  t.is(pidsOf(server).length, 2)
})

onlyIf(process.getuid!() === 0, 'needs root, to become another user')(
  'a worker of another user has the home, name and shell of that user, unless env has others',
  async (t) => {
    process.env.HOME = '/root'
    const of = async (options: object, name: string) => {
      const server = await begin(t, { ...onLoopback('lines'), ...options })
      return JSON.parse(await (await call(t, where(server))).ask(`env ${name}`)) as string | null
    }
    t.is(await of({ user: 'daemon' }, 'USER'), 'daemon')
    t.is(await of({ user: 'daemon' }, 'HOME'), '/usr/sbin')
    t.regex((await of({ user: 'daemon' }, 'SHELL'))!, /nologin|false/)
    t.is(await of({ user: 'daemon', env: { HOME: '/tmp' } }, 'HOME'), '/tmp')
    t.is(await of({ user: 'daemon', env: {} }, 'LOGNAME'), 'daemon')
    t.is(await of({ user: 54_321, group: 54_321 }, 'HOME'), null)
    t.is(await of({}, 'HOME'), '/root')
  }
)
