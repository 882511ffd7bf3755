import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { join } from 'node:path'
import { type Interface, createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { finish, fixturePath, fixtureSource } from '../helpers/processes.ts'

const onPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 on Linux', test.serial)

/** The bar is 2,000 connections a second. */
const RATE = 2000
const UPGRADES = 10

const folder = temporaryFolder()
let paths = 0

type Kind = 'net' | 'http' | 'superserver'

/** A process of the row. */
interface Server {
  readonly child: ChildProcess
  readonly lines: AsyncIterator<string, undefined>
  /** Its end, which may come before its last line was read. */
  readonly exited: Promise<[number | null, NodeJS.Signals | null]>
}

function start(t: ExecutionContext, path: string, name: string, kind: Kind, crash = '', timeout = 60_000): Server {
  const args = [fixturePath('takeover-server'), path, name, kind, crash, `${timeout}`]
  const errors = crash === '' ? 'inherit' : 'ignore' // it may fail, as it should
  const child = spawn(process.execPath, [...process.execArgv, ...args], { stdio: ['ignore', 'pipe', errors] })
  t.teardown(() => child.kill('SIGKILL'))
  const lines: Interface = createInterface({ input: child.stdout })
  return {
    child,
    lines: lines[Symbol.asyncIterator]() as Server['lines'],
    exited: once(child, 'exit') as Server['exited']
  }
}

/** Resolves when a process serves, to its port. */
async function serving({ lines }: Server): Promise<number> {
  const port = Number((await lines.next()).value)
  const { value } = await lines.next()
  if (value !== 'ready') throw new Error(`It is not ready: ${value}`)
  return port
}

interface Seen {
  readonly answered: number
  readonly reset: number
  readonly refused: number
  readonly odd: number
  readonly asked: number
  /** Whether the clients have waited for answers, for want of descriptors: this machine cannot answer at the full rate. */
  readonly full: boolean
  /** How long it was asked; answers may have come later. */
  readonly seconds: number
  /** By the name of who has answered. */
  readonly by: Readonly<Record<string, number>>
}

/** Asks at full rate while a task goes on. */
async function underLoad(t: ExecutionContext, port: number, kind: Kind, task: () => Promise<void>): Promise<Seen> {
  const form = kind === 'http' ? 'GET /% HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' : '%'
  const args = [fixtureSource('takeover-load.py'), `${port}`, `${RATE}`, form]
  const client = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => client.kill('SIGKILL'))
  await delay(300)
  await task()
  await delay(300)
  client.stdin.end()
  const seen = JSON.parse(await finish(client)) as Seen
  t.log(JSON.stringify(seen))
  return seen
}

function assertAllAnswered(t: ExecutionContext, { answered, reset, refused, odd, asked, full, seconds }: Seen): void {
  t.deepEqual([refused, reset, odd], [0, 0, 0])
  t.is(answered, asked)
  t.true(full || asked > RATE * seconds * 0.9, 'the rate was kept, or all that the servers could answer')
}

for (const kind of ['net', 'http', 'superserver'] as const) {
  onPython(
    `${UPGRADES} upgrades in a row under ${RATE} connections a second to a ${kind} server: none refused, none reset`,
    async (t) => {
      const path = join(folder, `x${paths++}`)
      let server = start(t, path, 'process-0', kind)
      const port = await serving(server)
      const seen = await underLoad(t, port, kind, async () => {
        for (let i = 1; i <= UPGRADES; i++) {
          const next = start(t, path, `process-${i}`, kind)
          t.is(await serving(next), port)
          t.is((await server.lines.next()).value, 'superseded')
          t.is((await server.lines.next()).value, 'ended')
          await server.exited
          server = next
        }
      })
      assertAllAnswered(t, seen)
      t.is(Object.keys(seen.by).length, UPGRADES + 1)
      server.child.kill('SIGTERM')
    }
  )
}

onPython('a successor that crashes at any stage of its start changes nothing for clients', async (t) => {
  const path = join(folder, `x${paths++}`)
  const old = start(t, path, 'old', 'net')
  const port = await serving(old)
  const seen = await underLoad(t, port, 'net', async () => {
    for (const crash of ['connected', 'asked', 'state', 'taken', 'serving']) {
      const next = start(t, path, crash, 'net', crash)
      t.is((await next.exited)[1], 'SIGKILL', crash)
    }
    const last = start(t, path, 'last', 'net')
    t.is(await serving(last), port)
    t.is((await old.lines.next()).value, 'superseded')
  })
  assertAllAnswered(t, seen)
  t.deepEqual(Object.keys(seen.by).toSorted(), ['last ', 'old '])
})

onPython('a superserver that crashes before it is ready changes nothing for clients', async (t) => {
  const path = join(folder, `x${paths++}`)
  const old = start(t, path, 'old', 'superserver')
  const port = await serving(old)
  const seen = await underLoad(t, port, 'superserver', async () => {
    for (const crash of ['taken', 'serving']) {
      const next = start(t, path, crash, 'superserver', crash)
      t.is((await next.exited)[1], 'SIGKILL')
    }
  })
  assertAllAnswered(t, seen)
  t.deepEqual(Object.keys(seen.by), ['old '])
})

onPython('a successor that is stopped is left out after the timeout, and the next one takes over', async (t) => {
  const path = join(folder, `x${paths++}`)
  const old = start(t, path, 'old', 'net', '', 3000)
  const port = await serving(old)
  const stopped = start(t, path, 'stopped', 'net', 'stopped taken')
  t.is((await stopped.lines.next()).value, 'stopped taken')
  const next = start(t, path, 'next', 'net')
  const seen = await underLoad(t, port, 'net', async () => {
    t.is(await serving(next), port)
    stopped.child.kill('SIGCONT')
    t.not((await stopped.exited)[0], 0)
  })
  assertAllAnswered(t, seen)
  t.false('stopped ' in seen.by)
})

onlyIf(
  isLinux,
  'needs Linux',
  test.serial
)('clients that keep their connections alive lose no request in five upgrades', async (t) => {
  const path = join(folder, `x${paths++}`)
  let server = start(t, path, 'process-0', 'http')
  const port = await serving(server)
  const agent = new Agent({ keepAlive: true, maxSockets: 20 })
  t.teardown(() => agent.destroy())
  const stop = new AbortController()
  const names = new Set<string>()
  const ask = async (client: number) => {
    for (let i = 0; !stop.signal.aborted; i++) {
      const request = get({ port, host: '127.0.0.1', path: `/${client}-${i}`, agent })
      const [response] = (await once(request, 'response')) as [NodeJS.ReadableStream]
      const [name, question] = (await text(response)).split(' ')
      if (question !== `${client}-${i}`) throw new Error(`${question}`)
      names.add(name!)
      await delay(client)
    }
  }
  const clients = Array.from({ length: 20 }, (_, client) => ask(client))
  for (let i = 1; i <= 5; i++) {
    const next = start(t, path, `process-${i}`, 'http')
    t.is(await serving(next), port)
    server = next
  }
  await delay(200)
  stop.abort()
  await Promise.all(clients)
  t.is(names.size, 6)
  server.child.kill('SIGTERM')
})

onPython('a process in Python takes over from one in Node, and hands on to the next one', async (t) => {
  const path = join(folder, `x${paths++}`)
  const old = start(t, path, 'old', 'net')
  const port = await serving(old)
  const python = spawn('python3', [fixtureSource('takeover.py'), path], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => python.kill('SIGKILL'))
  const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]()
  t.is((await lines.next()).value, `${port} ${old.child.pid} state`)
  t.is((await old.lines.next()).value, 'superseded')
  const seen = await underLoad(t, port, 'net', async () => {
    await delay(200)
    const next = start(t, path, 'next', 'net')
    t.is(await serving(next), port)
    t.is((await lines.next()).value, 'superseded')
  })
  assertAllAnswered(t, seen)
  t.deepEqual(Object.keys(seen.by).toSorted(), ['next ', 'python '])
})

test.serial('a process that is killed while its successor starts leaves it everything', async (t) => {
  const path = join(folder, `x${paths++}`)
  const old = start(t, path, 'old', 'net')
  const port = await serving(old)
  const next = start(t, path, 'next', 'net', 'stopped taken')
  t.is((await next.lines.next()).value, 'stopped taken')
  old.child.kill('SIGKILL')
  await old.exited
  next.child.kill('SIGCONT')
  t.is(await serving(next), port)
  t.true(existsSync(path))
  const third = start(t, path, 'third', 'net')
  t.is(await serving(third), port)
  t.is((await next.lines.next()).value, 'superseded')
})
