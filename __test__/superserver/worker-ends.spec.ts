import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import test from 'ava'
import { socketpair } from 'fdpass'
import { type ExitEvent, type ProcessEvent, superserve } from 'fdpass/superserver'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { endWith, fixtureSource } from '../helpers/processes.ts'
import { begin, call, handoffs, nextOf, onLoopback, pidsOf, where } from '../helpers/superserver.ts'

test('a worker that dies is replaced at once: events report its exit, the start of another, and its readiness', async (t) => {
  for (const handoff of handoffs) {
    const server = await begin(t, { ...onLoopback('lines'), handoff })
    const [pid] = pidsOf(server)
    const [exit, spawned, ready] = [nextOf(server, 'exit'), nextOf(server, 'spawn'), nextOf(server, 'ready')]
    const client = await call(t, where(server))
    client.say('exit 7')
    t.regex(await client.ended, /end|ECONNRESET/)
    const lost = handoff === 'connection' ? 1 : 0
    const expected = { service: 'service', pid: pid!, code: 7, signal: null, lost, reason: null }
    t.deepEqual(await exit, expected as ProcessEvent)
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
  'workers that keep dying soon are replaced after pauses, each twice as long as the one before [S53]',
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
  t.like(await exit, { pid: deaf.pid, signal: 'SIGKILL', lost: 0, reason: null })
  const answers = await Promise.all(asked)
  t.false(answers.includes(`${deaf.pid}`))
  t.like(server.stats(), { accepted: 4, handedOn: 2, lost: 0 })
})

test('a worker that is stopped before it acknowledges is killed after acknowledgeTimeout, and others answer [S52] [S99]', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), workers: 2, acknowledgeTimeout: 150 })
  const [stopped] = pidsOf(server)
  process.kill(stopped!, 'SIGSTOP')
  const exit = nextOf<ExitEvent>(server, 'exit')
  const clients = await Promise.all([1, 2, 3, 4].map(() => call(t, where(server))))
  const answers = await Promise.all(clients.map((client) => client.ask('pid')))
  t.false(answers.includes(`${stopped}`))
  t.like(await exit, { pid: stopped!, signal: 'SIGKILL', lost: 0, reason: 'acknowledgeTimeout' })
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

test('a worker that is not ready in time fails the start, and is killed [S98]', async (t) => {
  const never = superserve({ ...onLoopback('never'), readyTimeout: 100, signals: false })
  await t.throwsAsync(never, { code: 'ERR_WORKER_FAILED', message: /was not ready within 100 ms/ })
})

for (const [limit, workers] of [
  ['maxConnections', 2],
  ['maxPerWorker', 1]
] as const) {
  test(`beyond ${limit} connections wait in the backlog until another one ends [S71] [S94]`, async (t) => {
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

test('beyond maxPerClient the connections of an address are closed at once, and another address is served [S96]', async (t) => {
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

const serialWithPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux', test.serial)

for (const way of ['exit', 'shut', 'flood'] as const) {
  const title = {
    exit: 'children of an exited worker that send without end delay neither its removal nor other services',
    shut: 'a worker that receives no more and sends without end is killed, and delays no other service',
    flood: 'a worker that sends without end delays neither other services nor stats()'
  }[way]
  serialWithPython(`${title} [S132]`, async (t) => {
    const mark = newPath()
    const command = ['/usr/bin/env', 'python3', '-I', '-S', fixtureSource('hostile.py'), 'flooding_worker', way, mark]
    const server = await begin(t, {
      services: {
        flooded: { listen: 'tcp:127.0.0.1:0', command, mode: 'workers', workers: 1 },
        other: onLoopback('lines')
      }
    })
    const exited = nextOf<ExitEvent>(server, 'exit')
    const clients = [await call(t, where(server, 0))]
    await until(() => existsSync(`${mark}.flooded`))
    if (way === 'shut') clients.push(await call(t, where(server, 0))) // it cannot be sent to the worker
    if (way !== 'flood') {
      t.like(await exited, { service: 'flooded', lost: 0 })
      for (const client of clients) t.is(await client.next(), 'answer')
    }
    for (let count = 0; count < 20; count++) {
      const client = await call(t, where(server, 1))
      t.regex(await client.ask('pid'), /^\d+$/)
      client.close()
      t.is(server.stats().accepted, count + clients.length + 1)
    }
  })
}

onlyIf(isLinux, 'needs Linux')('what a superserver sends that is no frame is an error of its worker', async (t) => {
  const [socket, theirs] = socketpair()
  const program = `import { connections } from 'fdpass/superserver'
    process.on('uncaughtException', ({ message }) => process.stdout.write(message, () => process.exit()))
    for await (const _ of connections());`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    env: { ...process.env, FDPASS_WORKER: '3' },
    stdio: ['ignore', 'pipe', 'inherit', theirs.fd]
  })
  theirs.close()
  const ended = endWith(t, child)
  await socket.recv()
  await socket.send('these are more bytes than the header of a frame has')
  t.is(await ended, 'EPROTO: the superserver sent bytes that are not a frame, recvmsg')
  socket.close()
})

test('a variable that names no channel makes no worker', async (t) => {
  const program = `import { connections } from 'fdpass/superserver'
    try { connections() } catch ({ code }) { console.log(code) }`
  for (const number of ['', '0', '99', '-1', 'three', '1e99']) {
    const env = { ...process.env, FDPASS_WORKER: number }
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      env,
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.is(await endWith(t, child), 'ERR_INVALID_STATE\n', number)
  }
})

test('a worker takes its channel once, whichever way', async (t) => {
  const server = await begin(t, onLoopback('twice'))
  const client = await call(t, where(server))
  t.is(await client.next(), 'ERR_INVALID_STATE ERR_INVALID_STATE taken true undefined')
})
