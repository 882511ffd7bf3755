import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import test from 'ava'
import { type Message, type UnixSocket, bind, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { fixturePath, finish } from '../helpers/processes.ts'
import { runs, start } from '../helpers/programs.ts'
import { isPending, turns } from '../helpers/promises.ts'

// Serial throughout: some of these tests count descriptors.
const packets = process.platform === 'darwin' ? 'dgram' : 'seqpacket'

/** Takes one message out of a new iteration and leaves it; the rest may have been received ahead. */
async function takeOne(socket: UnixSocket): Promise<Message> {
  for await (const message of socket) return message
  throw new Error('The connection has ended')
}

/** Sends messages '0', '1', … with one descriptor each, so that a stream keeps them apart. */
async function sendNumbered(socket: UnixSocket, fd: number, count: number, from = 0): Promise<void> {
  for (let i = from; i < from + count; i++) await socket.sendFd(fd, String(i))
}

for (const type of process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)) {
  test.serial(`an iteration of a ${type} socket gives every message in order, until the end [E1]`, async (t) => {
    const files = Array.from({ length: 5 }, (_, i) => openFile(`file ${i}`))
    const [a, b] = socketpair({ type })
    const count = 1000
    const sending = (async () => {
      for (let i = 0; i < count; i++) await a.send(String(i), { fds: [files[i % 5]!, files[(i + 1) % 5]!] })
      a.close()
    })()
    let next = 0
    for await (const message of b) {
      t.is(text(message), String(next))
      t.is(message.fds.length, 2)
      if (next < 5) t.is(readAll(message.fds[0]!.fd), `file ${next}`)
      message.close()
      next++
    }
    t.is(next, count)
    await sending
    t.is(await b.recv(), null)
    for await (const _ of b) t.fail()
    for (const file of files) closeSync(file)
    b.close()
  })
}

test.serial(
  'what is received ahead tells what a receive tells: the address, the size of what was cut, the credentials',
  async (t) => {
    const address = isLinux ? `\0fdpass-iteration-${process.pid}` : null
    const [socket, sender] = [bind(address), bind(isLinux ? `${address}-sender` : null)]
    const [unnamed, other] = socketpair({ type: 'dgram' })
    if (address !== null) {
      for (let i = 0; i < 3; i++) await sender.send(`from a name ${i}`, { to: address })
      await unnamed.send('from none', { to: address })
      const seen: unknown[] = []
      for await (const message of socket.messages({ maxBytes: 11 })) {
        seen.push([text(message), message.size, message.address])
        if (seen.length === 4) break
      }
      t.deepEqual(seen, [...[0, 1, 2].map(() => ['from a name', 13, `${address}-sender`]), ['from none', 9, null]])
    }
    for (const each of [socket, sender, unnamed, other]) each.close()

    const [a, b] = socketpair({ credentials: true })
    const file = openFile()
    await sendNumbered(a, file, 3)
    for (let i = 0; i < 3; i++) {
      using message = await takeOne(b)
      t.is(text(message), String(i))
      t.is(message.fds.length, 1)
      t.is(message.credentials?.pid, process.pid)
    }
    closeSync(file)
    a.close()
    b.close()
  }
)

const hideProc = ['--mount', '--propagation', 'private', 'sh', '-c', 'mount -t tmpfs none /proc && exec "$@"', 'sh']
const withoutProc = onlyIf(
  runs('unshare', ...hideProc, process.execPath, '-e', '0'),
  'needs root on Linux, mount namespaces, and a runtime that starts without /proc, as Bun does not',
  test.serial
)

withoutProc(
  'without /proc, where nobody tells how much room there is, messages with descriptors are iterated all the same',
  async (t) => {
    const program = `
    import { pipe, socketpair } from 'fdpass'
    const [a, b] = socketpair()
    const [read, write] = pipe()
    for (let i = 0; i < 200; i++) await a.sendFd(write, String(i))
    a.close()
    let next = 0
    for await (const message of b) {
      if (Buffer.from(message.data).toString() !== String(next++) || message.fds.length !== 1) throw new Error('another')
      message.close()
    }
    console.log(next)`
    const node = [process.execPath, ...process.execArgv, '--input-type=module', '--eval', program]
    const { done } = start(t, 'unshare', [...hideProc, ...node])
    t.is(await done, '200\n')
  }
)

test.serial('messages that wait are iterated at once, those that come later when they come [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  await sendNumbered(a, file, 3)
  const seen: (string | null)[] = []
  for await (const message of b) {
    seen.push(text(message))
    message.close()
    if (seen.length === 3) setImmediate(() => void sendNumbered(a, file, 3, 3))
    if (seen.length === 6) a.close()
  }
  t.deepEqual(seen, ['0', '1', '2', '3', '4', '5'])
  closeSync(file)
  b.close()
})

test.serial('a datagram socket is iterated until this side closes it [E7]', async (t) => {
  const [a, b] = socketpair({ type: 'dgram' })
  const seen: (string | null)[] = []
  let iteration!: Promise<void>
  await new Promise<void>((resolve) => {
    iteration = (async () => {
      for await (const message of b) {
        seen.push(text(message))
        if (seen.length === 3) resolve()
      }
    })()
    for (const data of ['one', '', 'three']) void a.send(data)
  })
  a.close()
  t.true(await isPending(iteration))
  b.close()
  await iteration
  t.deepEqual(seen, ['one', '', 'three'])
})

test.serial('close() in the body of an iteration ends it, and closes what was received ahead [E7]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  await sendNumbered(a, write, 10)
  closeSync(write)
  let count = 0
  for await (const message of b) {
    count++
    message.close()
    t.true(hasWriter(read))
    b.close()
    t.false(hasWriter(read))
  }
  t.is(count, 1)
  closeSync(read)
  a.close()
})

test.serial('asyncDispose closes what was received ahead [E7]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  await sendNumbered(a, write, 10)
  closeSync(write)
  const first = await takeOne(b)
  first.close()
  t.true(hasWriter(read))
  await b[Symbol.asyncDispose]()
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
})

test.serial('an error throws, and a new iteration goes on behind it [E6]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  await a.send('0', { fds: [write] })
  await a.send('1', { fds: [write, write] })
  await a.send('2', { fds: [write] })
  await a.send('3', { fds: [write, write, write] })
  await a.send('4', { fds: [write] })
  closeSync(write)
  a.close()
  const seen: (string | null)[] = []
  const iterate = async () => {
    for await (const message of b.messages({ maxFds: 1 })) {
      seen.push(text(message))
      message.close()
    }
  }
  const first = await t.throwsAsync(iterate(), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text(first as Error & { data: Uint8Array }), '1')
  const second = await t.throwsAsync(iterate(), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text(second as Error & { data: Uint8Array }), '3')
  await iterate()
  t.deepEqual(seen, ['0', '2', '4'])
  t.false(hasWriter(read))
  closeSync(read)
  b.close()
})

test.serial('an iterator that threw goes on where it is asked again [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  const messages = b.messages({ maxFds: 0 })
  const waiting = [messages.next(), messages.next(), messages.next()]
  await a.sendFd(file, 'refused')
  await a.send('taken')
  await t.throwsAsync(waiting[0]!, { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text((await waiting[1]!).value), 'taken')
  a.close()
  t.deepEqual(await waiting[2]!, { done: true, value: undefined })
  closeSync(file)
  b.close()
})

test.serial('an exception in the body leaves the socket open and loses nothing [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  await sendNumbered(a, file, 5)
  const iterate = async () => {
    for await (const message of b) {
      message.close()
      throw new Error('from the body')
    }
  }
  await t.throwsAsync(iterate(), { message: 'from the body' })
  for (let i = 1; i < 5; i++) {
    const message = (await b.recv())!
    t.is(text(message), String(i))
    message.close()
  }
  closeSync(file)
  a.close()
  t.is(await b.recv(), null)
  b.close()
})

test.serial('what was received ahead is taken by recv, recvFd and new iterations, in order [E6]', async (t) => {
  const [a, b] = socketpair()
  const files = Array.from({ length: 12 }, (_, i) => openFile(`file ${i}`))
  for (const [i, file] of files.entries()) await a.sendFd(file, String(i))
  for (const file of files) closeSync(file)
  const seen: (string | null)[] = []
  const take = (message: Message) => {
    seen.push(text(message))
    t.is(readAll(message.fds[0]!.fd), `file ${seen.length - 1}`)
    message.close()
  }
  take(await takeOne(b))
  for (let round = 0; round < 3; round++) {
    take((await b.recv())!)
    const received = (await b.recvFd())!
    seen.push(text(received))
    t.is(readAll(received.fd!.fd), `file ${seen.length - 1}`)
    received[Symbol.dispose]()
    take(await takeOne(b))
  }
  const [x, y] = await Promise.all([b.recv(), b.messages().next()])
  take(x!)
  take(y.value!)
  t.deepEqual(
    seen,
    files.map((_, i) => String(i))
  )
  a.close()
  t.is(await b.recv(), null)
  b.close()
})

test.serial('what was received ahead is cut to a smaller maxBytes: a stream keeps the rest [E6]', async (t) => {
  const file = openFile('with the first byte')
  const [a, b] = socketpair()
  await a.sendFd(file, 'first')
  await a.sendFd(file, 'abcdefgh')
  await a.sendFd(file, 'last')
  closeSync(file)
  const first = await takeOne(b)
  first.close()

  const head = (await b.recv({ maxBytes: 3 }))!
  t.is(text(head), 'abc')
  t.is(head.size, 3)
  t.is(readAll(head.fds[0]!.fd), 'with the first byte')
  head.close()
  const middle = (await b.recvFd({ maxBytes: 2 }))!
  t.is(text(middle), 'de')
  t.is(middle.fd, null)
  const tail = (await b.messages({ maxBytes: 100 }).next()).value!
  t.is(text(tail), 'fgh')
  t.is(tail.size, 3)
  t.is(tail.fds.length, 0)
  const last = await takeOne(b)
  t.is(text(last), 'last')
  last.close()
  a.close()
  b.close()
})

test.serial(
  'what was received ahead is cut to a smaller maxBytes: a packet loses the rest and tells its size [E6]',
  async (t) => {
    const file = openFile('kept')
    const [a, b] = socketpair({ type: packets })
    await a.send('first')
    await a.sendFd(file, 'abcdefgh')
    await a.send('last')
    closeSync(file)
    await takeOne(b)
    const cut = (await b.recv({ maxBytes: 3 }))!
    t.is(text(cut), 'abc')
    t.is(cut.size, 8)
    t.is(readAll(cut.fds[0]!.fd), 'kept')
    cut.close()
    t.is(text(await b.recv()), 'last')
    a.close()
    b.close()
  }
)

test.serial('what was received ahead is refused where it carries more than a smaller maxFds [E6]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  await a.sendFd(write, 'first')
  await a.send('two', { fds: [write, write] })
  await a.send('three', { fds: [write, write, write] })
  await a.send('last', { fds: [write, write] })
  closeSync(write)
  const first = await takeOne(b)
  first.close()
  const byRecv = await t.throwsAsync(b.recv({ maxFds: 1 }), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text(byRecv as Error & { data: Uint8Array }), 'two')
  const byRecvFd = await t.throwsAsync(b.recvFd(), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text(byRecvFd as Error & { data: Uint8Array }), 'three')
  const last = (await b.recv({ maxFds: 2 }))!
  t.is(text(last), 'last')
  t.true(hasWriter(read))
  last.close()
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
  b.close()
})

test.serial(
  'release() throws while messages that were received ahead are held, and works after they were taken [E6]',
  async (t) => {
    const file = openFile()
    const [a, b] = socketpair()
    await sendNumbered(a, file, 3)
    const messages = [await takeOne(b)]
    t.throws(() => b.release(), { code: 'ERR_SOCKET_NOT_EMPTY' })
    t.false(b.closed)
    messages.push((await b.recv({ maxBytes: 1 }))!)
    t.throws(() => b.release(), { code: 'ERR_SOCKET_NOT_EMPTY' })
    messages.push((await b.recv())!)
    for (const message of messages) message.close()
    const number = b.release()
    closeSync(number)
    t.is(await a.recv(), null)
    closeSync(file)
    a.close()
  }
)

test.serial('release() throws while the rest of a message that was received ahead is held [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  await a.sendFd(file, 'one')
  await a.sendFd(file, 'two')
  closeSync(file)
  const first = await takeOne(b)
  const head = (await b.recv({ maxBytes: 1 }))!
  t.throws(() => b.release(), { code: 'ERR_SOCKET_NOT_EMPTY' })
  t.is(text(await b.recv()), 'wo')
  first.close()
  head.close()
  closeSync(b.release())
  a.close()
})

test.serial('recv and recvFd receive nothing ahead [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  await sendNumbered(a, file, 20)
  const before = countFds()
  for (let i = 0; i < 10; i++) {
    ;(await b.recv())!.close()
    ;(await b.recvFd())!.fd!.closeSync()
    t.is(countFds(), before)
  }
  await sendNumbered(a, file, 5)
  const waiting = [b.recv(), b.recvFd()] as const
  const [one, two] = await Promise.all(waiting)
  one!.close()
  two![Symbol.dispose]()
  t.is(countFds(), before)
  closeSync(b.release())
  closeSync(file)
  a.close()
})

test.serial('an iteration holds at most 64 messages beyond the one it gave [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  await sendNumbered(a, file, 200)
  const before = countFds()
  const iterator = b.messages()
  let least = Infinity
  for (let i = 0; i < 200; i++) {
    const message = (await iterator.next()).value!
    t.is(text(message), String(i))
    message.close()
    const held = countFds() - before
    t.true(held <= 64, `${held} held`)
    if (i === 0) t.true(held > 0)
    least = Math.min(least, held)
  }
  t.is(least, 0)
  closeSync(file)
  a.close()
  b.close()
})

test.serial('an iteration that waited holds at most 64 messages beyond the one it gave [E6]', async (t) => {
  const file = openFile()
  const [a, b] = socketpair()
  const before = countFds()
  const iterator = b.messages()
  const waiting = iterator.next()
  t.true(await isPending(waiting))
  await sendNumbered(a, file, 200)
  const first = (await waiting).value!
  first.close()
  for (let i = 1; i < 200; i++) {
    t.true(countFds() - before <= 64)
    ;(await iterator.next()).value!.close()
  }
  t.is(countFds(), before)
  closeSync(file)
  a.close()
  b.close()
})

test.serial('an iteration holds at most 250 descriptors beyond the message it gave [E6]', async (t) => {
  const file = openFile()
  for (const size of [10, 100, 200, 253]) {
    const [a, b] = socketpair()
    const fds = Array.from({ length: size }, () => file)
    const count = 40
    const sending = (async () => {
      for (let i = 0; i < count; i++) await a.send('x', { fds })
    })()
    await turns()
    const before = countFds()
    const held: number[] = []
    const iterator = b.messages()
    for (let i = 0; i < count; i++) {
      const message = (await iterator.next()).value!
      t.is(message.fds.length, size)
      message.close()
      held.push(countFds() - before)
    }
    await sending
    t.true(Math.max(...held) <= 250, `${Math.max(...held)} held`)
    if (size <= 100) t.true(Math.max(...held) > 0)
    a.close()
    b.close()
  }
  closeSync(file)
})

const onLinux = onlyIf(isLinux, 'needs /proc', test.serial)
const smallTable = {
  quarter: 'an iteration leaves three quarters of the free descriptor table alone [E6]',
  careful: 'after a truncation an iteration receives one message at a time [E6]',
  growing: 'receiving ahead loses no descriptors of messages that carry more than those before [E6]',
  scattered: 'receiving ahead loses no descriptors where the free numbers are few and low [E6]'
}
for (const [scenario, title] of Object.entries(smallTable)) {
  onLinux(title, async (t) => {
    const node = [process.execPath, ...process.execArgv, fixturePath('small-table'), scenario]
    const child = spawn('sh', ['-c', 'ulimit -n 200; exec "$@"', 'sh', ...node], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.is(await finish(child), 'done\n')
  })
}
