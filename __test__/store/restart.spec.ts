import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { type AddressInfo, connect as dial, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { Channel, connect } from 'fdpass'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { readAllOf } from '../helpers/connections.ts'
import { newPath } from '../helpers/descriptors.ts'
import { finish, fixturePath, fixtureSource } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { begin, client, get, open, put } from '../helpers/stores.ts'

test('a successor has everything, and clients that are connected notice nothing', async (t) => {
  const path = newPath()
  const first = await open(t, { path })
  const store = await client(t, path)
  const idle = await client(t, path)
  await put(store, 'file', 'kept')
  await put(store, 'soon', 'gone', { expires: 3000 })
  const second = await open(t, { path })
  await first.superseded
  t.true(first.closed)
  t.is(await get(store, 'file'), 'kept')
  t.is((await idle.list()).length, 2)
  t.true((await idle.list())[1]!.expires! <= 3000)
  await put(store, 'more', 'more')
  const third = await open(t, { path })
  await second.superseded
  t.is(await get(idle, 'more'), 'more')
  third.close()
  t.false(existsSync(path))
  t.false(existsSync(`${path}.takeover`))
})

test('a change that another client asks for while a successor starts is refused: the client has to ask the successor', async (t) => {
  const path = newPath()
  const first = await open(t, { path })
  using channel = new Channel(await connect(path))
  await open(t, { path })
  t.is(((await channel.receive())!.value as { moved: boolean }).moved, true)
  const change = channel.request({ ask: 'delete', name: 'name' })
  await t.throwsAsync(change, { code: 'ERR_STORE_MOVED', message: 'The store has moved' })
  channel.close()
  await first.superseded
})

test('a store that a successor has replaced answers what clients have sent before it closes their connections', async (t) => {
  const path = newPath()
  const first = await open(t, { path })
  using channel = new Channel(await connect(path))
  await channel.request({ ask: 'list' })
  await open(t, { path })
  t.is(((await channel.receive())!.value as { moved: boolean }).moved, true)
  const change = channel.request({ ask: 'delete', name: 'name' })
  // The time that clients have to move is over before the store reads the request.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500)
  await t.throwsAsync(change, { code: 'ERR_STORE_MOVED' })
  await first.superseded
  await t.throwsAsync(channel.request({ ask: 'list' }), { code: 'EPIPE' })
})

test('changes that come while a successor starts reach it, and none is lost', async (t) => {
  const path = newPath()
  let service = await open(t, { path })
  const store = await client(t, path)
  const names: string[] = []
  const stop = new AbortController()
  const changing = (async () => {
    for (let i = 0; !stop.signal.aborted; i++) {
      names.push(`name-${i}`)
      await put(store, `name-${i}`, `content-${i}`)
      if (i >= 20) await store.delete(names.shift()!)
    }
  })()
  for (let i = 0; i < 10; i++) {
    const next = await open(t, { path })
    await service.superseded
    service = next
    await delay(20)
  }
  stop.abort()
  await changing
  t.deepEqual(
    (await store.list()).map(({ name }) => name),
    names
  )
  t.is(await get(store, names.at(-1)!), names.at(-1)!.replace('name', 'content'))
})

test('a connection survives the restart of the process that has put it, and that of the store', async (t) => {
  const path = newPath()
  const start = () => {
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('services'), 'serve', path], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.teardown(() => child.kill('SIGKILL'))
    return { child, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() }
  }
  const first = start()
  t.is((await first.lines.next()).value, 'ready')
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const dialled = dial((server.address() as AddressInfo).port, '127.0.0.1')
  const [connection] = await once(server, 'connection')
  const store = await client(t, path)
  await store.put('connection', connection)
  connection.destroy()
  server.close()
  store.close()
  const second = start()
  t.is((await second.lines.next()).value, 'ready')
  t.is((await first.lines.next()).value, 'superseded')
  await once(first.child, 'exit')
  const [fd] = await (await client(t, path)).get('connection', { remove: true })
  fd!.toSocket().end('still the same connection')
  t.is((await readAllOf(dialled)).toString(), 'still the same connection')
})

test('a client finds a store again that was restarted without a successor, and its entries gone', async (t) => {
  const path = newPath()
  const service = await open(t, { path })
  const store = await client(t, path)
  await put(store, 'file', '')
  service.close()
  await t.throwsAsync(store.list(), { code: 'ENOENT' })
  await open(t, { path })
  t.deepEqual(await store.list(), [])
})

test('a killed store rejects pending calls, and leaves a file that its next start replaces', async (t) => {
  const path = newPath()
  const start = async () => {
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('services'), 'serve', path], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.teardown(() => child.kill('SIGKILL'))
    await once(child.stdout, 'data')
    return child
  }
  const child = await start()
  const store = await client(t, path)
  child.kill('SIGSTOP')
  const waiting = store.list()
  t.true(await isPending(waiting))
  child.kill('SIGKILL')
  await t.throwsAsync(waiting, { code: 'ECONNRESET' })
  await start()
  t.deepEqual(await store.list(), [])
})

onlyIf(hasPython, 'needs Python 3.9')('a client in Python puts, gets, lists and is refused', async (t) => {
  const [store, path] = await begin(t)
  await put(store, 'file', 'for Python')
  const child = spawn('python3', [fixtureSource('services.py'), 'store', path], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  t.is(await finish(child), 'None EEXIST\nfor Python\npipe\nENOENT\n')
  const [fd] = await store.get('pipe')
  t.is(fd!.kind, 'fifo')
  fd!.closeSync()
})
