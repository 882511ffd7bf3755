import { closeSync } from 'node:fs'
import test from 'ava'
import { MESSAGE, frame, openBare, openChannels } from '../helpers/channels.ts'
import { hasWriter, openPipe } from '../helpers/descriptors.ts'

const mebibyte = 1024 * 1024

const values: Record<string, unknown> = {
  undefined: undefined,
  null: null,
  'an empty string': '',
  zero: 0,
  false: false,
  'an object': { a: [1, 'two', null, { three: true }] },
  'a long string of several bytes a character': '€😀ä'.repeat(100_000),
  'a string as long as the shared memory': 'x'.repeat(65_536 - 2),
  'a lone surrogate': '\ud800'
}

for (const [title, value] of Object.entries(values)) {
  test(`${title} arrives as it was sent`, async (t) => {
    const [a, b] = openChannels(t)
    const sent = a.send(value)
    t.deepEqual((await b.receive())!.value, value)
    await sent
  })
}

for (const length of [0, 1, 64, 65, 4080, 4096, 65_520, 65_536, 65_537, 3 * mebibyte]) {
  test(`${length} bytes arrive as they were sent, in memory of their own`, async (t) => {
    const [a, b] = openChannels<Uint8Array>(t)
    const data = Buffer.from(Array.from({ length: Math.min(length, 1000) }, (_, i) => i % 251))
    const sent = Buffer.alloc(length, data)
    void a.send(sent)
    void a.send(Buffer.from('next'))
    const { value } = (await b.receive())!
    t.is(value.constructor, Uint8Array)
    t.true(sent.equals(value))
    t.is(value.buffer.byteLength, length)
    t.is(String(Buffer.from((await b.receive())!.value)), 'next')
    t.true(sent.equals(value))
  })
}

test('bytes of any view arrive as that view shows them, and what was sent may be changed afterwards', async (t) => {
  const [a, b] = openChannels<Uint8Array>(t)
  const memory = Buffer.from('0123456789')
  await a.send(memory.subarray(2, 5))
  await a.send(new Uint8Array(new SharedArrayBuffer(100)).fill(7))
  memory.fill(0)
  t.is(String(Buffer.from((await b.receive())!.value)), '234')
  t.deepEqual((await b.receive())!.value, new Uint8Array(100).fill(7))
})

for (const value of [() => {}, Symbol('x'), { toJSON: () => undefined }]) {
  test(`what JSON does not know is refused: ${String(value)}`, async (t) => {
    const [a, b] = openChannels(t)
    await t.throwsAsync(a.send(value), { code: 'ERR_INVALID_ARG_VALUE' })
    await t.throwsAsync(a.request(value), { code: 'ERR_INVALID_ARG_VALUE' })
    await a.send('next')
    t.is((await b.receive())!.value, 'next')
  })
}

test('what JSON.stringify throws is what a send rejects with', async (t) => {
  const [a, b] = openChannels(t)
  const circle: unknown[] = []
  circle.push(circle)
  await t.throwsAsync(a.send(circle), { instanceOf: TypeError })
  await t.throwsAsync(a.send(1n), { instanceOf: TypeError })
  await a.send('next')
  t.is((await b.receive())!.value, 'next')
})

test('encode and decode of the caller make what is sent and received, and keep what they got', async (t) => {
  const seen: Uint8Array[] = []
  const [a, b] = openChannels<number[]>(t, {
    encode: (value: number[]) => (value.length > 2 ? value.join() : Uint8Array.from(value)),
    decode: (data) => {
      seen.push(data)
      return [...data]
    }
  })
  await a.send([1, 2])
  await a.send([1, 2, 3])
  t.deepEqual((await b.receive())!.value, [1, 2])
  t.deepEqual((await b.receive())!.value, [...Buffer.from('1,2,3')])
  t.deepEqual(seen, [Uint8Array.of(1, 2), new Uint8Array(Buffer.from('1,2,3'))])
})

test('what encode throws or should not return rejects the send, nothing of which goes', async (t) => {
  const error = new Error('from encode')
  const [a, b] = openChannels(t, {
    encode: (value: unknown) => {
      if (value === 'throw') throw error
      return value as string
    }
  })
  t.is(await t.throwsAsync(a.send('throw')), error)
  for (const rubbish of [undefined, null, 5, {}, [1], new ArrayBuffer(4), Promise.resolve('x')]) {
    await t.throwsAsync(a.send(rubbish), { code: 'ERR_INVALID_RETURN_VALUE' })
    await t.throwsAsync(a.request(rubbish), { code: 'ERR_INVALID_RETURN_VALUE' })
  }
  await a.send('next')
  t.is(String(Buffer.from((await b.receive())!.value as Uint8Array)), 'next')
})

test('an encode that closes the channel ends its send', async (t) => {
  const [a] = openChannels(t, {
    encode: () => {
      a.close()
      return 'x'
    }
  })
  await t.throwsAsync(a.send('x'), { code: 'ERR_SOCKET_CLOSED' })
})

test('what decode throws rejects one receive, which keeps the bytes and closes the descriptors', async (t) => {
  const { read, write } = openPipe()
  const cause = new Error('from decode')
  const [a, b] = openChannels<unknown>(t, {
    decode: (data) => {
      if (data[0] === 1) throw cause
      return [...data]
    }
  })
  await a.send(Uint8Array.of(1, 2), [write])
  await a.send(Uint8Array.of(3))
  closeSync(write)
  const error = await t.throwsAsync(b.receive(), { code: 'EPROTO' })
  t.is(error!.cause, cause)
  t.deepEqual((error as Error & { data: unknown }).data, Uint8Array.of(1, 2))
  t.false(hasWriter(read))
  closeSync(read)
  t.deepEqual((await b.receive())!.value, [3])
})

test('data that are no JSON reject one receive, and the next message comes [S26]', async (t) => {
  const [a, bare] = openBare(t)
  await bare.send(Buffer.concat([frame(MESSAGE, '{', { format: 1 }), frame(MESSAGE, '1', { format: 1 })]))
  const error = await t.throwsAsync(a.receive(), { code: 'EPROTO' })
  t.true(error!.cause instanceof SyntaxError)
  t.is((await a.receive())!.value, 1)
})
