import { closeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { Channel, UnixSocket, socketpair } from 'fdpass'
import { MESSAGE, frame, openBare, openChannels, receiveFrame } from '../helpers/channels.ts'
import { countFds, hasWriter, isOpen, openPipe } from '../helpers/descriptors.ts'
import { fixturePath, startFixture } from '../helpers/processes.ts'
import { codesOf, isPending, turns } from '../helpers/promises.ts'

// Serial throughout: some of these tests count descriptors.
const large = Buffer.alloc(1024 * 1024)

async function isAborted(t: ExecutionContext, promise: Promise<unknown>): Promise<void> {
  t.is((await t.throwsAsync(promise, { name: 'AbortError' }))!.cause, 'why')
}

test.serial('an abort before the first byte sends nothing, and closes the duplicates', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = openChannels<unknown>(t)
  const controller = new AbortController()
  const { signal } = controller
  const sending = [
    a.send(large),
    a.send('never', [write], { signal }),
    a.send('goes'),
    a.send('nor this', [write], { signal })
  ]
  closeSync(write)
  t.true(hasWriter(read))
  controller.abort('why')
  t.false(hasWriter(read))
  await isAborted(t, sending[1]!)
  await isAborted(t, sending[3]!)
  t.is(((await b.receive())!.value as Uint8Array).length, large.length)
  t.is((await b.receive())!.value, 'goes')
  await Promise.all([sending[0], sending[2]])
  await isAborted(t, a.send('x', null, { signal }))
  closeSync(read)
})

test.serial('an abort after the first byte rejects, and the message goes all the same', async (t) => {
  const [a, b] = openChannels<unknown>(t)
  const controller = new AbortController()
  const sent = a.send(large, [0], { signal: controller.signal })
  const next = a.send('next')
  controller.abort('why')
  await isAborted(t, sent)
  const message = (await b.receive())!
  t.true(large.equals(message.value as Uint8Array))
  t.is(message.fds.length, 1)
  message.close()
  t.is((await b.receive())!.value, 'next')
  await next
})

test.serial('an abort of a receive loses nothing', async (t) => {
  const [a, b] = openChannels(t)
  const controller = new AbortController()
  const { signal } = controller
  const waiting = [b.receive({ signal }), b.receive(), b.receive({ signal })]
  controller.abort('why')
  await isAborted(t, waiting[0]!)
  await isAborted(t, waiting[2]!)
  await a.send(1)
  await a.send(2)
  t.is((await waiting[1]!)!.value, 1)
  await isAborted(t, b.receive({ signal }))
  t.is((await b.receive())!.value, 2)
})

test.serial('close rejects pending operations, ends the iteration, and reports an orderly end', async (t) => {
  const [a, b] = openChannels<unknown>(t)
  const { closed } = a
  const iterate = async () => {
    for await (const message of a) t.fail(String(message))
    return 'ended'
  }
  const iterated = iterate()
  const waiting = [a.send(large), a.send('x', [0]), a.receive(), a.request('y')]
  a.close()
  a.close()
  t.deepEqual(new Set(await codesOf(waiting)), new Set(['ERR_SOCKET_CLOSED']))
  t.is(await iterated, 'ended')
  t.is(await closed, null)
  t.is(await a.closed, null)
  t.deepEqual(new Set(await codesOf([a.send('x'), a.request('x'), a.receive()])), new Set(['ERR_SOCKET_CLOSED']))
  t.deepEqual(await a[Symbol.asyncIterator]().next(), { done: true, value: undefined })
  await t.throwsAsync(b.receive(), { code: 'EPROTO' }) // inside of the large message
})

test.serial('close in order is the end for the other side, whose sends then fail', async (t) => {
  const [a, b] = openChannels<unknown>(t)
  await a.send('last')
  a.close()
  t.is((await b.receive())!.value, 'last')
  t.is(await b.receive(), null)
  t.is(await b.receive(), null)
  t.is(await b.closed, null)
  t.deepEqual(await codesOf([b.send('x'), b.request('x')]), ['EPIPE', 'EPIPE'])
})

test.serial('a send finds out that the peer has closed', async (t) => {
  const [a, b] = openChannels<unknown>(t)
  a.close()
  await t.throwsAsync(b.send('x'), { code: 'EPIPE' })
  await t.throwsAsync(b.request('x'), { code: 'EPIPE' })
  t.is(await b.receive(), null)
})

test.serial('a peer that closed without reading all is ECONNRESET, once', async (t) => {
  const [a, b] = openChannels<unknown>(t)
  await a.send('unread')
  b.close()
  t.deepEqual(await codesOf([a.receive(), a.request('x')]), ['ECONNRESET', 'ECONNRESET'])
  t.is(((await a.closed) as NodeJS.ErrnoException).code, 'ECONNRESET')
})

for (const how of ['close', 'dispose', 'asyncDispose', 'socket.close'] as const) {
  for (const first of ['this end', 'the other end'] as const) {
    test.serial(
      `${how} closes held descriptors that were not received, after ${first} ended the channel`,
      async (t) => {
        const { read, write } = openPipe()
        const [a, b] = openChannels(t)
        const { closed } = b
        for (let i = 0; i < 3; i++) await a.send(i, [write, write])
        closeSync(write)
        await turns(10)
        if (first === 'the other end') {
          a.close()
          t.is(await closed, null)
        }
        t.true(hasWriter(read))
        if (how === 'close') b.close()
        else if (how === 'socket.close') b.socket.close()
        else if (how === 'dispose') b[Symbol.dispose]()
        else await b[Symbol.asyncDispose]()
        a.close()
        t.false(hasWriter(read))
        closeSync(read)
        t.is(await closed, null)
      }
    )
  }
}

test.serial('messages that arrived before the end can be received after it', async (t) => {
  const [a, b] = openChannels(t)
  const { closed } = b
  await a.send('kept', [0])
  a.close()
  t.is(await closed, null)
  const message = (await b.receive())!
  t.is(message.value, 'kept')
  t.true(isOpen(message.fds[0]!.fd))
  message.close()
  t.is(await b.receive(), null)
})

test.serial('a peer that is killed in the middle of a message ends all that waits', async (t) => {
  const { socket, child, done } = startFixture('channel-ends', ['half'])
  const channel = new Channel(socket)
  t.is((await channel.receive())!.value, 'ready')
  const waiting = [channel.receive(), channel.request('x')]
  const codes = codesOf(waiting)
  t.true(await isPending(codes))
  child.kill('SIGKILL')
  await t.throwsAsync(done)
  const [code, other] = await codes
  t.true(code === 'EPROTO' || code === 'ECONNRESET') // it has not read the request
  t.is(other, code)
  t.is(((await channel.closed) as NodeJS.ErrnoException).code, code as string)
})

const alive: Record<string, [ends: boolean, title: string]> = {
  idle: [true, 'a channel of which nothing is asked'],
  receiving: [false, 'a receive'],
  receivingUnreferenced: [true, 'a receive of a channel without a reference'],
  referencedAgain: [false, 'a receive of a channel that is referenced again'],
  closed: [false, 'waiting for the end'],
  handler: [false, 'a handler'],
  handlerUnreferenced: [true, 'a handler of a channel without a reference'],
  handlerRemoved: [true, 'a handler that was taken back'],
  requesting: [false, 'a request'],
  requestingUnreferenced: [true, 'a request with a timeout of a channel without a reference']
}
for (const [scenario, [ends, title]] of Object.entries(alive)) {
  test.serial(`${title} ${ends ? 'lets the process end' : 'keeps the process alive'}`, async (t) => {
    const { socket, done } = startFixture('channel-ends', [scenario])
    const channel = new Channel(socket).onRequest(() => new Promise(() => {}))
    t.is((await channel.receive())!.value, 'ready')
    if (ends) {
      const output = await done
      t.is(output, 'nothing left\n')
    } else {
      t.is((await channel.receive())!.value, 'still there')
      channel.close()
      t.is(await done, 'nothing left\n')
    }
    channel.close()
  })
}

test.serial('an unused channel is collected, and closed with a warning', async (t) => {
  const { socket, done } = startFixture('channel-ends', ['collected'], {
    execArgv: ['--expose-gc'],
    standard: ['ignore', 'pipe', 'ignore']
  })
  const channel = new Channel(socket)
  t.is((await channel.receive())!.value, 'ready')
  t.is(await channel.receive(), null)
  t.is(await done, 'FDPASS_NOT_CLOSED\n')
})

test.serial('a channel that its other end has ended is collected without a warning', async (t) => {
  const { socket, done } = startFixture('channel-ends', ['ended'], { execArgv: ['--expose-gc'] })
  const channel = new Channel(socket)
  t.is((await channel.receive())!.value, 'ready')
  channel.close()
  t.is(await done, 'null\n')
})

test.serial('a channel with a handler is not collected', async (t) => {
  const { socket, done } = startFixture('channel-ends', ['kept'], { execArgv: ['--expose-gc'] })
  const channel = new Channel(socket)
  t.is((await channel.receive())!.value, 'ready')
  for (let i = 0; i < 5; i++) t.is((await channel.request(i)).value, i)
  channel.close()
  await done
})

test.serial('a Worker that is terminated with a channel in use closes all that it held', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const number = b.release()
  const worker = new Worker(fixturePath('channel-ends'), { argv: ['worker', `${number}`], trackUnmanagedFds: false })
  const channel = new Channel(a)
  t.is((await channel.receive())!.value, 'ready')
  for (let i = 0; i < 5; i++) await channel.send(i, [write])
  const codes = codesOf([channel.request('x', [write])])
  closeSync(write)
  await turns(20)
  await worker.terminate()
  t.deepEqual(await codes, ['ECONNRESET'])
  channel.close()
  t.false(hasWriter(read))
  closeSync(read)
})

test.serial('10,000 messages and requests with descriptors leave nothing open', async (t) => {
  const [a, b] = openChannels<number>(t)
  b.onRequest((request) => {
    request.close()
    return { value: request.value, fds: [0] }
  })
  const round = async (count: number) => {
    for (let i = 0; i < count; i++) {
      await a.send(i, [0, 0])
      ;(await b.receive())!.close()
      if (i % 10 === 0) (await a.request(i, [0])).close()
    }
  }
  await round(10)
  const before = countFds()
  await round(10_000)
  t.is(countFds(), before)
})

test.serial('a frame that was left half in the decoder leaves nothing open at the close', async (t) => {
  const { read, write } = openPipe()
  const [a, bare] = openBare(t)
  await bare.send(frame(MESSAGE, 'data', { fds: 3 }).subarray(0, 17), { fds: [write, write, write] })
  closeSync(write)
  const waiting = a.receive()
  t.true(await isPending(waiting))
  t.true(hasWriter(read))
  a.close()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.false(hasWriter(read))
  closeSync(read)
  t.is(await receiveFrame(bare), null)
})

test.serial('a request that waits for its turn is closed with the channel', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = openChannels(t, {}, { maxPending: 1 })
  let handled = 0
  b.onRequest(() => new Promise(() => handled++))
  const codes = codesOf([a.request(1), a.request(2, [write])])
  closeSync(write)
  while (handled < 1) await turns(1) // oxlint-disable-line no-unmodified-loop-condition -- the handler modifies it
  await turns()
  t.true(hasWriter(read))
  b.close()
  t.false(hasWriter(read))
  closeSync(read)
  t.deepEqual(await codes, ['ECONNRESET', 'ECONNRESET'])
  t.is(handled, 1)
})

test.serial('a socket on which another process enabled credentials can still back a channel', async (t) => {
  const [a, b] = socketpair({ credentials: true })
  const { read, write } = openPipe()
  const [from, to] = [new Channel(UnixSocket.from(a.release())), new Channel(UnixSocket.from(b.release()))]
  t.teardown(() => [from, to].forEach((channel) => channel.close()))
  await from.send('with one', [write])
  closeSync(write)
  await from.send('without')
  const message = (await to.receive())!
  t.deepEqual([message.value, message.fds.length, hasWriter(read)], ['with one', 1, true])
  message.close()
  t.false(hasWriter(read))
  t.is((await to.receive())!.value, 'without')
})

for (const how of ['request', 'send'] as const) {
  test.serial(
    `a ${how} that is given up after its first byte, before the other end is gone, rejects once`,
    async (t) => {
      const [a, b] = socketpair()
      const channel = new Channel(a)
      const controller = new AbortController()
      const given = channel[how](large, null, { signal: controller.signal })
      const aborted = t.throwsAsync(given, { name: 'AbortError' })
      await turns()
      controller.abort()
      await aborted
      const behind = t.throwsAsync(channel.send('x'), { code: 'ECONNRESET' })
      // A second rejection would be unhandled, and end the process.
      const unhandled: unknown[] = []
      const listener = (error: unknown) => unhandled.push(error)
      process.prependListener('unhandledRejection', listener)
      b.close()
      t.is(((await channel.closed) as NodeJS.ErrnoException).code, 'ECONNRESET')
      await behind
      await turns()
      process.removeListener('unhandledRejection', listener)
      t.deepEqual(unhandled, [])
    }
  )
}
