import test from 'ava'
import type { ChannelReply, SystemError } from 'fdpass'
import { CLOSE, ERROR, REQUEST, frame, openBare, openChannels, receiveFrame } from '../helpers/channels.ts'

test('an error comes with its code, errno, syscall, path and address, and without the stack [S24]', async (t) => {
  const [a, b] = openChannels(t)
  const { readFileSync } = await import('node:fs')
  b.onRequest(({ value }) => {
    if (value === 'file') return { value: String(readFileSync('/does/not/exist')) }
    throw Object.assign(new TypeError('my words'), { code: 'MY_CODE', address: '\0mine', errno: -5, other: 'hidden' })
  })
  const file = (await t.throwsAsync(a.request('file'), { code: 'ENOENT' })) as SystemError & { path: string }
  t.is(file.syscall, 'open')
  t.is(file.path, '/does/not/exist')
  t.true(file.errno < 0)
  const mine = (await t.throwsAsync(a.request('mine'), { message: 'my words' })) as SystemError & { other?: string }
  t.deepEqual([mine.code, mine.address, mine.errno, mine.other], ['MY_CODE', '\0mine', -5, undefined])
  t.false(mine.stack!.includes('onRequest'))
})

const thrown: Record<string, () => unknown> = {
  nothing: () => undefined,
  null: () => null,
  'a string': () => 'a string',
  'a symbol': () => Symbol('s'),
  'an object without a prototype': () => Object.create(null) as unknown,
  'an error with a message that is none': () => Object.assign(new Error('x'), { message: 5n }),
  'an error that cannot be read': () =>
    Object.defineProperty(new Error('x'), 'code', {
      get() {
        throw new Error('from code')
      }
    }),
  'an error without a message that can be read': () =>
    Object.defineProperty(new Error('x'), 'message', {
      get() {
        throw new Error('from message')
      }
    }),
  'a very long error': () => new Error('€'.repeat(20 * 1024 * 1024))
}

for (const [title, make] of Object.entries(thrown)) {
  test(`a handler that throws ${title} rejects the request, and the next request is answered`, async (t) => {
    const [a, b] = openChannels(t, { maxBytes: 20 })
    b.onRequest(({ value }) => {
      // oxlint-disable-next-line no-throw-literal -- anything can be thrown
      if (value === 'throw') throw make()
      return { value }
    })
    await t.throwsAsync(a.request('throw'), { instanceOf: Error })
    t.is((await a.request('next')).value, 'next')
  })
}

const rubbish: Record<string, unknown> = {
  'a number': 5,
  'a string': 'x',
  'an array': [],
  'an empty object': {},
  'fds that are a number': { fds: 5 },
  'fds that are a string': { fds: 'abc' },
  'fds that are an object': { fds: {} },
  'an fd that is none': { fds: [{}] },
  'a number that is no fd': { fds: [1_000_000] },
  'a value that is none': { value: () => {} },
  'too much': { value: 'x'.repeat(2000) },
  'too many': { fds: new Array<number>(20).fill(0) }
}

for (const [title, reply] of Object.entries(rubbish)) {
  test(`a handler that returns ${title} rejects the request, and the next request is answered`, async (t) => {
    const [a, b] = openChannels(t, { maxBytes: 1000, maxFds: 10 })
    b.onRequest(({ value }) => (value === 'rubbish' ? (reply as ChannelReply) : { value }))
    const error = (await t.throwsAsync(a.request('rubbish'))) as SystemError
    t.regex(error.code, /^(ERR_INVALID|ERR_OUT_OF_RANGE|EBADF)/)
    t.is((await a.request('next')).value, 'next')
  })
}

test('a request rejects at once for an invalid frame behind a message that was not received yet', async (t) => {
  const [a, bare] = openBare(t)
  await bare.send(Buffer.concat([frame(0, 'x'), Buffer.from('garbage')]))
  await a.receive()
  await t.throwsAsync(a.request('x'), { code: 'EPROTO' })
  t.is((await receiveFrame(bare))!.kind, REQUEST)
  t.is((await receiveFrame(bare))!.kind, CLOSE)
})

for (const data of ['', '{', '5', 'null', '[]', '{"message":5}', '{"code":5}']) {
  test(`an error whose data are ${JSON.stringify(data)} is an error all the same [S24]`, async (t) => {
    const [a, bare] = openBare(t)
    const waiting = a.request('x')
    const { id } = (await receiveFrame(bare))!
    await bare.send(frame(ERROR, data, { id, format: 1 }))
    await t.throwsAsync(waiting, { instanceOf: Error, message: 'The peer gave no reason' })
  })
}
