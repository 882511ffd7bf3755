import { closeSync, fstatSync, readSync } from 'node:fs'
import test from 'ava'
import { Channel, type ChannelMessage, type Descriptor, memfd, pipe, socketpair } from 'fdpass'
import { MESSAGE, frame, openBare, openChannels, openSmall } from '../helpers/channels.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { isOpen, openFile, readAll, sameFile } from '../helpers/descriptors.ts'
import { isPending, turns } from '../helpers/promises.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9')

const mebibyte = 1024 * 1024

/** What each descriptor's file holds; closes them. */
function contentsOf(message: ChannelMessage | null): string[] {
  const contents = message!.fds.map(({ fd }) => readAll(fd))
  message!.close()
  return contents
}

test('messages keep their order, and each its own descriptors', async (t) => {
  const [a, b] = openChannels<number>(t)
  const counts = [0, 1, 0, 0, 3, 253, 254, 0, 600, 1, 1024, 0, 2]
  const files = Array.from({ length: 20 }, () => memfd())
  const inodes = files.map(({ fd }) => fstatSync(fd).ino)
  const sending = counts.map((count, i) =>
    a.send(
      i,
      Array.from({ length: count }, (_, n) => files[(i + n) % 20]!)
    )
  )
  for (const [i, count] of counts.entries()) {
    const message = (await b.receive())!
    t.is(message.value, i)
    t.deepEqual(
      message.fds.map(({ fd }) => fstatSync(fd).ino),
      Array.from({ length: count }, (_, n) => inodes[(i + n) % 20]!)
    )
    message.close()
  }
  await Promise.all(sending)
  files.forEach((file) => file.closeSync())
})

test('messages with descriptors that have arrived do not cost a turn of the event loop each', async (t) => {
  const COUNT = 48
  const [a, b] = openChannels<number>(t)
  const file = memfd()
  const first = b.receive()
  await turns(1) // the event loop watches the socket from now on
  for (let i = 0; i <= COUNT; i++) await a.send(i, [file])
  file.closeSync()
  ;(await first)!.close()
  let seen = 0
  let counting = setImmediate(function count() {
    seen++
    counting = setImmediate(count)
  })
  for (let i = 1; i <= COUNT; i++) {
    const message = (await b.receive())!
    t.is(message.value, i)
    message.close()
  }
  clearImmediate(counting)
  t.true(seen < COUNT / 4, `${seen} turns`)
})

test('a message with as many descriptors as there can be arrives whole, whether it has bytes or none', async (t) => {
  const [a, b] = openChannels(t, { maxFds: 4048 })
  const file = memfd()
  for (const value of [undefined, 'some']) {
    const sent = a.send(
      value,
      Array.from({ length: 4048 }, () => file)
    )
    const message = (await b.receive())!
    await sent
    t.is(message.value, value)
    t.is(message.fds.length, 4048)
    t.true(message.fds.every(({ fd }) => sameFile(fd, file.fd)))
    message.close()
  }
  file.closeSync()
})

test('what was sent may be closed, and its number used again, while the message waits', async (t) => {
  const [a, b] = openChannels(t)
  const filler = a.send(Buffer.alloc(mebibyte))
  const file = openFile('the one that was sent')
  const waiting = a.send('x', [file])
  closeSync(file)
  const other = openFile('another one')
  t.is(other, file)
  await b.receive()
  t.deepEqual(contentsOf(await b.receive()), ['the one that was sent'])
  await Promise.all([filler, waiting])
  closeSync(other)
})

test.serial('descriptors of a message are the receiver’s, and close() closes those that are left', async (t) => {
  const [a, b] = openChannels(t)
  const files = [openFile('1'), openFile('2'), openFile('3')]
  await a.send('x', files)
  files.forEach((file) => closeSync(file))
  const message = (await b.receive())!
  const released = message.fds[0]!.release()
  const rest = message.fds.slice(1).map(({ fd }) => fd)
  message.close()
  message.close()
  t.true(isOpen(released))
  t.deepEqual(rest.map(isOpen), [false, false])
  closeSync(released)
})

test('receives that wait at the same time get one message each, in order', async (t) => {
  const [a, b] = openChannels<number>(t)
  const waiting = Array.from({ length: 100 }, () => b.receive())
  for (let i = 0; i < 100; i++) await a.send(i)
  t.deepEqual(
    (await Promise.all(waiting)).map((message) => message!.value),
    Array.from({ length: 100 }, (_, i) => i)
  )
})

test('messages that come with a receive that takes only some of them are there for the next', async (t) => {
  const [a, bare] = openBare<Uint8Array>(t)
  await bare.send(Buffer.concat(Array.from({ length: 200 }, (_, i) => frame(MESSAGE, Uint8Array.of(i)))))
  for (let i = 0; i < 200; i++) t.is((await a.receive())!.value[0], i)
  t.true(await isPending(a.receive()))
})

test('an iteration yields the messages until the end; leaving it leaves the channel open and loses nothing', async (t) => {
  const [a, b] = openChannels<number>(t)
  for (let i = 0; i < 10; i++) await a.send(i, [0])
  const seen: number[] = []
  for await (const message of b) {
    message.close()
    seen.push(message.value)
    if (message.value === 3) break
  }
  const next = (await b.receive())!
  next.close()
  seen.push(next.value)
  const iterate = async () => {
    for await (const message of b) {
      message.close()
      if (seen.push(message.value) === 7) throw new Error('from the body')
    }
  }
  await t.throwsAsync(iterate(), { message: 'from the body' })
  a.close()
  for await (const message of b) {
    message.close()
    seen.push(message.value)
  }
  t.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  t.is(await b.receive(), null)
})

test('a message that came while only an answer was waited for is there for the next receive', async (t) => {
  const [a, b] = openChannels(t)
  b.onRequest(async ({ value }) => {
    await b.send('first', [0])
    await b.send('second')
    return { value }
  })
  t.is((await a.request('question')).value, 'question')
  const first = (await a.receive())!
  t.is(first.value, 'first')
  t.true(sameFile(first.fds[0]!.fd, 0))
  first.close()
  t.is((await a.receive())!.value, 'second')
})

test('sends wait while the peer does not receive, and all arrive when it does', async (t) => {
  const [a, b] = openChannels<Uint8Array>(t)
  let resolved = 0
  const sending = Array.from({ length: 200 }, async (_, i) => {
    await a.send(Buffer.alloc(65_536, i))
    resolved++
  })
  await turns(20)
  const stalled = resolved
  await turns(20)
  t.is(resolved, stalled)
  t.true(stalled < 50)
  for (let i = 0; i < 200; i++) t.true(Buffer.alloc(65_536, i).equals((await b.receive())!.value))
  await Promise.all(sending)
})

test('a channel with a handler holds no more unreceived messages than the limits of one [S13]', async (t) => {
  const [a, b] = openChannels<Uint8Array>(t, {}, { maxBytes: 100_000 })
  b.onRequest(() => {})
  let resolved = 0
  const sending = Array.from({ length: 100 }, () => a.send(Buffer.alloc(65_536)).then(() => resolved++))
  await turns(40)
  t.true(resolved < 20)
  for (let i = 0; i < 100; i++) t.is((await b.receive())!.value.length, 65_536)
  await Promise.all(sending)
})

withPython('messages go through a buffer that is smaller than they are, with their descriptors', async (t) => {
  const ends = await openSmall(t)
  const [a, b] = ends.map((socket) => new Channel<number[]>(socket)) as [Channel<number[]>, Channel<number[]>]
  const file = memfd()
  const sent: number[][] = Array.from({ length: 60 }, (_, i) => Array.from({ length: (i * 997) % 20_000 }, () => i))
  const counts = sent.map((_, i) => (i % 3 === 0 ? (i * 37) % 600 : 0))
  const sending = sent.map((value, i) =>
    a.send(
      value,
      Array.from({ length: counts[i]! }, () => file)
    )
  )
  const back = b.send(sent[59]!, [file])
  for (const [i, value] of sent.entries()) {
    const message = (await b.receive())!
    t.deepEqual(message.value, value)
    t.is(message.fds.length, counts[i]!)
    t.true(message.fds.every(({ fd }) => sameFile(fd, file.fd)))
    message.close()
  }
  const answer = (await a.receive())!
  t.deepEqual(answer.value, sent[59]!)
  answer.close()
  await Promise.all([...sending, back])
  file.closeSync()
})

test('descriptors reach a pending receive, and work', async (t) => {
  const [a, b] = openChannels(t)
  const [read, write] = pipe()
  const waiting = b.receive()
  await a.send({ what: 'a pipe' }, [write])
  write.closeSync()
  const [end] = (await waiting)!.fds as [Descriptor]
  const { fd } = end
  const { writeSync } = await import('node:fs')
  writeSync(fd, 'through it')
  end.closeSync()
  const buffer = Buffer.alloc(20)
  t.is(buffer.toString('utf8', 0, readSync(read.fd, buffer)), 'through it')
  t.is(readSync(read.fd, buffer), 0)
  read.closeSync()
})

for (const told of [{ credentials: true }, { pidfd: true }] as const) {
  test(`a socket that reports ${Object.keys(told)[0]} can back a channel, which keeps none of it`, async (t) => {
    let ends
    try {
      ends = socketpair(told)
    } catch (error) {
      t.is((error as NodeJS.ErrnoException).code, 'ENOPROTOOPT')
      return
    }
    const [a, b] = ends.map((socket) => new Channel<number>(socket)) as [Channel<number>, Channel<number>]
    const file = openFile('with credentials')
    for (let i = 0; i < 10; i++) await a.send(i, i % 2 === 0 ? [file] : [])
    closeSync(file)
    for (let i = 0; i < 10; i++) {
      const message = (await b.receive())!
      t.is(message.value, i)
      t.deepEqual(contentsOf(message).length, i % 2 === 0 ? 1 : 0)
    }
    a.close()
    b.close()
  })
}
