import { constants, readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import test from 'ava'
import { Descriptor, pipe, socketpair } from 'fdpass'
import { RANGE, TYPE, VALUE, loose, notIntegers, notOptions, notSignals, rejects } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, statusFlags, temporaryFile } from '../helpers/descriptors.ts'
import { type Ended, MUCH, close, openFifo, openPty, opened } from '../helpers/kinds.ts'
import { codesOf, isPending, turns } from '../helpers/promises.ts'

const onLinuxAlone = onlyIf(isLinux, 'needs Linux', test.serial)
const withPython = onlyIf(isLinux && hasPython, 'needs Linux and Python 3.9')
const withPythonAlone = onlyIf(isLinux && hasPython, 'needs Linux and Python 3.9', test.serial)
const onNode = onlyIf(!('bun' in process.versions || 'deno' in process.versions), "needs Node's own handles")

const CLOSED = 'ERR_DESCRIPTOR_CLOSED'
test('reads of a pipe wait, and resolve in the order of their calls', async (t) => {
  const [read, write] = pipe()
  const reads = [read.read({ maxBytes: 3 }), read.read({ maxBytes: 3 }), read.read()]
  t.true(await isPending(reads[0]!))
  await write.write('onetwothree')
  t.deepEqual((await Promise.all(reads)).map(String), ['one', 'two', 'three'])
  const end = read.read()
  await write.close()
  t.is(await end, null)
  t.is(await read.read(), null)
  close(read)
})

test('a read gets as many bytes as there are, up to its maximum', async (t) => {
  const [a, b] = socketpair()
  const [read, write] = [Descriptor.from(a.release()), Descriptor.from(b.release())]
  await write.write(MUCH.subarray(0, 100_000))
  const parts = [await read.read({ maxBytes: 70_000 }), await read.read({ maxBytes: 80_000 })]
  t.deepEqual(
    parts.map((part) => part!.length),
    [70_000, 30_000]
  )
  t.true(Buffer.concat(parts as Buffer[]).equals(MUCH.subarray(0, 100_000)))
  close(read, write)
})

test('a write writes everything, in the order of the calls', async (t) => {
  const [read, write] = pipe()
  const writes = [write.write(MUCH), write.write('end'), write.write(new Uint8Array(70).fill(0x2e))]
  t.true(await isPending(writes[0]!))
  const all = read.bytes()
  await Promise.all(writes)
  close(write)
  t.true((await all).equals(Buffer.concat([MUCH, Buffer.from(`end${'.'.repeat(70)}`)])))
  close(read)
})

test('a read that was aborted has consumed nothing', async (t) => {
  const [read, write] = pipe()
  const controller = new AbortController()
  const { signal } = controller
  const aborted = [read.read({ signal }), read.bytes({ signal }), read.poll('read', { signal })]
  const later = read.read()
  controller.abort('a reason')
  t.deepEqual(await codesOf(aborted), ['ABORT_ERR', 'ABORT_ERR', 'ABORT_ERR'])
  await write.write('for the later one')
  t.is(String(await later), 'for the later one')
  t.like(await t.throwsAsync(read.read({ signal })), { name: 'AbortError', cause: 'a reason' })
  close(read, write)
})

test('the error of a read to the end has what was read before it', async (t) => {
  const [read, write] = pipe()
  const controller = new AbortController()
  const all = read.bytes({ signal: controller.signal })
  await write.write(MUCH) // the read takes all but what the pipe holds
  controller.abort()
  const { data, name } = await t.throwsAsync<Ended>(all)
  close(write)
  t.is(name, 'AbortError')
  t.true(Buffer.concat([data, await read.bytes()]).equals(MUCH))
  close(read)
})

test('a read to the end comes before later reads, and stops at its maximum', async (t) => {
  const [read, write] = pipe()
  const first = read.bytes({ maxBytes: 100_000 })
  const rest = read.text()
  await write.write(MUCH.subarray(0, 100_000))
  await write.write('the rest')
  close(write)
  t.true((await first).equals(MUCH.subarray(0, 100_000)))
  t.is(await rest, 'the rest')
  close(read)
})

test('the error of an aborted write has the number of bytes written, and the next one follows them', async (t) => {
  const [read, write] = pipe()
  const controller = new AbortController()
  const { signal } = controller
  const half = write.write(MUCH, { signal })
  const none = write.write('none of this', { signal })
  const next = write.write('next')
  controller.abort()
  const error = await t.throwsAsync<Ended>(half)
  t.is(error.name, 'AbortError')
  t.true(error.bytesWritten > 0 && error.bytesWritten < MUCH.length)
  t.is((await t.throwsAsync<Ended>(none)).bytesWritten, 0)
  const all = read.bytes()
  await next
  close(write)
  t.true((await all).equals(Buffer.concat([MUCH.subarray(0, error.bytesWritten), Buffer.from('next')])))
  close(read)
})

test('the error of a write to a pipe whose reader closes has the number of bytes written', async (t) => {
  const [read, write] = pipe()
  const half = write.write(MUCH)
  close(read)
  const { code, bytesWritten } = await t.throwsAsync<Ended>(half)
  t.is(code, 'EPIPE')
  t.true(bytesWritten > 0 && bytesWritten < MUCH.length)
  t.like(await t.throwsAsync<Ended>(write.write('x')), { code: 'EPIPE', syscall: 'write', bytesWritten: 0 })
  close(write)
})

test.serial('closing, releasing or casting a descriptor ends its pending operations, and leaks none', async (t) => {
  close(...pipe()) // opens the event loop, which has descriptors of its own
  const before = countFds()
  const ways: readonly ((descriptor: Descriptor) => unknown)[] = [
    (descriptor) => descriptor.closeSync(),
    (descriptor) => descriptor.close(),
    (descriptor) => Descriptor.from(descriptor.release()).closeSync(),
    (descriptor) => descriptor.toUnixSocket().close()
  ]
  for (const end of ways) {
    const [a, b] = socketpair()
    const descriptor = Descriptor.from(a.release())
    const pending = [
      descriptor.read(),
      descriptor.bytes(),
      descriptor.poll('read'),
      descriptor.write(MUCH),
      descriptor.write('x')
    ]
    await end(descriptor)
    t.deepEqual(await codesOf(pending), [CLOSED, CLOSED, CLOSED, CLOSED, CLOSED])
    await t.throwsAsync(descriptor.read(), { code: CLOSED })
    b.close()
  }
  while (countFds() !== before) await turns(1) // Deno opens some of its own, for a moment
  t.pass()
})

onNode("a cast passes the descriptor on to Node's loop, and one that fails leaves pending reads", async (t) => {
  const [read, write] = pipe()
  const pending = read.read()
  t.throws(() => read.toReadStream(), { code: 'ERR_INVALID_FD_TYPE' })
  t.throws(() => loose(read, 'toSocket')({ objectMode: true }), { code: VALUE })
  await write.write('to the read')
  t.is(String(await pending), 'to the read')
  const ended = read.read()
  const socket = read.toSocket()
  await t.throwsAsync(ended, { code: CLOSED })
  await write.write('to the socket')
  for await (const chunk of socket) {
    t.is(String(chunk), 'to the socket')
    break
  }
  close(write)
})

/** The ends of each way by which bytes go from one process to another. */
async function everyStream(): Promise<Record<string, readonly [from: Descriptor, to: Descriptor]>> {
  const [master, slave] = await openPty()
  const [otherMaster, otherSlave] = await openPty()
  const [a, b] = socketpair()
  return {
    pipe: pipe(),
    fifo: await openFifo(),
    'master to slave': [slave, master],
    'slave to master': [otherMaster, otherSlave],
    socket: [Descriptor.from(a.release()), Descriptor.from(b.release())]
  }
}

withPython('every stream carries everything, and its blocking mode stays', async (t) => {
  for (const [name, [from, to]] of Object.entries(await everyStream())) {
    const [sharedFrom, sharedTo] = [from.duplicate(), to.duplicate()]
    const isBlocking = () => [sharedFrom, sharedTo].every(({ fd }) => (statusFlags(fd) & constants.O_NONBLOCK) === 0)
    const first = from.read()
    t.true(await isPending(first), name)
    t.true(isBlocking(), name)
    const written = to.write(MUCH)
    t.true(await isPending(written), name)
    t.true(isBlocking(), name)
    const parts = [(await first)!]
    for (let length = parts[0]!.length; length < MUCH.length; length += parts.at(-1)!.length) {
      parts.push((await from.read())!)
    }
    await written
    t.true(Buffer.concat(parts).equals(MUCH), name)
    t.true(isBlocking(), name)
    close(from, to, sharedFrom, sharedTo)
  }
})

withPython('every stream ends with null, and no byte before that is lost', async (t) => {
  for (let round = 0; round < 4; round++) {
    for (const [name, [from, to]] of Object.entries(await everyStream())) {
      if (name === 'master to slave') {
        close(from, to) // a terminal discards its input when its master closes: tty(4)
        continue
      }
      const all = from.bytes()
      await to.write(MUCH.subarray(0, 100_000))
      close(to)
      t.true((await all).equals(MUCH.subarray(0, 100_000)), name)
      t.is(await from.read(), null, name)
      close(from)
    }
  }
})

withPythonAlone('a terminal without a reader makes writes wait, and nothing else', async (t) => {
  const [master, slave] = await openPty()
  // A line end could take two bytes, of which poll(2) promises one.
  const writes = [slave.write('\n'.repeat(200_000)), master.write(MUCH)]
  t.true(await isPending(Promise.any(writes)))
  const before = process.cpuUsage()
  await new Promise((resolve) => setTimeout(resolve, 200))
  const { user, system } = process.cpuUsage(before)
  t.true(user + system < 100_000, `${user + system} µs of processor time in 200 ms of waiting`)
  close(master, slave)
  t.deepEqual(await codesOf(writes), [CLOSED, CLOSED])
})

/** The number of threads of this process. */
const threads = () => readdirSync('/proc/self/task').length

onLinuxAlone('quiet pipes that are being read take no thread', async (t) => {
  await readFile('/dev/null') // the thread pool has started
  const before = threads()
  const pipes = Array.from({ length: 32 }, () => pipe())
  const reads = pipes.map(([read]) => read.read())
  t.is(String(await readFile(temporaryFile('is read'))), 'is read')
  t.is(threads(), before)
  for (const [, write] of pipes) await write.write('x')
  t.deepEqual(
    (await Promise.all(reads)).map(String),
    pipes.map(() => 'x')
  )
  for (const ends of pipes) close(...ends)
})

test('a datagram is read and written as a whole, also an empty one', async (t) => {
  const [a, b] = socketpair({ type: 'dgram' })
  const [read, write] = [Descriptor.from(a.release()), Descriptor.from(b.release())]
  for (const text of ['one', '', 'three']) await write.write(text)
  t.is(String(await read.read({ maxBytes: 2 })), 'on')
  t.is(String(await read.read()), '')
  t.is(String(await read.read()), 'three')
  close(read, write)
})

test('what a descriptor cannot do is an error in the shape of Node', async (t) => {
  const [read, write] = pipe()
  t.like(await t.throwsAsync(read.write('x')), { code: 'EBADF', syscall: 'write', bytesWritten: 0 })
  t.like(await t.throwsAsync(write.read()), { code: 'EBADF', syscall: 'read' })
  t.like(await t.throwsAsync(read.read({ position: 0 })), { code: 'ESPIPE', syscall: 'pread' })
  t.like(await t.throwsAsync(read.bytes({ start: 0 })), { code: 'ESPIPE', syscall: 'pread' })
  t.like(await t.throwsAsync(write.write('x', { position: 0 })), { code: 'ESPIPE', syscall: 'pwrite' })
  const [folder, file] = [await opened('/'), await opened(temporaryFile('x'))]
  t.like(await t.throwsAsync(folder.read()), { code: 'EISDIR', syscall: 'read' })
  t.like(await t.throwsAsync(file.write('x', { position: 1 })), { code: 'EBADF', syscall: 'pwrite', bytesWritten: 0 })
  t.is(String(await file.read()), 'x')
  close(read, write, folder, file)
  await t.throwsAsync(file.read(), { code: CLOSED })
})

test('operations refuse bad arguments, and change nothing', async (t) => {
  const [read, write] = pipe()
  await write.write('stays')
  for (const method of ['read', 'bytes', 'text'] as const) {
    const call = (options: unknown) => () => loose(read, method)(options)
    for (const options of notOptions) await rejects(t, method, TYPE, call(options))
    for (const signal of notSignals) await rejects(t, method, TYPE, call({ signal }))
    for (const maxBytes of [...notIntegers, 0, -1]) await rejects(t, method, RANGE, call({ maxBytes }))
    const name = method === 'read' ? 'position' : 'start'
    for (const position of [...notIntegers, -1, -1n, 2n ** 63n]) {
      await rejects(t, method, RANGE, call({ [name]: position }))
    }
    for (const position of [null, '0', {}]) await rejects(t, method, TYPE, call({ [name]: position }))
  }
  for (const data of [undefined, null, 5, {}, [1]]) await rejects(t, 'write', TYPE, () => loose(write, 'write')(data))
  await rejects(t, 'write', RANGE, () => write.write('x', { position: -1 }))
  for (const event of [undefined, null, 'both', 1]) await rejects(t, 'poll', VALUE, () => loose(read, 'poll')(event))
  for (const signal of notSignals) await rejects(t, 'poll', TYPE, () => loose(read, 'poll')('read', { signal }))
  t.is(String(await read.read()), 'stays')
  close(read, write)
})
