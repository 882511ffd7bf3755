import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { fixtureSource } from '../helpers/processes.ts'
import { Load, assertAllAnswered, serving, startServer } from '../helpers/takeovers.ts'

const onPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 on Linux', test.serial)

onPython('a successor that crashes at any stage of its start changes nothing for clients', async (t) => {
  const path = newPath()
  const old = startServer(t, path, 'old', 'net')
  const port = await serving(old)
  const load = new Load(t, port, 'net')
  await load.goesOn()
  for (const crash of ['connected', 'asked', 'state', 'taken', 'serving']) {
    const next = startServer(t, path, crash, 'net', crash)
    t.is((await next.exited)[1], 'SIGKILL', crash)
  }
  const last = startServer(t, path, 'last', 'net')
  t.is(await serving(last), port)
  t.is((await old.lines.next()).value, 'superseded')
  await load.answeredBy('last ')
  const seen = await load.end()
  assertAllAnswered(t, seen)
  t.deepEqual(Object.keys(seen.by).toSorted(), ['last ', 'old '])
})

onPython('a superserver that crashes before it is ready changes nothing for clients', async (t) => {
  const path = newPath()
  const old = startServer(t, path, 'old', 'superserver')
  const port = await serving(old)
  const load = new Load(t, port, 'superserver')
  await load.goesOn()
  for (const crash of ['taken', 'serving']) {
    const next = startServer(t, path, crash, 'superserver', crash)
    t.is((await next.exited)[1], 'SIGKILL')
  }
  await load.goesOn()
  const seen = await load.end()
  assertAllAnswered(t, seen)
  t.deepEqual(Object.keys(seen.by), ['old '])
})

onPython('a successor that is stopped is left out after the timeout, and the next one takes over', async (t) => {
  const path = newPath()
  const old = startServer(t, path, 'old', 'net', '', 3000)
  const port = await serving(old)
  const stopped = startServer(t, path, 'stopped', 'net', 'stopped taken')
  t.is((await stopped.lines.next()).value, 'stopped taken')
  const next = startServer(t, path, 'next', 'net')
  const load = new Load(t, port, 'net')
  await load.goesOn()
  t.is(await serving(next), port)
  stopped.child.kill('SIGCONT')
  t.not((await stopped.exited)[0], 0)
  await load.goesOn()
  const seen = await load.end()
  assertAllAnswered(t, seen)
  t.false('stopped ' in seen.by)
})

onlyIf(
  isLinux,
  'needs Linux',
  test.serial
)('clients that keep their connections alive lose no request in five upgrades', async (t) => {
  const path = newPath()
  let server = startServer(t, path, 'process-0', 'http')
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
    const next = startServer(t, path, `process-${i}`, 'http')
    t.is(await serving(next), port)
    server = next
  }
  while (!names.has('process-5')) await delay(10)
  stop.abort()
  await Promise.all(clients)
  t.is(names.size, 6)
  server.child.kill('SIGTERM')
})

onPython('a process in Python takes over from one in Node, and hands on to the next one', async (t) => {
  const path = newPath()
  const old = startServer(t, path, 'old', 'net')
  const port = await serving(old)
  const python = spawn('python3', [fixtureSource('services.py'), 'takeover', path], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => python.kill('SIGKILL'))
  const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]()
  t.is((await lines.next()).value, `${port} ${old.child.pid} state`)
  t.is((await old.lines.next()).value, 'superseded')
  const load = new Load(t, port, 'net')
  await load.answeredBy('python ')
  const next = startServer(t, path, 'next', 'net')
  t.is(await serving(next), port)
  t.is((await lines.next()).value, 'superseded')
  await load.answeredBy('next ')
  const seen = await load.end()
  assertAllAnswered(t, seen)
  t.deepEqual(Object.keys(seen.by).toSorted(), ['next ', 'python '])
})

test.serial('a process that is killed while its successor starts leaves it everything', async (t) => {
  const path = newPath()
  const old = startServer(t, path, 'old', 'net')
  const port = await serving(old)
  const next = startServer(t, path, 'next', 'net', 'stopped taken')
  t.is((await next.lines.next()).value, 'stopped taken')
  old.child.kill('SIGKILL')
  await old.exited
  // It has printed that it is about to stop.
  const waking = setInterval(() => next.child.kill('SIGCONT'), 50)
  t.teardown(() => clearInterval(waking))
  t.is(await serving(next), port)
  t.true(existsSync(path))
  const third = startServer(t, path, 'third', 'net')
  t.is(await serving(third), port)
  t.is((await next.lines.next()).value, 'superseded')
})
