import { once } from 'node:events'
import { createServer } from 'node:net'
import test from 'ava'
import { Channel, bindListener, connect, listen as listenAt } from 'fdpass'
import { takeover } from 'fdpass/takeover'
import { openFile } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { begin, newPath, tcp } from '../helpers/takeovers.ts'

test('a process that is not allowed is refused before it gets anything, and the old process serves on [S61]', async (t) => {
  const path = newPath()
  const asked: number[] = []
  const old = await begin(t, {
    path,
    listen: tcp,
    allow({ pid, uid }) {
      asked.push(pid!)
      return uid !== process.getuid!()
    },
    state: () => t.fail() as never
  })
  await t.throwsAsync(takeover({ path, listen: tcp }), { code: 'EACCES', message: /does not allow user \d+/ })
  t.deepEqual(asked, [process.pid])
  t.true(await isPending(old.superseded))
})

test("what allow throws is the other end's error", async (t) => {
  const path = newPath()
  await begin(t, { path, allow: () => Promise.reject(new TypeError('a mistake')) })
  await t.throwsAsync(takeover({ path }), { message: 'a mistake' })
  const other = newPath()
  await begin(t, { path: other, allow: (() => 'yes') as never })
  await t.throwsAsync(takeover({ path: other }), { code: 'ERR_INVALID_RETURN_VALUE' })
})

test('a predecessor that is not allowed is not dealt with [S61]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path })
  await t.throwsAsync(takeover({ path, allow: () => false }), {
    code: 'EACCES',
    message: /the listening process runs as user/
  })
  t.true(await isPending(old.superseded))
})

test('a path whose process does not answer is given up [S64]', async (t) => {
  const path = newPath()
  const server = createServer(() => {}).listen(path)
  await once(server, 'listening')
  await t.throwsAsync(takeover({ path, timeout: 100 }), { code: 'ETIMEDOUT' })
  server.close()
})

const questions: Record<string, unknown> = {
  'something unknown': 'listeners',
  'a wish of a later version': { ask: 'listeners', version: 2, listen: [], connections: false },
  'a wish without listeners': { ask: 'listeners', version: 1 },
  'to be ready before it has anything': { ask: 'ready' },
  'the state before the listeners': { ask: 'state' }
}

for (const [what, value] of Object.entries(questions)) {
  test(`a process that requests ${what} is refused, and the old one serves on [S63]`, async (t) => {
    const path = newPath()
    const old = await begin(t, { path })
    const channel = new Channel(await connect(path))
    await t.throwsAsync(channel.request(value, [0]), { code: 'EPROTO' })
    channel.close()
    const next = await begin(t, { path })
    await old.superseded
    t.is(next.predecessor!.pid, process.pid)
  })
}

test('bytes that are no protocol are refused, and the old process serves on [S63]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path })
  const hostile = await connect(path)
  await hostile.send('GET / HTTP/1.1\r\n\r\n'.repeat(100))
  const next = await begin(t, { path })
  await old.superseded
  t.is(next.predecessor!.pid, process.pid)
  hostile.close()
})

const answers: Record<string, (listener: number) => [unknown, number[]]> = {
  'nothing of the kind': () => ['hello', []],
  'fewer listeners than it says': () => [{ pid: 1, control: null, listeners: [{ file: null }] }, []],
  'a file in the place of a listener': (listener) => [
    { pid: 1, control: null, listeners: [{ file: null }] },
    [listener, openFile('no listener')]
  ],
  'a file name that is none': (listener) => [{ pid: 1, control: '../x', listeners: [null] }, [listener]],
  'more listeners than were asked for': (listener) => [
    { pid: 1, control: null, listeners: [{ file: null }, { file: null }] },
    [listener, listener, listener]
  ]
}

for (const [what, answer] of Object.entries(answers)) {
  test(`a predecessor that sends ${what} is an error [S64]`, async (t) => {
    const path = newPath()
    const server = await listenAt(path)
    const unix = bindListener({ path: newPath() })
    const serving = (async () => {
      const channel = new Channel(await server.accept())
      const [value, fds] = answer(unix.fd)
      channel.onRequest(({ value: wish }) => ((wish as { ask: string }).ask === 'state' ? undefined : { value, fds }))
      await channel.closed
    })()
    await t.throwsAsync(takeover({ path, listen: tcp }), { code: 'EPROTO' })
    await serving
    server.close()
    unix.closeSync()
  })
}

test('arguments are checked', async (t) => {
  const path = newPath()
  const type = { code: 'ERR_INVALID_ARG_TYPE' }
  const value = { code: 'ERR_INVALID_ARG_VALUE' }
  const range = { code: 'ERR_OUT_OF_RANGE' }
  const wrong: [unknown, object][] = [
    [undefined, type],
    [5, type],
    [{}, type],
    [{ path: '' }, value],
    [{ path, listen: 'tcp:80' }, type],
    [{ path, listen: { a: 80 } }, type],
    [{ path, listen: { a: 'tcp:x:y' } }, value],
    [{ path, listen: { a: {} } }, value],
    [{ path, listen: { a: { port: 70_000 } } }, range],
    [{ path, listen: { a: { path: 'relative' } } }, value],
    [{ path, listen: { a: 'tcp:127.0.0.1:81', b: 'tcp:127.0.0.1:81' } }, value],
    [{ path, mode: 0o1000 }, range],
    [{ path, allow: true }, type],
    [{ path, state: 'text' }, type],
    [{ path, connections: 1 }, type],
    [{ path, timeout: 0 }, range],
    [{ path, signal: {} }, type]
  ]
  for (const [options, error] of wrong) await t.throwsAsync(takeover(options as never), error, JSON.stringify(options))
  const place = await begin(t, { path, listen: { ...tcp, dns: 'udp:127.0.0.1:0' } })
  await t.throwsAsync(place.serve({} as never, 'http'), type)
  await t.throwsAsync(place.serve(createServer(), 'https'), value)
  await t.throwsAsync(place.serve(createServer(), 'toString'), value)
  await t.throwsAsync(place.serve(createServer(), 'dns'), { code: 'ERR_INVALID_FD_TYPE' })
  place.listeners.http!.closeSync()
  await t.throwsAsync(place.serve(createServer(), 'http'), { code: 'ERR_DESCRIPTOR_CLOSED' })
})
