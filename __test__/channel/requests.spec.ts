import { closeSync } from 'node:fs'
import test from 'ava'
import { Channel, type ChannelReply, Descriptor, type SystemError } from 'fdpass'
import {
  CLOSE,
  ERROR,
  REQUEST,
  frame,
  openBare,
  openChannels,
  openSmall,
  receiveFrame,
  recordRequests
} from '../helpers/channels.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, isOpen, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { isPending, turns } from '../helpers/promises.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9')

test('a request gets the value and the descriptors of its reply', async (t) => {
  const [a, b] = openChannels(t)
  b.onRequest((request) => {
    const said = readAll(request.fds[0]!.fd)
    request.close()
    return { value: { said, to: request.value }, fds: [Descriptor.from(openFile('of the reply'))] }
  })
  const file = openFile('of the request')
  const answer = await a.request('you', [file])
  closeSync(file)
  t.deepEqual(answer.value, { said: 'of the request', to: 'you' })
  t.is(readAll(answer.fds[0]!.fd), 'of the reply')
  answer.close()
})

test('a reply can be a value, descriptors, nothing, or a promise of them', async (t) => {
  const [a, b] = openChannels<unknown>(t)
  const replies: Record<string, ChannelReply | undefined> = {
    value: { value: 1 },
    fds: { fds: [0] },
    nothing: undefined,
    none: { value: undefined, fds: null }
  }
  b.onRequest(({ value }) => replies[value as string])
  for (const later of [false, true]) {
    if (later) b.onRequest(({ value }) => turns().then(() => replies[value as string]))
    for (const [name, reply] of Object.entries(replies)) {
      const answer = await a.request(name)
      t.is(answer.value, reply?.value, name)
      t.is(answer.fds.length, reply?.fds?.length ?? 0, name)
      answer.close()
    }
  }
})

test('thousand requests at once in both directions get their own answers, in any order', async (t) => {
  const [a, b] = openChannels<number>(t)
  const order: number[] = []
  const waiting: (() => void)[] = []
  a.onRequest(({ value }) => ({ value: 0 - value }))
  b.onRequest(async ({ value }) => {
    await new Promise<void>((resolve) => waiting.push(resolve))
    order.push(value)
    return { value: value * 2 }
  })
  const fromA = Array.from({ length: 1000 }, (_, i) => a.request(i))
  const fromB = Array.from({ length: 1000 }, (_, i) => b.request(i))
  t.deepEqual(
    (await Promise.all(fromB)).map(({ value }) => value),
    Array.from({ length: 1000 }, (_, i) => 0 - i)
  )
  while (waiting.length < 1000) await turns(1)
  for (let i = 999; i >= 0; i--) waiting[i]!()
  t.deepEqual(
    (await Promise.all(fromA)).map(({ value }) => value),
    Array.from({ length: 1000 }, (_, i) => i * 2)
  )
  t.is(order[0], 999)
})

test('a handler may ask the other end, however few requests are handled at a time', async (t) => {
  const [a, b] = openChannels<number>(t, { maxPending: 1 })
  a.onRequest(({ value }) => ({ value: value + 1 }))
  b.onRequest(async ({ value }) => ({ value: (await b.request(value)).value * 10 }))
  t.is((await a.request(4)).value, 50)
})

withPython('answers that have to wait for room on both sides all arrive, with one request at a time', async (t) => {
  const [x, y] = await openSmall(t)
  const options = { maxPending: 1 }
  const [a, b] = [new Channel<number | string>(x, options), new Channel<number | string>(y, options)]
  for (const end of [a, b]) end.onRequest(() => ({ value: 'x'.repeat(100_000) }))
  const answers = await Promise.all([a.request(1), b.request(2)])
  t.deepEqual(
    answers.map(({ value }) => (value as string).length),
    [100_000, 100_000]
  )
})

test('requests over maxPending wait until an answer has gone; answers before them do not', async (t) => {
  const [a, b] = openChannels<number>(t, {}, { maxPending: 2 })
  a.onRequest(({ value }) => ({ value: -value }))
  const requests = recordRequests(b)
  const waiting = Array.from({ length: 2 }, (_, i) => a.request(i))
  while (requests.length < 2) await turns(1)
  t.is((await b.request(7)).value, -7)
  for (let i = 2; i < 5; i++) waiting.push(a.request(i))
  await turns(10)
  t.is(requests.length, 2)
  for (let i = 0; i < 5; i++) {
    while (requests.length <= i) await turns(1)
    await turns(10)
    t.true(requests.length <= i + 2)
    requests[i]!.reply({ value: i * 10 })
  }
  t.deepEqual(
    (await Promise.all(waiting)).map(({ value }) => value),
    [0, 10, 20, 30, 40]
  )
})

test('a peer that asks on and on and takes no answer is not answered without end [S23]', async (t) => {
  const [a, bare] = openBare(t, { maxPending: 10 })
  const receiving = a.receive() // there is no handler
  receiving.catch(() => {})
  const questions = Buffer.concat(Array.from({ length: 50_000 }, (_, i) => frame(REQUEST, '', { id: i })))
  const sent = bare.send(questions)
  sent.catch(() => {})
  t.true(await isPending(sent))
  await turns(100)
  t.true(await isPending(sent)) // about 3,000 answers fill the socket
  let answers = 0
  while (answers < 50_000) {
    const { data } = (await bare.recv({ maxBytes: 1024 * 1024 }))!
    answers += Buffer.from(data).toString('latin1').split('ERR_NO_HANDLER').length - 1
    if (answers > 40_000) break
  }
  t.true(answers > 40_000)
  a.close()
})

test.serial('descriptors of a reply are closed after it, also when it fails or its request was given up', async (t) => {
  const [a, b] = openChannels(t)
  const given: number[] = []
  const give = () => {
    const descriptor = Descriptor.from(openFile('given'))
    given.push(descriptor.fd)
    return descriptor
  }
  const kept = openFile('kept')
  const finishing: (() => void)[] = []
  b.onRequest(async ({ value }) => {
    const fds = [give(), kept, give()]
    if (value === 'fails') return { value: () => {}, fds }
    if (value === 'waits') await new Promise<void>((resolve) => finishing.push(resolve))
    return { fds }
  })
  const answer = await a.request('goes')
  t.deepEqual(
    answer.fds.map(({ fd }) => readAll(fd)),
    ['given', 'kept', 'given']
  )
  answer.close()
  await t.throwsAsync(a.request('fails'))
  const controller = new AbortController()
  const waiting = a.request('waits', null, { signal: controller.signal })
  while (finishing.length < 1) await turns(1)
  controller.abort()
  await t.throwsAsync(waiting, { name: 'AbortError' })
  await a.request('goes').then((message) => message.close()) // the cancellation is before it
  finishing[0]!()
  await turns()
  t.is(given.length, 8)
  t.deepEqual(given.filter(isOpen), [])
  t.true(isOpen(kept))
  closeSync(kept)
})

test('a request without a handler is answered that there is none, and its descriptors are closed [S15]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = openChannels(t)
  const receiving = b.receive()
  await t.throwsAsync(a.request('x', [write]), { code: 'ERR_NO_HANDLER' })
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
  b.onRequest(() => ({ value: 'yes' }))
  t.is((await a.request('x')).value, 'yes')
  b.onRequest(null)
  await t.throwsAsync(a.request('x'), { code: 'ERR_NO_HANDLER' })
  b.onRequest(() => ({ value: 'again' }))
  t.is((await a.request('x')).value, 'again')
  await a.send('a message')
  t.is((await receiving)!.value, 'a message')
})

test('a request that is handled when the handler is replaced gets its answer', async (t) => {
  const [a, b] = openChannels(t)
  const requests = recordRequests(b)
  const waiting = a.request('x')
  while (requests.length < 1) await turns(1)
  b.onRequest(null)
  requests[0]!.reply({ value: 'of the old one' })
  t.is((await waiting).value, 'of the old one')
})

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
