import { getEventListeners, once } from 'node:events'
import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import type { SystemError } from 'fdpass'
import {
  CANCEL,
  ERROR,
  REQUEST,
  RESPONSE,
  frame,
  openBare,
  openChannels,
  receiveFrame,
  recordRequests
} from '../helpers/channels.ts'
import { hasWriter, openPipe } from '../helpers/descriptors.ts'
import { turns } from '../helpers/promises.ts'

const large = Buffer.alloc(1024 * 1024)

/** Rejects with an AbortError, because of this. */
async function isAborted(t: ExecutionContext, promise: Promise<unknown>, cause: unknown): Promise<void> {
  const error = await t.throwsAsync(promise, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is(error!.cause, cause)
}

test('an answer that crosses the cancellation is closed', async (t) => {
  const { read, write } = openPipe()
  const [a, bare] = openBare(t)
  const controller = new AbortController()
  const waiting = a.request('x', null, { signal: controller.signal })
  const { id } = (await receiveFrame(bare))!
  await bare.send(frame(RESPONSE, 'late', { id, fds: 1 }), { fds: [write] })
  closeSync(write)
  controller.abort('why')
  await isAborted(t, waiting, 'why')
  t.deepEqual(await receiveFrame(bare), { kind: CANCEL, id, data: Buffer.alloc(0), fds: [] })
  const next = a.receive()
  next.catch(() => {})
  await turns()
  t.false(hasWriter(read))
  closeSync(read)
})

test('an abort of a request aborts the handler’s signal, and its listener is gone', async (t) => {
  const [a, b] = openChannels(t)
  const requests = recordRequests(b)
  const controller = new AbortController()
  const waiting = a.request('x', null, { signal: controller.signal })
  const other = a.request('other')
  while (requests.length < 2) await turns(1)
  const [first, second] = requests.map(({ request }) => request)
  const aborted = once(first!.signal, 'abort')
  controller.abort('why')
  await isAborted(t, waiting, 'why')
  await aborted
  t.false(second!.signal.aborted)
  t.is(getEventListeners(controller.signal, 'abort').length, 0)
  requests[0]!.reply({ value: 'nobody waits' })
  requests[1]!.reply({ value: 'somebody waits' })
  t.is((await other).value, 'somebody waits')
})

test('an abort withdraws a request that waits for room, and the peer never receives it', async (t) => {
  const [a, b] = openChannels(t)
  const requests = recordRequests(b)
  const filler = a.send(large)
  const controller = new AbortController()
  const waiting = a.request('never', null, { signal: controller.signal })
  const after = a.request('after')
  controller.abort('why')
  await isAborted(t, waiting, 'why')
  await b.receive()
  await filler
  while (requests.length < 1) await turns(1)
  t.is(requests[0]!.request.value, 'after')
  requests[0]!.reply({ value: 1 })
  t.is((await after).value, 1)
  t.is(requests.length, 1)
})

test('an aborted signal sends no request', async (t) => {
  const [a, b] = openChannels(t)
  const requests = recordRequests(b)
  await isAborted(t, a.request('x', null, { signal: AbortSignal.abort('why') }), 'why')
  await turns()
  t.is(requests.length, 0)
})

test('a timeout ends a request and aborts its handler [S69]', async (t) => {
  const [a, b] = openChannels(t)
  const requests = recordRequests(b)
  const error = await t.throwsAsync(a.request('x', null, { timeout: 1 }), { code: 'ETIMEDOUT' })
  t.is((error as SystemError).syscall, 'request')
  while (requests.length < 1) await turns(1)
  const { signal } = requests[0]!.request
  if (!signal.aborted) await once(signal, 'abort')
  t.true(signal.aborted)
})

test.serial('a response that has arrived before the timeout is received, however late this process is', async (t) => {
  const [a, b] = openChannels(t)
  b.onRequest(() => {
    setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500))
    return { value: 'sent' }
  })
  t.is((await a.request('x', null, { timeout: 2000 })).value, 'sent')
})

test('requests reject with ECONNRESET when the peer closes, and handlers are aborted', async (t) => {
  const [a, b] = openChannels(t)
  const [ofA, ofB] = [recordRequests(a), recordRequests(b)]
  const waiting = Array.from({ length: 3 }, () => a.request('x'))
  const back = b.request('y')
  while (ofB.length < 3 || ofA.length < 1) await turns(1)
  const { signal } = ofA[0]!.request
  const aborted = once(signal, 'abort')
  b.close()
  for (const request of waiting) await t.throwsAsync(request, { code: 'ECONNRESET' })
  await t.throwsAsync(back, { code: 'ERR_SOCKET_CLOSED' })
  await aborted
  t.true(ofB.every(({ request }) => request.signal.aborted))
  t.is(await a.closed, null)
})

test('a peer that has only ended its sending side receives the answers', async (t) => {
  const [a, bare] = openBare(t)
  const requests = recordRequests(a)
  await bare.send(Buffer.concat([frame(REQUEST, '', { id: 1 }), frame(REQUEST, '', { id: 4_000_000_000 })]))
  bare.shutdown('write')
  while (requests.length < 2) await turns(1)
  await turns()
  t.false(a.socket.closed)
  t.false(requests[0]!.request.signal.aborted)
  requests[1]!.reply({ value: 'second' })
  requests[0]!.reply({ value: 'first' })
  const answers = [await receiveFrame(bare), await receiveFrame(bare)]
  t.deepEqual(
    answers.map((answer) => [answer!.kind, answer!.id, String(answer!.data)]),
    [
      [RESPONSE, 4_000_000_000, '"second"'],
      [RESPONSE, 1, '"first"']
    ]
  )
  t.is(await receiveFrame(bare), null)
  t.is(await a.closed, null)
})

test('answers and cancellations of requests that there are none of are ignored, and their descriptors closed', async (t) => {
  const { read, write } = openPipe()
  const [a, bare] = openBare(t)
  const next = a.receive()
  await bare.send(frame(RESPONSE, 'x', { id: 5, fds: 1 }), { fds: [write] })
  await bare.send(frame(ERROR, '{"message":"x"}', { id: 5, format: 1, fds: 1 }), { fds: [write] })
  await bare.send(frame(CANCEL, '', { id: 5, fds: 1 }), { fds: [write] })
  closeSync(write)
  await bare.send(frame(0, '"next"', { format: 1 }))
  t.is((await next)!.value, 'next')
  t.false(hasWriter(read))
  closeSync(read)
})
