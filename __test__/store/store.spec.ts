import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync, existsSync, readSync, statSync, writeSync } from 'node:fs'
import { type AddressInfo, connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Channel, connect, memfd, pipe } from 'fdpass'
import { type ServeStoreOptions, type Store, type StoreService, connectStore, serveStore } from 'fdpass/store'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { readAllOf } from '../helpers/connections.ts'
import { hasWriter, openFile, openPipe, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { finish, fixturePath, fixtureSource } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { until } from '../helpers/superservers.ts'

const asRoot = onlyIf(process.getuid?.() === 0, 'needs to begin as root')

const folder = temporaryFolder()
chmodSync(folder, 0o755)
let paths = 0

const newPath = () => join(folder, `x${paths++}`)

async function open(t: ExecutionContext, options: ServeStoreOptions): Promise<StoreService> {
  const service = await serveStore(options)
  t.teardown(() => service.close())
  return service
}

/** A store, and a client of it. */
async function begin(t: ExecutionContext, options: Partial<ServeStoreOptions> = {}): Promise<[Store, string]> {
  const path = newPath()
  await open(t, { path, ...options })
  return [await client(t, path), path]
}

async function client(t: ExecutionContext, path: string): Promise<Store> {
  const store = await connectStore(path)
  t.teardown(() => store.close())
  return store
}

/** Has a file kept, and closes it here. */
async function put(store: Store, name: string, content: string, options = {}): Promise<void> {
  const file = openFile(content)
  const kept = store.put(name, file, options)
  closeSync(file) // at once
  await kept
}

/** What the file holds that is kept under a name. */
async function get(store: Store, name: string, options = {}): Promise<string> {
  const [fd] = await store.get(name, options)
  const content = readAll(fd!.fd)
  fd!.closeSync()
  return content
}

test('what is put comes back, as often as it is asked for, with its shared offset', async (t) => {
  const [store, path] = await begin(t)
  await put(store, 'file', 'content')
  t.is(await get(store, 'file'), 'content')
  t.is(await get(await client(t, path), 'file'), '', 'read to its end by the one before: it is the same open file')
})

test('several descriptors of any kind stay in order', async (t) => {
  const [store] = await begin(t)
  const [read, write] = pipe()
  const memory = memfd({ data: 'memory' })
  const file = openFile('file')
  await store.put('all', [read, write, memory, file])
  for (const fd of [read, write, memory]) fd.closeSync()
  closeSync(file)
  t.deepEqual((await store.list())[0]!.kinds, ['fifo', 'fifo', 'memfd', 'file'])
  const got = await store.get('all')
  writeSync(got[1]!.fd, 'through')
  const buffer = Buffer.alloc(7)
  t.is(readSync(got[0]!.fd, buffer), 7)
  t.is(buffer.toString(), 'through')
  for (const fd of got) fd.closeSync()
})

test('253 descriptors can be kept under a name, and no more', async (t) => {
  const [store] = await begin(t)
  const file = openFile('many')
  await store.put(
    'many',
    Array.from({ length: 253 }, () => file)
  )
  const got = await store.get('many')
  t.is(got.length, 253)
  t.is(readAll(got[252]!.fd), 'many')
  for (const fd of got) fd.closeSync()
  const more = Array.from({ length: 254 }, () => file)
  await t.throwsAsync(store.put('more', more), { code: 'ERR_OUT_OF_RANGE' })
  closeSync(file)
})

test('a name is taken until it is replaced, removed or deleted', async (t) => {
  const [store] = await begin(t)
  await put(store, 'name', 'one')
  await t.throwsAsync(put(store, 'name', 'two'), { code: 'EEXIST', message: /store 'name'/ })
  t.is(await get(store, 'name'), 'one')
  await put(store, 'name', 'two', { replace: true })
  t.is(await get(store, 'name', { remove: true }), 'two')
  await t.throwsAsync(store.get('name'), { code: 'ENOENT' })
  await put(store, 'name', 'three')
  await store.delete('name')
  await t.throwsAsync(store.delete('name'), { code: 'ENOENT' })
  t.deepEqual(await store.list(), [])
})

test('what is deleted, replaced or expires is closed there', async (t) => {
  const [store] = await begin(t)
  for (const [name, options, end] of [
    ['deleted', {}, () => store.delete('deleted')],
    ['replaced', {}, () => put(store, 'replaced', '', { replace: true })],
    ['expired', { expires: 1000 }, () => delay(1100)]
  ] as const) {
    const { read, write } = openPipe()
    await store.put(name, write, options)
    closeSync(write)
    t.true(hasWriter(read), name)
    await end()
    await until(() => !hasWriter(read))
    closeSync(read)
  }
  await t.throwsAsync(store.get('expired'), { code: 'ENOENT' })
})

test('list tells names, kinds, whose they are, and for how long', async (t) => {
  const [store] = await begin(t)
  await put(store, 'first', '')
  await put(store, 'second', '', { expires: 60_000, mode: 0o644 })
  const [first, second] = await store.list()
  const [uid, gid] = [process.getuid!(), process.getgid!()]
  t.deepEqual(first, { name: 'first', kinds: ['file'], uid, gid, mode: 0o600, expires: null })
  t.is(second!.mode, 0o644)
  t.true(second!.expires! > 50_000 && second!.expires! <= 60_000)
})

test('limits hold: of the store, and of a user', async (t) => {
  const [store] = await begin(t, { maxFds: 3 })
  await put(store, 'a', '')
  await put(store, 'b', '')
  const file = openFile()
  await t.throwsAsync(store.put('c', [file, file]), { code: 'ENOSPC', message: /at most 3/ })
  await store.put('b', [file, file], { replace: true })
  t.deepEqual(
    (await store.list()).map(({ kinds }) => kinds.length),
    [1, 2]
  )
  closeSync(file)
})

/** Runs a client of another user; gives what it printed. */
function clientOf(path: string, uid: number, gid: number, groups: number[], ...calls: string[]): Promise<string> {
  const args = [fixturePath('store-client'), path, `${uid}`, `${gid}`, groups.join(','), ...calls]
  const child = spawn(process.execPath, [...process.execArgv, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  return finish(child)
}

asRoot('entries are for their owner, group and others as files are', async (t) => {
  const [store, path] = await begin(t, { mode: 0o666 })
  const [owner, member, other] = [
    (...calls: string[]) => clientOf(path, 1001, 1001, [2000], ...calls),
    (...calls: string[]) => clientOf(path, 1002, 1002, [2000], ...calls),
    (...calls: string[]) => clientOf(path, 1003, 1003, [], ...calls)
  ]
  t.is(
    await owner(
      'put private',
      'put shared {"mode":416,"group":2000}',
      'put common {"mode":438}',
      'put foreign {"group":3000}'
    ),
    'put\nput\nput\nEPERM\n'
  )
  t.is(await member('list x'), 'shared,common\nlist\n')
  t.is(
    await member('get private', 'get shared', 'delete shared', 'put shared {"replace":true}'),
    'EACCES\nthe file\nget\nEACCES\nEACCES\n'
  )
  t.is(
    await other('list x', 'get shared', 'delete private', 'put common {"replace":true}'),
    'common\nlist\nEACCES\nEACCES\nput\n'
  )
  t.is(await other('get common {"remove":true}', 'get common'), 'the file\nget\nENOENT\n')
  t.is((await store.list()).length, 2, 'root sees all')
  await store.delete('private')
})

asRoot('a user cannot have more kept than is allowed, and root can', async (t) => {
  const [store, path] = await begin(t, { mode: 0o666, maxPerUser: 2 })
  t.is(
    await clientOf(path, 1001, 1001, [], 'put a', 'put b', 'put c', 'delete a', 'put c'),
    'put\nput\nEDQUOT\ndelete\nput\n'
  )
  for (const name of ['d', 'e', 'f']) await put(store, name, '')
})

asRoot('who is not allowed gets nothing', async (t) => {
  const [store, path] = await begin(t, { mode: 0o666, allow: ({ uid }) => uid !== 1001 })
  await put(store, 'common', '', { mode: 0o666 })
  t.is(await clientOf(path, 1001, 1001, [], 'list x', 'get common', 'put mine'), 'EACCES\nEACCES\nEACCES\n')
  t.is(await clientOf(path, 1002, 1002, [], 'list x'), 'common\nlist\n')
  const [, own] = await begin(t)
  t.is(await clientOf(own, 1002, 1002, [], 'list x'), 'EACCES\n', 'only its own user may connect')
})

test("what allow throws is the client's error", async (t) => {
  const [store] = await begin(t, { allow: () => Promise.reject(new TypeError('a mistake')) })
  await t.throwsAsync(store.list(), { message: 'a mistake' })
  const [other] = await begin(t, { allow: (() => 1) as never })
  await t.throwsAsync(other.list(), { code: 'ERR_INVALID_RETURN_VALUE' })
})

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
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('store-service'), path], {
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

test('a store that is killed leaves an error to those who wait, and a file that its next start replaces', async (t) => {
  const path = newPath()
  const start = async () => {
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('store-service'), path], {
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
  const child = spawn('python3', [fixtureSource('store.py'), path], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.is(await finish(child), 'None EEXIST\nfor Python\npipe\nENOENT\n')
  const [fd] = await store.get('pipe')
  t.is(fd!.kind, 'fifo')
  fd!.closeSync()
})

const questions: Record<string, [unknown, string]> = {
  'something unknown': ['put', 'EPROTO'],
  'nothing that it knows': [{ ask: 'steal', name: 'x' }, 'EPROTO'],
  'a name that is none': [{ ask: 'get', name: 'a:b' }, 'EPROTO'],
  'to put without descriptors': [{ ask: 'put', name: 'x', expires: null, mode: 0o600, group: null }, 'EPROTO'],
  'more permissions than there are': [
    { ask: 'put', name: 'x', expires: null, mode: 0o7777, group: null },
    'ERR_OUT_OF_RANGE'
  ],
  'a time that is none': [{ ask: 'put', name: 'x', expires: -1, mode: 0o600, group: null }, 'ERR_OUT_OF_RANGE'],
  'a time of another type': [{ ask: 'put', name: 'x', expires: '1', mode: 0o600, group: null }, 'ERR_INVALID_ARG_TYPE']
}
for (const [what, [value, code]] of Object.entries(questions)) {
  test(`a client that asks for ${what} is refused, and its descriptors are closed`, async (t) => {
    const [store, path] = await begin(t)
    const channel = new Channel(await connect(path))
    const { read, write } = openPipe()
    const fds = what.includes('without') ? [] : [write]
    await t.throwsAsync(channel.request(value, fds), { code })
    closeSync(write)
    await until(() => !hasWriter(read))
    closeSync(read)
    channel.close()
    t.deepEqual(await store.list(), [])
  })
}

test('close closes everything that is kept, and clients that are closed reject', async (t) => {
  const path = newPath()
  const service = await open(t, { path })
  t.is(service.address, path)
  t.is(statSync(path).mode & 0o777, 0o600)
  const store = await client(t, path)
  const { read, write } = openPipe()
  await store.put('pipe', write)
  closeSync(write)
  service.close()
  await until(() => !hasWriter(read))
  closeSync(read)
  store.close()
  await t.throwsAsync(store.list(), { code: 'ERR_SOCKET_CLOSED' })
})

test('arguments are checked', async (t) => {
  const [store, path] = await begin(t)
  const type = { code: 'ERR_INVALID_ARG_TYPE' }
  const value = { code: 'ERR_INVALID_ARG_VALUE' }
  const range = { code: 'ERR_OUT_OF_RANGE' }
  await t.throwsAsync(connectStore(5 as never), type)
  await t.throwsAsync(connectStore(newPath()), { code: 'ENOENT' })
  for (const name of ['', 'a:b', 'ä', 'a\n', 'x'.repeat(256)]) await t.throwsAsync(store.get(name), value, name)
  await t.throwsAsync(store.get(5 as never), type)
  await t.throwsAsync(store.put('x', []), value)
  await t.throwsAsync(store.put('x', 'file' as never), type)
  await t.throwsAsync(store.put('x', 9999), { code: 'EBADF' })
  await t.throwsAsync(store.put('x', 0, { expires: 0 }), range)
  await t.throwsAsync(store.put('x', 0, { mode: 0o1000 }), range)
  await t.throwsAsync(store.put('x', 0, { group: 'no such group' }), value)
  await t.throwsAsync(store.put('x', 0, { replace: 1 as never }), type)
  await t.throwsAsync(store.get('x', { remove: 1 as never }), type)
  await t.throwsAsync(store.list({ signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  const wrong: [unknown, object][] = [
    [undefined, type],
    [{}, type],
    [{ path, mode: -1 }, range],
    [{ path, allow: 1 }, type],
    [{ path, maxFds: 4001 }, range],
    [{ path, maxPerUser: 0 }, range],
    [{ path, takeover: path }, value]
  ]
  for (const [options, error] of wrong)
    await t.throwsAsync(serveStore(options as never), error, JSON.stringify(options))
})

test('a client lets the process end, and a store does not', async (t) => {
  const [, path] = await begin(t)
  const program = `import { connectStore } from 'fdpass/store'; await connectStore(${JSON.stringify(path)})`
  const child = spawn(process.execPath, [...process.execArgv, '--input-type=module', '-e', program])
  t.is((await once(child, 'exit'))[0], 0)
})
