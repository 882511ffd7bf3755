import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, readSync, statSync, writeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { Descriptor, memfd, pipe } from 'fdpass'
import { connectStore, serveStore } from 'fdpass/store'
import { hasWriter, newPath, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { begin, client, get, open, put } from '../helpers/stores.ts'

test.serial(
  'a failure inside of the store is EIO for its client, and a warning of the process that serves',
  async (t) => {
    const [store] = await begin(t)
    await put(store, 'file', 'content')
    const kind = Object.getOwnPropertyDescriptor(Descriptor.prototype, 'kind')!
    t.teardown(() => Object.defineProperty(Descriptor.prototype, 'kind', kind))
    Object.defineProperty(Descriptor.prototype, 'kind', {
      ...kind,
      get() {
        throw new Error('kind() is broken')
      }
    })
    const warned = once(process, 'warning')
    await t.throwsAsync(store.list(), { code: 'EIO', message: 'The store has failed' })
    t.like((await warned)[0], { code: 'FDPASS_SERVICE_FAILED', message: 'store: kind() is broken' })
  }
)

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

test('list returns names, kinds, owners and expiry times [S60]', async (t) => {
  const [store] = await begin(t)
  await put(store, 'first', '')
  await put(store, 'second', '', { expires: 60_000, mode: 0o644 })
  const [first, second] = await store.list()
  const [uid, gid] = [process.getuid!(), process.getgid!()]
  t.deepEqual(first, { name: 'first', kinds: ['file'], uid, gid, mode: 0o600, expires: null })
  t.is(second!.mode, 0o644)
  t.true(second!.expires! > 50_000 && second!.expires! <= 60_000)
})

test('limits hold: of the store, and of a user [S58]', async (t) => {
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
