import { getEventListeners } from 'node:events'
import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { type UnixSocket, socketpair } from 'fdpass'
import { countFds, hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

// Serial throughout: one of these tests counts descriptors.
const large = Buffer.alloc(4 * 1024 * 1024, 'l')

/** The first message of an iteration; null at the end. */
async function firstOf(socket: UnixSocket, signal: AbortSignal) {
  for await (const message of socket.messages({ signal })) return message
  return null
}

const receiving: Record<string, (socket: UnixSocket, signal: AbortSignal) => Promise<{ data: Uint8Array } | null>> = {
  recv: (socket, signal) => socket.recv({ signal }),
  recvFd: (socket, signal) => socket.recvFd({ signal }),
  recvExactly: (socket, signal) => socket.recvExactly('one'.length, { signal }),
  messages: firstOf
}

async function isAbortError(t: ExecutionContext, promise: Promise<unknown>, cause?: unknown) {
  const error = await t.throwsAsync(promise, { name: 'AbortError', code: 'ABORT_ERR', instanceOf: Error })
  if (cause !== undefined) t.is(error!.cause, cause)
  return error
}

for (const [name, receive] of Object.entries(receiving)) {
  test.serial(`${name} with an aborted signal rejects and takes nothing [D6]`, async (t) => {
    const [a, b] = socketpair()
    await a.send('kept')
    const reason = new Error('no more')
    await isAbortError(t, receive(b, AbortSignal.abort(reason)), reason)
    await isAbortError(t, receive(b, AbortSignal.abort('a string')), 'a string')
    t.is(text(await b.recv()), 'kept')
    a.close()
    b.close()
  })

  test.serial(
    `an abort ends a waiting ${name}, with the signal's reason as the cause [D6.1] [E5.1] [S68]`,
    async (t) => {
      const [a, b] = socketpair()
      const controller = new AbortController()
      const waiting = receive(b, controller.signal)
      t.true(await isPending(waiting))
      const reason = { any: 'thing' }
      controller.abort(reason)
      await isAbortError(t, waiting, reason)
      t.is(getEventListeners(controller.signal, 'abort').length, 0)
      await a.send('afterwards')
      t.is(text(await b.recv()), 'afterwards')
      a.close()
      b.close()
    }
  )

  test.serial(`the default reason of an abort is the cause of what ${name} rejects with [D6]`, async (t) => {
    const [a, b] = socketpair()
    const controller = new AbortController()
    const waiting = receive(b, controller.signal)
    controller.abort()
    const error = await isAbortError(t, waiting, controller.signal.reason)
    t.is((error!.cause as Error).name, 'AbortError')
    const timeout = await isAbortError(t, receive(b, AbortSignal.timeout(1)))
    t.is((timeout!.cause as Error).name, 'TimeoutError')
    a.close()
    b.close()
  })

  test.serial(`an abort after ${name} has settled changes nothing [D6]`, async (t) => {
    const [a, b] = socketpair()
    const controller = new AbortController()
    const waiting = receive(b, controller.signal)
    await a.send('one')
    t.is(text(await waiting), 'one')
    t.is(getEventListeners(controller.signal, 'abort').length, 0)
    controller.abort()
    await a.send('two')
    t.is(text(await b.recv()), 'two')
    t.false(b.closed)
    a.close()
    b.close()
  })
}

test.serial('an abort ends one of several receives, and the others keep their order [D6]', async (t) => {
  const [a, b] = socketpair({ type: process.platform === 'darwin' ? 'stream' : 'seqpacket' })
  const controllers = Array.from({ length: 5 }, () => new AbortController())
  const waiting = controllers.map(({ signal }) => b.recv({ signal, maxBytes: 1 }))
  controllers[1]!.abort()
  controllers[3]!.abort()
  await isAbortError(t, waiting[1]!)
  await isAbortError(t, waiting[3]!)
  for (const data of ['a', 'b', 'c']) await a.send(data)
  t.deepEqual((await Promise.all([waiting[0]!, waiting[2]!, waiting[4]!])).map(text), ['a', 'b', 'c'])
  a.close()
  b.close()
})

test.serial('a receive that was aborted by the signal of another one before it is not served [D6]', async (t) => {
  const [a, b] = socketpair()
  const controller = new AbortController()
  const first = b.recv().then((message) => {
    controller.abort()
    return text(message)
  })
  const second = b.recv({ signal: controller.signal })
  await a.send('first')
  t.is(await first, 'first')
  await isAbortError(t, second)
  await a.send('third')
  t.is(text(await b.recv()), 'third')
  a.close()
  b.close()
})

test.serial('a send with an aborted signal sends nothing [D6]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const reason = new Error('never mind')
  await isAbortError(t, a.send('x', { fds: [write], signal: AbortSignal.abort(reason) }), reason)
  await isAbortError(t, a.sendFd(write, 'x', { signal: AbortSignal.abort(reason) }), reason)
  closeSync(write)
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
  t.is(await b.recv(), null)
  b.close()
})

test.serial('an abort before the first byte sends nothing, and closes the captured descriptors [D6]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const filling = a.send(large)
  const controller = new AbortController()
  const waiting = a.send('never', { fds: [write], signal: controller.signal })
  const alsoWaiting = a.sendFd(write, 'never', { signal: controller.signal })
  const last = a.send('last')
  closeSync(write)
  t.true(await isPending(waiting))
  t.true(hasWriter(read))
  const reason = new Error('changed my mind')
  controller.abort(reason)
  t.false(hasWriter(read))
  await isAbortError(t, waiting, reason)
  await isAbortError(t, alsoWaiting, reason)
  t.is(getEventListeners(controller.signal, 'abort').length, 0)
  closeSync(read)

  const parts: Uint8Array[] = []
  void Promise.all([filling, last]).then(() => a.close())
  for await (const { data, fds } of b) {
    t.is(fds.length, 0)
    parts.push(data)
  }
  t.true(Buffer.concat(parts).equals(Buffer.concat([large, Buffer.from('last')])))
  b.close()
})

test.serial('an abort of a packet that waits leaves the socket as it was [D6]', async (t) => {
  const types = process.platform === 'darwin' ? (['dgram'] as const) : (['seqpacket', 'dgram'] as const)
  for (const type of types) {
    const [a, b] = socketpair({ type })
    const sends: Promise<void>[] = []
    let controller: AbortController
    do {
      controller = new AbortController()
      sends.push(a.send(String(sends.length), { signal: controller.signal }))
    } while (!(await isPending(sends.at(-1)!)))
    controller.abort()
    await isAbortError(t, sends.pop()!)
    const last = a.send('last')
    for (let i = 0; i < sends.length; i++) t.is(text(await b.recv()), String(i))
    t.is(text(await b.recv()), 'last')
    await last
    a.close()
    b.close()
  }
})

test.serial('an abort of a stream message that has gone out in part ends the sending side [D6]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const controller = new AbortController()
  const partly = a.send(large, { fds: [write], signal: controller.signal })
  const behind = a.send('behind', { fds: [write] })
  closeSync(write)
  t.true(await isPending(partly))
  const reason = new Error('enough')
  controller.abort(reason)
  await isAbortError(t, partly, reason)
  t.false(await isPending(behind)) // although nobody has read
  for (let i = 0; i < 3; i++) await t.throwsAsync(a.send('later'), { code: 'EPIPE' })
  await t.throwsAsync(a.sendFd(read), { code: 'EPIPE' })

  // The descriptors had gone with the first byte; what went is received, and then the end.
  const rejected = t.throwsAsync(behind, { code: 'EPIPE' })
  let bytes = 0
  let fds = 0
  for await (const message of b) {
    bytes += message.data.length
    fds += message.fds.length
    message.close()
  }
  t.true(bytes > 0 && bytes < large.length)
  t.is(fds, 1)
  await rejected
  t.false(hasWriter(read))
  closeSync(read)

  await b.send('the other way')
  t.is(text(await a.recv()), 'the other way')
  a.close()
  b.close()
})

test.serial('an abort after a send has resolved changes nothing [D6]', async (t) => {
  const file = openFile('sent')
  const [a, b] = socketpair()
  const controller = new AbortController()
  const waited = a.send(large, { signal: controller.signal })
  let bytes = 0
  while (bytes < large.length) bytes += (await b.recv())!.data.length
  await waited
  await a.sendFd(file, 'x', { signal: controller.signal })
  closeSync(file)
  t.is(getEventListeners(controller.signal, 'abort').length, 0)
  controller.abort()
  await a.send('y')
  const received = (await b.recvFd())!
  t.is(readAll(received.fd!.fd), 'sent')
  received[Symbol.dispose]()
  t.is(text(await b.recv()), 'y')
  a.close()
  b.close()
})

test.serial('an iteration that is aborted throws, and what it had received ahead is not lost [D6]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  for (let i = 0; i < 5; i++) await a.sendFd(write, String(i))
  closeSync(write)
  const controller = new AbortController()
  const seen: (string | null)[] = []
  const reason = new Error('stop')
  const iterate = async () => {
    for await (const message of b.messages({ signal: controller.signal })) {
      seen.push(text(message))
      message.close()
      if (seen.length === 2) controller.abort(reason)
    }
  }
  await isAbortError(t, iterate(), reason)
  t.deepEqual(seen, ['0', '1'])
  t.true(hasWriter(read))
  for (let i = 2; i < 5; i++) {
    const message = (await b.recv())!
    t.is(text(message), String(i))
    t.is(message.fds.length, 1)
    message.close()
  }
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
  b.close()
})

test.serial('500 receives in a race with their aborts lose nothing and leak nothing [D6]', async (t) => {
  const file = openFile('raced')
  const [a, b] = socketpair()
  await turns()
  const before = countFds()
  const seen: (string | null)[] = []
  const take = (message: { data: Uint8Array; fds: readonly { fd: number; closeSync(): void }[] }) => {
    seen.push(text(message))
    t.is(message.fds.length, 1)
    message.fds[0]!.closeSync()
  }
  let aborted = 0
  const rounds = 500
  for (let i = 0; i < rounds; i++) {
    const controller = new AbortController()
    const abort = () => controller.abort()
    const send = () => a.sendFd(file, String(i).padStart(3, '0'))
    const way = i % 6
    if (way === 0) await send() // there before the receive
    const operation =
      i % 2 === 0
        ? b.recv({ signal: controller.signal })
        : b
            .messages({ signal: controller.signal })
            .next()
            .then(({ value }) => value!)
    let sent: Promise<void> = Promise.resolve()
    if (way === 0) abort()
    else if (way === 1) [sent] = [send(), abort()]
    else if (way === 2) [, sent] = [abort(), send()]
    else if (way === 3) {
      sent = send()
      setImmediate(abort)
    } else if (way === 4) {
      await turns(1)
      sent = send()
      process.nextTick(abort)
    } else {
      sent = send()
      setTimeout(abort)
    }
    const [result] = await Promise.allSettled([operation, sent])
    if (result.status === 'fulfilled') take(result.value!)
    else {
      t.is((result.reason as Error).name, 'AbortError')
      aborted++
    }
  }
  t.true(aborted > 0 && aborted < rounds)
  while (seen.length < rounds) take((await b.recv())!)
  t.deepEqual(
    seen,
    Array.from({ length: rounds }, (_, i) => String(i).padStart(3, '0'))
  )
  t.true(countFds() <= before) // fewer where Bun closes what is its own meanwhile
  closeSync(file)
  a.close()
  t.is(await b.recv(), null)
  b.close()
})

test.serial(
  'one signal serves a hundred operations at once, and as many in turn, without a warning [D6]',
  async (t) => {
    const warnings: string[] = []
    const listen = ({ name }: Error) => warnings.push(name)
    process.on('warning', listen)
    const [a, b] = socketpair()
    const controller = new AbortController()
    const { signal } = controller
    for (let i = 0; i < 100; i++) {
      const waiting = b.recv({ signal })
      await a.send('x', { signal })
      await waiting
    }
    t.is(getEventListeners(signal, 'abort').length, 0)
    const operations = [a.send(large, { signal })]
    for (let i = 0; i < 49; i++) operations.push(a.send('x', { signal }))
    const receives = Array.from({ length: 50 }, () => a.recv({ signal }))
    await turns()
    controller.abort()
    for (const operation of [...operations, ...receives]) await isAbortError(t, operation)
    await turns()
    t.deepEqual(warnings, [])
    process.off('warning', listen)
    a.close()
    b.close()
  }
)

test.serial('closing a socket takes its operations off their signals [D6]', async (t) => {
  const [a, b] = socketpair()
  const { signal } = new AbortController()
  const operations = [a.send(large, { signal }), a.recv({ signal }), a.recvFd({ signal })]
  const iteration = a.messages({ signal }).next()
  t.is(getEventListeners(signal, 'abort').length, 1)
  a.close()
  t.is(getEventListeners(signal, 'abort').length, 0)
  for (const operation of operations) await t.throwsAsync(operation, { code: 'ERR_SOCKET_CLOSED' })
  t.true((await iteration).done)
  b.close()
})
