import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type UnixSocket, handOver, socketpair } from 'fdpass'
import { openSmall } from '../helpers/channels.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { answer } from '../helpers/connections.ts'
import { countFds, temporaryFolder } from '../helpers/descriptors.ts'
import { finish, fixturePath, fixtureSource, startFixture } from '../helpers/processes.ts'

const COUNT = 20_000
const CONCURRENCY = 200

const random = (below: number) => Math.floor(Math.random() * below)

/** Ways in which a hand-over fails before the kernel has the connection; each leaves it as it was. */
const failures: ((connection: Socket) => Promise<unknown>)[] = [
  function toNobody(connection) {
    const [a, b] = socketpair()
    b.close()
    return handOver(a, connection).finally(() => a.close())
  },
  function aborted(connection) {
    const [a, b] = fullChannel()
    const signal = AbortSignal.timeout(random(5))
    return handOver(a, connection, undefined, { signal }).finally(() => closeAll(a, b))
  },
  function closed(connection) {
    const [a, b] = fullChannel()
    setTimeout(() => (Math.random() < 0.5 ? a : b).close(), random(5))
    return handOver(a, connection).finally(() => closeAll(a, b))
  },
  function inPart(connection) {
    const [a, b] = socketpair()
    setTimeout(() => b.close(), random(5))
    return handOver(a, connection, padded).finally(() => closeAll(a, b))
  },
  function withoutMessage(connection) {
    const [a, b] = socketpair()
    return handOver(a, connection, fail).finally(() => closeAll(a, b))
  }
]

function fail(): never {
  throw new Error('no message')
}

function padded(head: Uint8Array): Uint8Array {
  return Buffer.concat([head, Buffer.alloc(1024 * 1024)])
}

function fullChannel(): [UnixSocket, UnixSocket] {
  const [a, b] = socketpair()
  a.send(Buffer.alloc(1024 * 1024)).catch(() => {})
  return [a, b]
}

function closeAll(...sockets: UnixSocket[]): void {
  sockets.forEach((socket) => socket.close())
}

/** Starts a process that opens `count` connections, and resolves to the number of right answers. */
async function talk(port: number, count: number, request = ''): Promise<unknown> {
  const args = [fixturePath('hand-over'), 'clients', `${port}`, `${count}`, `${CONCURRENCY}`, request]
  return JSON.parse(await finish(spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })))
}

/** Serves so many connections: most go to one of two processes, after some failures or none; some stay here after them. */
async function serve(t: ExecutionContext, count: number): Promise<void> {
  const workers = [startFixture('hand-over', ['answer', 'rough']), startFixture('hand-over', ['answer', 'rough'])]
  const counts = { handedOver: 0, failed: 0, kept: 0 }
  async function dispatch(connection: Socket): Promise<void> {
    if (Math.random() < 0.7) await delay(random(4)) // meanwhile Node reads
    for (let tries = random(3); tries > 0; tries--) {
      if (Math.random() < 0.7) continue
      await t.throwsAsync(failures[random(failures.length)]!(connection))
      counts.failed++
      if (Math.random() < 0.5) await delay(random(3))
    }
    if (Math.random() < 0.05) {
      counts.kept++
      answer(connection)
      return
    }
    await handOver(workers[random(2)]!.socket, connection)
    counts.handedOver++
  }
  const server = new Server({ allowHalfOpen: true }, (connection) => {
    dispatch(connection).catch((error: Error) => t.fail(error.stack))
  })
  server.listen(0)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  t.deepEqual(await talk(port, count), { right: count, wrong: [] })
  server.close()
  for (const { socket, done } of workers) {
    socket.close()
    t.is(await done, '')
  }
  t.log(counts)
  t.is(counts.handedOver + counts.kept, count)
}

const everyByte = `${COUNT} connections with data at random moments: each byte arrives once, in order, whatever fails`

test.serial(everyByte, async (t) => {
  t.timeout(600_000)
  await serve(t, 200) // what stays open from now on, such as the back end's own
  const before = countFds()
  await serve(t, COUNT)
  for (const deadline = performance.now() + 5000; countFds() !== before && performance.now() < deadline;) await delay(5)
  t.is(countFds(), before)
})

const PROXIED = 10_000
const upgrade = 'GET /words HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: words\r\n\r\n'
const withCompiler = onlyIf(spawnSync('cc', ['--version']).status === 0, 'needs a C compiler', test.serial)

withCompiler(`a front in C hands ${PROXIED} HTTP upgrades over to a worker, every byte in place`, async (t) => {
  t.timeout(600_000)
  const front = join(temporaryFolder(), 'front')
  execFileSync('cc', ['-O2', '-D_GNU_SOURCE', '-Wall', '-Werror', '-o', front, fixtureSource('front.c')])
  const worker = startFixture('hand-over')
  const child = spawn(front, [`${PROXIED}`], { stdio: ['ignore', 'pipe', 'inherit', worker.socket.fd] })
  worker.socket.close()
  const printed = finish(child)
  const [port] = (await once(child.stdout!, 'data')) as [string]
  t.deepEqual(await talk(Number(port), PROXIED, upgrade), { right: PROXIED, wrong: [] })
  await printed
  t.is(await worker.done, '')
})

/** `npm run test:load` sets a million. */
const MESSAGES = Number(process.env.FDPASS_MESSAGES ?? 10_000)

const seed = Number(process.env.FDPASS_SEED ?? Math.floor(Math.random() * 2 ** 31))

onlyIf(hasPython, 'needs Python 3.9')(
  `${MESSAGES} messages of 0 to 300 KiB with 0 to 600 descriptors arrive whole and in order, through a small buffer and past a reader that stalls (seed ${seed})`,
  async (t) => {
    t.timeout(30 * 60_000)
    const ends = await openSmall(t, 8192)
    const programs = ['send', 'receive'].map((role, i) => {
      const end = ends[i]!
      const program = [...process.execArgv, fixturePath('channel-load'), role, `${MESSAGES}`, `${seed}`]
      const child = spawn(process.execPath, program, { stdio: ['ignore', 'pipe', 'inherit', end.fd] })
      end.close() // only the child holds that end from now on
      return finish(child)
    })
    const [, output] = await Promise.all(programs)
    const { descriptors } = JSON.parse(output!) as { descriptors: number }
    t.log(`${descriptors} descriptors`)
    t.true(descriptors > MESSAGES / 10)
  }
)
