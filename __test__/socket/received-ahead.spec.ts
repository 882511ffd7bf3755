import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import test from 'ava'
import { type Message, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { finish, fixturePath } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { sendNumbered, takeOne, text } from '../helpers/sockets.ts'

// Serial throughout: some of these tests count descriptors.
const packets = process.platform === 'darwin' ? 'dgram' : 'seqpacket'

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
  'what was received ahead is cut to a smaller maxBytes: a packet loses the rest and reports its size [E6]',
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

test.serial('an iteration holds at most 64 messages beyond the one it yielded [E6] [S77]', async (t) => {
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

test.serial('an iteration that waited holds at most 64 messages beyond the one it yielded [E6]', async (t) => {
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

test.serial('an iteration holds at most 250 descriptors beyond the message it yielded [E6] [S13] [S78]', async (t) => {
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
