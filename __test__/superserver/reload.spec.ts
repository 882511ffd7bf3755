import { type ChildProcess, spawn } from 'node:child_process'
import dns from 'node:dns/promises'
import { realpathSync, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'
import test from 'ava'
import { pipe } from 'fdpass'
import { type ExitEvent, superserve } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newFolder, newPath } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { endWith, fixturePath } from '../helpers/processes.ts'
import { turns } from '../helpers/promises.ts'
import { begin, call, handoffs, isThere, nextOf, onLoopback, pidsOf, sceneOf, where } from '../helpers/superserver.ts'

const isRoot = process.getuid?.() === 0

onlyIf(isRoot && isLinux, 'needs root')(
  'beyond maxPerClient the connections of a user of this machine are closed at once, and another user is served [S71]',
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

test('reload() leaves a connection to its worker, which drains, and passes new ones to another', async (t) => {
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

test('reloads that are requested while one runs are one together [S269]', async (t) => {
  const server = await begin(t, onLoopback('lines'))
  let spawned = 0
  server.on('spawn', () => spawned++)
  const first = Array.from({ length: 10 }, () => server.reload())
  await nextOf(server, 'spawn')
  const further = Array.from({ length: 10 }, () => server.reload())
  await Promise.all([...first, ...further])
  t.is(spawned, 2)
})

test('a worker that drains for longer than drainTimeout is killed [S100]', async (t) => {
  const server = await begin(t, { ...onLoopback('lines'), drainTimeout: 50 })
  const [old] = pidsOf(server)
  const client = await call(t, where(server))
  await client.ask('hello')
  const exit = nextOf<ExitEvent>(server, 'exit')
  await server.reload()
  t.like(await exit, { pid: old!, signal: 'SIGKILL', lost: 1, reason: 'drainTimeout' })
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

test.serial(
  'close() waits neither for a name that a reload looks up nor for a worker that it starts [S261]',
  async (t) => {
    const file = newPath()
    const configure = (options: object) => writeFileSync(file, JSON.stringify({ ...onLoopback('lines'), ...options }))
    const { lookup } = dns
    const start = async () => {
      configure({})
      const server = await superserve(file, { signals: false, notify: false })
      t.teardown(() => server.close({ timeout: 0 }))
      return server
    }
    const named = await start()
    configure({ listen: ['tcp:127.0.0.1:0', 'tcp:name.invalid:0'] })
    let reloading: Promise<unknown>
    try {
      const asked = new Promise<void>((resolve) => {
        dns.lookup = (() => new Promise(() => resolve())) as unknown as typeof lookup
        syncBuiltinESMExports()
      })
      reloading = t.throwsAsync(named.reload(), { code: 'ERR_SERVER_CLOSED' })
      await asked
    } finally {
      dns.lookup = lookup
      syncBuiltinESMExports()
    }
    await named.close()
    await reloading

    const started = await start()
    const module = newPath('never-ready')
    writeFileSync(module, 'setInterval(() => {}, 1000)')
    configure({ handoff: 'listener', module, readyTimeout: 2 ** 31 - 1 })
    const failing = t.throwsAsync(started.reload(), { code: 'ERR_SERVER_CLOSED' })
    await nextOf(started, 'spawn')
    await started.close({ timeout: 0 })
    await failing
  }
)

test('relative paths of a file begin in its folder', async (t) => {
  const folder = newFolder()
  const file = join(folder, 'services')
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

test('connections in the backlog while a file is read again are served by the new configuration', async (t) => {
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
