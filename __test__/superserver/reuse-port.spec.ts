import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { TcpNetConnectOpts } from 'node:net'
import type { ExecutionContext } from 'ava'
import { type ServiceOptions, type Superserver, superserve } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { newPort, until } from '../helpers/inetds.ts'
import { startLimited } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'
import { type Client, begin, call, fetchFrom, nextOf, onLoopback, pidsOf, where } from '../helpers/superserver.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

/** As many clients as are needed that each of two sockets has some, but for once in 2 to the power of 39. */
const CROWD = 40

const onOnePort = (scene: string, ...args: string[]): ServiceOptions => {
  return { ...onLoopback(scene, ...args), handoff: 'listener', reusePort: true, workers: 2 }
}

const distinct = (pids: readonly number[]) => [...new Set(pids)].toSorted((a, b) => a - b)

const callAll = (t: ExecutionContext, server: Superserver) =>
  Promise.all(Array.from({ length: CROWD }, () => call(t, where(server))))

/** Connects until a client's worker is the given one. */
async function clientOf(t: ExecutionContext, server: Superserver, pid: number): Promise<Client> {
  for (;;) {
    const client = await call(t, where(server))
    if (Number(await client.ask('pid')) === pid) return client
    client.close()
  }
}

/** The number of connections in the queues of a superserver's listeners: for these, rx_queue in proc_net_tcp(5). */
function waitingAt(server: Superserver): number {
  const port = (where(server) as TcpNetConnectOpts).port.toString(16).toUpperCase().padStart(4, '0')
  const listening = new RegExp(`^ *\\d+: \\w+:${port} \\w+:\\w+ 0A \\w+:(\\w+)`, 'gm')
  const queues = [...readFileSync('/proc/net/tcp', 'utf8').matchAll(listening)]
  return queues.reduce((sum, [, queue]) => sum + Number.parseInt(queue!, 16), 0)
}

/** Stops a worker in the middle of its work, while clients wait in the queue of its socket. */
async function stopOne(t: ExecutionContext, server: Superserver) {
  const [stopped, other] = pidsOf(server) as [number, number]
  const mark = newPath()
  ;(await clientOf(t, server, stopped)).say(`hang ${mark}`)
  await until(() => existsSync(mark))
  const clients = await callAll(t, server)
  const pids: number[] = []
  const asked = clients.map(async (client) => pids.push(Number(await client.ask('pid'))))
  await until(() => pids.length + waitingAt(server) === CROWD)
  t.true(pids.every((pid) => pid === other))
  t.true(pids.length < CROWD)
  const answers = async () => {
    await Promise.all(asked)
    return distinct(pids)
  }
  return { stopped, other, answers }
}

onLinux('with reusePort each worker has a listener of its own, and gets a part of the connections', async (t) => {
  const server = await begin(t, onOnePort('lines'))
  t.is(server.addresses.length, 1)
  const clients = await callAll(t, server)
  const pids = await Promise.all(clients.map((client) => client.ask('pid')))
  t.deepEqual(distinct(pids.map(Number)), distinct(pidsOf(server)))
})

onLinux('the replacement of a worker that was killed has the queue of the one before', async (t) => {
  const server = await begin(t, onOnePort('listeners'))
  const { stopped, other, answers } = await stopOne(t, server)
  process.kill(stopped, 'SIGKILL')
  const { pid } = await nextOf(server, 'ready')
  t.deepEqual(await answers(), distinct([other, pid]))
})

onLinux('while a worker has no replacement, the others get the connections of its queue, and new ones', async (t) => {
  const path = newPath()
  const server = await begin(t, onOnePort('unless', path))
  const { stopped, other, answers } = await stopOne(t, server)
  writeFileSync(path, '')
  process.kill(stopped, 'SIGKILL')
  t.deepEqual(await answers(), [other])
  const later = await callAll(t, server)
  for (const client of later) t.is(Number(await client.ask('pid')), other)
  rmSync(path)
  const { pid } = await nextOf(server, 'ready')
  await clientOf(t, server, pid)
  const last = await callAll(t, server)
  t.deepEqual(
    distinct(await Promise.all(last.map(async (client) => Number(await client.ask('pid'))))),
    distinct([other, pid])
  )
  for (const client of [...later, ...last]) client.close()
})

onLinux(
  'while the table of a superserver is full, connections of a worker that has ended wait, with a warning [S249]',
  async (t) => {
    const path = newPath()
    const { socket, done } = startLimited(256, 'tables', ['relay', JSON.stringify(onOnePort('unless', path)), path])
    const port = Number(text(await socket.recv()))
    const clients = Array.from({ length: CROWD }, () => call(t, { host: '127.0.0.1', port }))
    await Promise.all(clients.map(async (client) => (await client).ask('hello')))
    socket.close()
    t.regex(
      await done,
      /^A superserver cannot accept connections for a worker that has ended; they wait: EMFILE: .*\n$/
    )
  }
)

onLinux('reloads to more and to fewer workers lose no connection', async (t) => {
  const path = newPath()
  const configure = (workers: number) => writeFileSync(path, JSON.stringify({ ...onOnePort('http'), workers }))
  configure(2)
  const server = await superserve(path, { signals: false, notify: false })
  t.teardown(() => server.close({ timeout: 0 }))
  let answered = 0
  const done = new AbortController()
  const clients = Array.from({ length: 8 }, async () => {
    while (!done.signal.aborted) {
      await fetchFrom(where(server))
      answered++
    }
  })
  for (const workers of [4, 1, 3]) {
    configure(workers)
    await server.reload()
    const before = answered
    await until(() => answered > before + 50)
  }
  done.abort()
  await Promise.all(clients)
  t.like(server.stats(), { spawned: 10 })
})

onLinux(
  'while a reload starts more workers, and after it fails, the old ones get the connections of its new sockets',
  async (t) => {
    const path = newPath()
    const configure = (scene: string, workers: number, ...more: string[]) => {
      const options = { ...onOnePort(scene), readyTimeout: 120_000 }
      writeFileSync(path, JSON.stringify({ ...options, listen: [options.listen, ...more], workers }))
    }
    configure('lines', 2)
    const server = await superserve(path, { signals: false, notify: false })
    t.teardown(() => server.close({ timeout: 0 }))
    const old = distinct(pidsOf(server))
    const answers = async () => {
      const clients = await callAll(t, server)
      return distinct(await Promise.all(clients.map(async (client) => Number(await client.ask('pid')))))
    }
    const port = newPort()
    configure('never', 4, `tcp:127.0.0.1:${port}`)
    const failed = t.throwsAsync(server.reload(), { code: 'ERR_WORKER_FAILED' })
    await nextOf(server, 'spawn')
    // The workers of the last configuration do not know its new source.
    const tooEarly = (await call(t, { host: '127.0.0.1', port })).ask('pid')
    t.deepEqual(await answers(), old)
    t.true(await isPending(failed))
    for (const pid of pidsOf(server)) if (!old.includes(pid)) process.kill(pid, 'SIGKILL')
    await Promise.all([failed, t.throwsAsync(tooEarly, { message: /ECONNRESET/ })])
    t.deepEqual(await answers(), old)
  }
)

onLinux(
  'a connection that a worker refuses is not passed to it again for each note that it sends [S274]',
  async (t) => {
    const [path, requests] = [newPath(), newPath()]
    const configure = (workers: number, ...scene: [string, ...string[]]) =>
      writeFileSync(path, JSON.stringify({ ...onOnePort(...scene), workers }))
    configure(1, 'refusing', requests)
    const server = await superserve(path, { signals: false, notify: false })
    t.teardown(() => server.close({ timeout: 0 }))
    const [refusing] = pidsOf(server)
    // The second socket has no worker until the refusing one is replaced, for which it asks behind its notes.
    configure(2, 'never')
    server.reload().catch(() => {})
    await nextOf(server, 'spawn')
    const clients = await callAll(t, server)
    const pids = await Promise.all(clients.map((client) => client.ask('pid')))
    t.is(distinct(pids.map(Number)).length, 1)
    t.not(Number(pids[0]), refusing)
    const { length } = readFileSync(requests)
    t.true(length === 1 || length === 2, `${length}`)
  }
)

onLinux('reusePort is for TCP and the handoff listener, and no reload changes it', async (t) => {
  const invalid = { code: 'ERR_INVALID_ARG_VALUE', message: /reusePort/ }
  const { listen: _, ...scene } = onOnePort('lines')
  await t.throwsAsync(begin(t, { ...scene, listen: `unix:${newPath()}` }), invalid)
  await t.throwsAsync(begin(t, { ...scene, listen: 'udp:127.0.0.1:0' }), invalid)
  await t.throwsAsync(begin(t, { ...onOnePort('lines'), handoff: 'connection' }), invalid)
  await t.throwsAsync(begin(t, { ...onOnePort('lines'), reusePort: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  const path = newPath()
  const configure = (reusePort: boolean) => writeFileSync(path, JSON.stringify({ ...onOnePort('lines'), reusePort }))
  configure(false)
  const server = await superserve(path, { signals: false, notify: false })
  t.teardown(() => server.close({ timeout: 0 }))
  configure(true)
  await t.throwsAsync(server.reload(), invalid)
  t.is(await (await call(t, where(server))).ask('hello'), 'hello')
})
