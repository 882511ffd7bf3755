import { spawnSync } from 'node:child_process'
import { closeSync, constants, fstatSync, openSync, readFileSync, readlinkSync, readSync, writeSync } from 'node:fs'
import { open as openHandle } from 'node:fs/promises'
import { createConnection, createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, UnixSocket, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import {
  CLOEXEC,
  hasWriter,
  isOpen,
  openFile,
  openPipe,
  readAll,
  sameFile,
  statusFlags,
  temporaryFile,
  temporaryFolder
} from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'

// Serial throughout: some of these tests depend on the kernel giving out the lowest free number.
const onLinux = onlyIf(isLinux, 'needs /proc', test.serial)

/** What a new program finds in its descriptor table. */
function inherited(extra: number[] = []): string[] {
  const list = 'for fd in /proc/self/fd/*; do readlink "$fd"; done; exit 0'
  const { stdout } = spawnSync('sh', ['-c', list], { stdio: ['ignore', 'pipe', 'ignore', ...extra], encoding: 'utf8' })
  return stdout.split('\n')
}

/** Sends one descriptor through a new pair and gives what came. */
async function transfer(fd: number, type: 'stream' | 'seqpacket' = 'stream'): Promise<Descriptor> {
  const [a, b] = socketpair({ type })
  await a.sendFd(fd)
  const received = await b.recvFd()
  a.close()
  b.close()
  return received!.fd!
}

/** A number that is not open, next in line to be given out. */
function nextNumber(): number {
  const fd = openSync('/dev/null', 'r')
  closeSync(fd)
  return fd
}

onLinux('a received descriptor is close-on-exec [D1]', async (t) => {
  const path = temporaryFile('secret')
  const file = openSync(path, 'r')
  t.true(inherited([file]).includes(path)) // a program sees what it is meant to inherit

  const single = await transfer(file)
  const [a, b] = socketpair()
  await a.send('x', { fds: [file, file] })
  const message = (await b.recv())!
  await a.send('y', { fds: [file] })
  await a.send('z', { fds: [file] })
  const iterated: Descriptor[] = []
  for await (const { fds } of b) {
    iterated.push(...fds)
    if (iterated.length === 2) break
  }
  closeSync(file)

  const all = [single, ...message.fds, ...iterated]
  t.is(all.length, 5)
  for (const descriptor of all) t.not(statusFlags(descriptor.fd) & CLOEXEC, 0)
  t.false(inherited().includes(path))
  for (const descriptor of all) descriptor.closeSync()
  a.close()
  b.close()
})

onLinux('both ends of a pair, and what release() gives back, are close-on-exec [D10]', (t) => {
  for (const type of ['stream', 'seqpacket', 'dgram'] as const) {
    const pair = socketpair({ type })
    const numbers = pair.map((socket) => socket.release())
    const links = numbers.map((number) => readlinkSync(`/proc/self/fd/${number}`))
    for (const number of numbers) t.not(statusFlags(number) & CLOEXEC, 0)
    const seen = inherited()
    t.false(links.some((link) => seen.includes(link)))
    const again = numbers.map((number) => UnixSocket.from(number))
    const seenAgain = inherited()
    t.false(links.some((link) => seenAgain.includes(link)))
    for (const socket of again) socket.close()
  }
})

onLinux('a duplicate, and what Descriptor.release() gives back, are close-on-exec [D10]', (t) => {
  const path = temporaryFile()
  const descriptor = Descriptor.from(openSync(path, 'r'))
  const duplicate = descriptor.duplicate()
  t.not(statusFlags(duplicate.fd) & CLOEXEC, 0)
  t.false(inherited().includes(path))
  const number = descriptor.release()
  t.not(statusFlags(number) & CLOEXEC, 0)
  duplicate.closeSync()
  closeSync(number)
})

test.serial('a message closes what it still holds, and only that [D2]', async (t) => {
  const pipes = [openPipe(), openPipe(), openPipe(), openPipe()] as const
  const [a, b] = socketpair()
  await a.send('four', { fds: pipes.map(({ write }) => write) })
  for (const { write } of pipes) closeSync(write)
  const message = (await b.recv())!
  const [kept, closed, released] = message.fds as [Descriptor, Descriptor, Descriptor, Descriptor]

  closed.closeSync()
  const number = released.release()
  const duplicate = kept.duplicate()
  message.close()
  t.deepEqual(
    pipes.map(({ read }) => hasWriter(read)),
    [true, false, true, false]
  )
  t.throws(() => kept.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.true(isOpen(number))
  message.close()
  t.true(isOpen(number))

  closeSync(number)
  duplicate.closeSync()
  t.deepEqual(
    pipes.map(({ read }) => hasWriter(read)),
    [false, false, false, false]
  )
  for (const { read } of pipes) closeSync(read)
  a.close()
  b.close()
})

test.serial('disposal closes: a Message, a ReceivedFd, a Descriptor, a UnixSocket [D2]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  for (let i = 0; i < 4; i++) await a.sendFd(write)
  closeSync(write)

  const message = (await b.recv())!
  const received = (await b.recvFd())!
  const descriptor = (await b.recvFd())!.fd!
  const another = (await b.recvFd())!.fd!
  const ends = [
    () => message[Symbol.dispose](),
    () => received[Symbol.dispose](),
    () => descriptor[Symbol.dispose](),
    () => another[Symbol.asyncDispose]()
  ]
  for (const end of ends) {
    t.true(hasWriter(read))
    await end()
  }
  t.false(hasWriter(read))
  t.notThrows(() => received[Symbol.dispose]())

  a[Symbol.dispose]()
  t.is(await b.recv(), null)
  await b[Symbol.asyncDispose]()
  t.true(b.closed)
  closeSync(read)
})

test.serial('close() of a socket closes what it has received ahead, and what nobody received [D3]', async (t) => {
  for (const end of ['close', 'asyncDispose'] as const) {
    const ahead = openPipe()
    const unread = openPipe()
    const [a, b] = socketpair()
    await a.send('first')
    await a.send('second', { fds: [ahead.write, ahead.write] })
    const messages = b.messages()
    await a.send('third', { fds: [ahead.write] })
    const first = (await messages.next()).value!
    t.is(text(first), 'firstsecond')
    first.close()
    await a.send('unread', { fds: [unread.write] })
    closeSync(ahead.write)
    closeSync(unread.write)
    t.true(hasWriter(ahead.read))
    t.true(hasWriter(unread.read))

    if (end === 'close') b.close()
    else await b[Symbol.asyncDispose]()
    t.false(hasWriter(ahead.read))
    t.false(hasWriter(unread.read))
    closeSync(ahead.read)
    closeSync(unread.read)
    a.close()
  }
})

test.serial('release() hands the number over, and the object lets go of it [D4]', (t) => {
  const fd = openFile('mine')
  const descriptor = Descriptor.from(fd)
  t.is(descriptor.release(), fd)
  t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.throws(() => descriptor.release(), { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.throws(() => descriptor.duplicate(), { code: 'ERR_DESCRIPTOR_CLOSED' })
  descriptor.closeSync()
  t.is(readAll(fd), 'mine')
  closeSync(fd)
})

test.serial('release() of a descriptor that was received hands over a number that works [D4]', async (t) => {
  const file = openFile('passed on')
  const descriptor = await transfer(file)
  closeSync(file)
  const number = descriptor.release()
  await descriptor.close()
  t.is(readAll(number), 'passed on')
  closeSync(number)
})

test.serial('close() is idempotent and never closes a reused number [D5]', async (t) => {
  const path = temporaryFile('other')
  const ways = {
    closeSync: (descriptor: Descriptor) => descriptor.closeSync(),
    close: (descriptor: Descriptor) => descriptor.close(),
    dispose: (descriptor: Descriptor) => descriptor[Symbol.dispose]()
  }
  for (const first of Object.values(ways)) {
    for (const second of Object.values(ways)) {
      const descriptor = Descriptor.from(openFile('one'))
      const number = descriptor.fd
      await first(descriptor)
      t.false(isOpen(number))
      const other = openSync(path, 'r')
      t.is(other, number)
      await second(descriptor)
      t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
      t.is(readAll(other), 'other')
      closeSync(other)
    }
  }
})

test.serial('two closes at once close one number once [D5]', async (t) => {
  const { read, write } = openPipe()
  const descriptor = Descriptor.from(write)
  const both = [descriptor.close(), descriptor.close()]
  t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.deepEqual(await Promise.all(both), [undefined, undefined])
  t.false(hasWriter(read))
  closeSync(read)
})

test.serial('closing a socket twice never closes a reused number [D5]', async (t) => {
  const path = temporaryFile('other')
  const number = nextNumber()
  const [a, b] = socketpair()
  a.close()
  const other = openSync(path, 'r')
  t.is(other, number)
  a.close()
  await a[Symbol.asyncDispose]()
  t.is(readAll(other), 'other')
  closeSync(other)
  b.close()
})

test.serial('closing a message twice never closes a reused number [D5]', async (t) => {
  const file = openFile('sent')
  const [a, b] = socketpair()
  await a.sendFd(file)
  const message = (await b.recv())!
  const number = message.fds[0]!.fd
  message.close()
  const path = temporaryFile('other')
  const other = openSync(path, 'r')
  t.is(other, number)
  message.close()
  message.fds[0]!.closeSync()
  t.is(readAll(other), 'other')
  closeSync(other)
  closeSync(file)
  a.close()
  b.close()
})

test.serial('sending leaves the descriptor open and usable, whether it succeeds or fails [D8]', async (t) => {
  const file = openFile('still mine')
  const owned = Descriptor.from(openFile('owned'))
  const handle = await openHandle(temporaryFile('handle'), 'r')
  const [a, b] = socketpair()
  const [other, otherEnd] = socketpair()

  const fds = [file, owned, handle, other]
  await a.send('all', { fds })
  ;(await b.recv())!.close()
  await t.throwsAsync(a.send('', { fds }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(a.send('x', { fds: [...fds, 99_999] }), { code: 'EBADF' })
  b.close()
  await t.throwsAsync(a.send('x', { fds }), { code: 'EPIPE' })
  a.close()
  await t.throwsAsync(a.send('x', { fds }), { code: 'ERR_SOCKET_CLOSED' })

  t.is(readAll(file), 'still mine')
  t.is(readAll(owned.fd), 'owned')
  t.is(await handle.readFile('utf8'), 'handle')
  await other.send('works')
  t.is(text(await otherEnd.recv()), 'works')
  closeSync(file)
  owned.closeSync()
  await handle.close()
  other.close()
  otherEnd.close()
})

test.serial('a send that waited and failed leaves the descriptor open, and no duplicate of it [D8]', async (t) => {
  const { read, write } = openPipe()
  const owned = Descriptor.from(write)
  const [a, b] = socketpair()
  const filling = a.send(Buffer.alloc(4 * 1024 * 1024))
  const waiting = a.send('x', { fds: [owned] })
  b.close()
  await t.throwsAsync(filling, { code: 'EPIPE' })
  await t.throwsAsync(waiting, { code: 'EPIPE' })
  t.true(hasWriter(read))
  fstatSync(owned.fd)
  owned.closeSync()
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
})

test.serial('Descriptor.from() takes a number over once, and fails without owning anything [D9]', (t) => {
  const fd = openFile('x')
  const descriptor = Descriptor.from(fd)
  t.throws(() => Descriptor.from(fd), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => UnixSocket.from(fd), { code: 'ENOTSOCK' })
  t.is(readAll(descriptor.fd), 'x')
  descriptor.closeSync()
  t.throws(() => Descriptor.from(fd), { code: 'EBADF' })

  const next = openFile('y')
  t.is(next, fd)
  const again = Descriptor.from(next)
  t.is(readAll(again.fd), 'y')
  again.closeSync()
})

test.serial('UnixSocket.from() takes a number over once [D9]', async (t) => {
  const [a, b] = socketpair({ type: 'seqpacket' })
  const number = a.release()
  const again = UnixSocket.from(number)
  t.is(again.type, 'seqpacket')
  t.throws(() => UnixSocket.from(number), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => Descriptor.from(number), { code: 'ERR_INVALID_ARG_VALUE' })
  await b.send('over')
  t.is(text(await again.recv()), 'over')
  again.close()
  t.throws(() => UnixSocket.from(number), { code: 'EBADF' })
  t.is(await b.recv(), null)
  b.close()
})

test.serial(
  'UnixSocket.from() of a Descriptor takes it over, and leaves it as it was where it fails [D9]',
  async (t) => {
    const [a, b] = socketpair()
    const [c, d] = socketpair({ type: 'dgram' })
    await a.sendFd(c)
    c.close()
    const descriptor = (await b.recvFd())!.fd!
    const socket = UnixSocket.from(descriptor)
    t.is(socket.type, 'dgram')
    t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    t.throws(() => UnixSocket.from(descriptor), { code: 'ERR_DESCRIPTOR_CLOSED' })
    await descriptor.close()
    await socket.send('through')
    t.is(text(await d.recv()), 'through')

    const file = Descriptor.from(openFile('no socket'))
    t.throws(() => UnixSocket.from(file), { code: 'ENOTSOCK' })
    t.is(readAll(file.fd), 'no socket')
    file.closeSync()
    for (const open of [a, b, d, socket]) open.close()
  }
)

onLinux('UnixSocket.from() refuses sockets of other families [D9]', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  t.throws(() => UnixSocket.from(fd), { code: 'EAFNOSUPPORT' })
  t.true(isOpen(fd))
  await new Promise((resolve) => server.close(resolve))
})

onLinux('release() of a socket gives the number back in the mode in which it came [D9]', async (t) => {
  const [a, b] = socketpair()
  const waiting = b.recv() // the event loop watches the socket from now on
  await a.send('x')
  await waiting
  const rejected = t.throwsAsync(b.recv(), { code: 'ERR_SOCKET_CLOSED' })
  const number = b.release()
  await rejected
  t.true(b.closed)
  t.is(statusFlags(number) & constants.O_NONBLOCK, 0)
  t.not(statusFlags(number) & CLOEXEC, 0)

  // Another reader takes it from here, in this process and by a plain read.
  await a.send('plain')
  const buffer = Buffer.alloc(16)
  t.is(buffer.toString('utf8', 0, readSync(number, buffer)), 'plain')
  writeSync(number, 'answer')
  t.is(text(await a.recv()), 'answer')
  b.close()
  t.true(isOpen(number))
  closeSync(number)
  t.is(await a.recv(), null)
  a.close()
})

onLinux('the mode of a socket is the same while an operation waits, and for those who share it [D9]', async (t) => {
  const [a, b] = socketpair()
  await a.sendFd(b)
  const copy = (await b.recvFd())!.fd!
  const before = statusFlags(copy.fd)
  const waiting = b.recv()
  t.is(statusFlags(copy.fd), before)
  await a.send('x')
  await waiting
  t.is(statusFlags(copy.fd), before)
  copy.closeSync()
  a.close()
  b.close()
})

onLinux('a socket that came in non-blocking mode is given back in it [D9]', async (t) => {
  const path = `${temporaryFolder()}/s`
  const server = createServer().listen(path)
  await new Promise((resolve) => server.once('listening', resolve))
  const client = createConnection(path)
  await new Promise((resolve) => client.once('connect', resolve))
  const { fd } = (client as unknown as { _handle: { fd: number } })._handle
  const [a, b] = socketpair()
  await a.sendFd(fd)
  const theirs = UnixSocket.from((await b.recvFd())!.fd!)
  const rejected = t.throwsAsync(theirs.recv(), { code: 'ERR_SOCKET_CLOSED' })
  const number = theirs.release()
  await rejected
  t.not(statusFlags(number) & constants.O_NONBLOCK, 0)
  closeSync(number)
  client.destroy()
  server.close()
  a.close()
  b.close()
})

test.serial('a duplicate shares the open file description and is closed by itself [D9]', (t) => {
  const one = Descriptor.from(openFile('abcdef'))
  const two = one.duplicate()
  t.not(one.fd, two.fd)
  t.true(sameFile(one.fd, two.fd))
  const buffer = Buffer.alloc(3)
  readSync(one.fd, buffer, 0, 3, null)
  one.closeSync()
  t.is(readFileSync(two.fd, 'utf8'), 'def')
  two.closeSync()
})

test.serial('a socket that carries itself, and cycles of sockets, are closed without a hang [D11]', async (t) => {
  const [a, b] = socketpair()
  await a.sendFd(a)
  await a.sendFd(b)
  await b.sendFd(a)
  await b.sendFd(b)
  a.close()
  b.close()

  // Three pairs in a ring, each carrying the next; a pipe end in one of them tells when the kernel has let go of it.
  const { read, write } = openPipe()
  const ring = [socketpair(), socketpair(), socketpair()]
  for (const [i, [left, right]] of ring.entries()) {
    const [next, nextRight] = ring[(i + 1) % 3]!
    await left.send('ring', { fds: [next, nextRight, write] })
    await right.send('ring', { fds: [next] })
  }
  closeSync(write)
  t.true(hasWriter(read))
  const got = (await ring[0]![1].recv())!
  t.is(got.fds.length, 3)
  got.close()
  for (const pair of ring) for (const socket of pair) socket.close()
  closeSync(read)

  const [c, d] = socketpair()
  await c.send('after')
  t.is(text(await d.recv()), 'after')
  c.close()
  d.close()
})

test.serial('a socket received over itself works [D11]', async (t) => {
  const [a, b] = socketpair()
  await a.sendFd(b)
  const again = UnixSocket.from((await b.recvFd())!.fd!)
  await a.send('to either')
  t.is(text(await again.recv()), 'to either')
  b.close()
  await a.send('to the copy')
  t.is(text(await again.recv()), 'to the copy')
  again.close()
  t.is(await a.recv(), null)
  a.close()
})

const bothClosed = async (t: ExecutionContext, type: 'stream' | 'seqpacket' | 'dgram') => {
  const { read, write } = openPipe()
  const [a, b] = socketpair({ type })
  for (let i = 0; i < 5; i++) await a.sendFd(write)
  closeSync(write)
  a.close()
  t.true(hasWriter(read))
  b.close()
  t.false(hasWriter(read))
  closeSync(read)
}
for (const type of ['stream', 'seqpacket', 'dgram'] as const) {
  test.serial(`closing both ends of a ${type} pair closes the descriptors in flight [D12]`, bothClosed, type)
}

test.serial('closing a socket with sends that wait closes what they had captured [D12]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const sends = [a.send(Buffer.alloc(4 * 1024 * 1024))]
  for (let i = 0; i < 5; i++) sends.push(a.send('x', { fds: [write, write] }))
  closeSync(write)
  t.true(hasWriter(read)) // only the duplicates hold it
  a.close()
  t.false(hasWriter(read))
  for (const send of sends) await t.throwsAsync(send, { code: 'ERR_SOCKET_CLOSED' })
  closeSync(read)
  b.close()
})

test.serial(
  'a number that is not open is refused behind a message that waits, although a duplicate takes that number',
  async (t) => {
    const [a, b] = socketpair()
    const file = openFile('content')
    const waiting = a.send(Buffer.alloc(4 * 1024 * 1024))
    const closed = openFile()
    closeSync(closed)
    await t.throwsAsync(a.send('x', { fds: [file, closed] }), { code: 'EBADF' })
    t.false(isOpen(closed))
    b.close()
    await t.throwsAsync(waiting, { code: 'EPIPE' })
    a.close()
    closeSync(file)
  }
)
