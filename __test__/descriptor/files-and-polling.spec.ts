import { constants, readFileSync, readdirSync, readlinkSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import test from 'ava'
import { Descriptor, bindListener, capabilities, eventfd, memfd, pipe, socketpair } from 'fdpass'
import { type Loose, RANGE, TYPE, VALUE, notOptions, throws } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, statusFlags, temporaryFile } from '../helpers/descriptors.ts'
import { type Ended, MUCH, close, everyKind, openFifo, openNew, opened } from '../helpers/kinds.ts'
import { codesOf, isPending } from '../helpers/promises.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')
const withPidfds = onlyIf(hasPython && isLinux && capabilities().exitDescriptors, 'needs Python 3.9 and Linux 5.3')

const CLOSED = 'ERR_DESCRIPTOR_CLOSED'

test('a file is read at its offset, which duplicates share, or from a position', async (t) => {
  const path = temporaryFile('0123456789')
  const file = await opened(path, constants.O_RDWR)
  const shared = file.duplicate()
  t.is(String(await file.read({ maxBytes: 3 })), '012')
  t.is(String(await file.read({ maxBytes: 3, position: 8 })), '89')
  t.is(String(await shared.read({ maxBytes: 3 })), '345')
  t.is(await file.text({ start: 1n }), '123456789')
  t.is(await file.text({ start: 2, maxBytes: 2 }), '23')
  t.is(await file.text(), '6789')
  t.is(await file.read(), null)
  t.is((await file.bytes()).length, 0)
  await file.write('ab')
  await shared.write('c')
  await file.write('X', { position: 0n })
  t.is(readFileSync(path, 'utf8'), 'X123456789abc')
  close(file, shared)
})

test('operations on a file take place in the order of their calls', async (t) => {
  const file = await openNew()
  const writes = Promise.all([file.write(MUCH), file.write('end'), file.write('AB', { position: 1_000_000 })])
  const expected = Buffer.concat([MUCH, Buffer.from('end')])
  expected.write('AB', 1_000_000)
  const reads = [file.bytes({ start: 0 }), file.bytes({ start: MUCH.length - 1 }), file.read({ position: 1_000_000 })]
  await writes
  t.true((await reads[0]!)!.equals(expected))
  t.is(String(await reads[1]), ' end')
  t.is((await reads[2]!)!.length, 65_536)
  t.is((await file.read({ position: 0, maxBytes: 2 ** 31 - 1 }))!.length, expected.length)
  close(file)
})

test('an aborted operation on a file has done nothing, or everything', async (t) => {
  const delays = [() => Promise.resolve(), () => turn(), async () => void (await (await turn(), turn()))]
  for (const delay of [...delays, ...delays, ...delays]) {
    const file = await openNew('0123456789')
    const controller = new AbortController()
    const { signal } = controller
    const reads = [file.read({ maxBytes: 1, signal }), file.read({ maxBytes: 1, signal }), file.read({ maxBytes: 1 })]
    const write = file.write('ab', { signal })
    await delay()
    controller.abort()
    const results = await Promise.allSettled(reads)
    const taken = results.map((result) => (result.status === 'fulfilled' ? String(result.value) : '')).join('')
    const bytesWritten = await write.then(
      () => 2,
      (error: Ended) => error.bytesWritten
    )
    const start = taken.length
    t.is(taken, '0123456789'.slice(0, start))
    t.is(
      await file.text({ start: 0 }),
      `${taken}${'ab'.slice(0, bytesWritten)}${'0123456789'.slice(start + bytesWritten)}`
    )
    t.is(await file.text(), '0123456789'.slice(start + bytesWritten))
    close(file)
  }
})

test('a file that is closed while it is used ends its operations, and its number is not used any more', async (t) => {
  for (const end of [
    (file: Descriptor) => file.closeSync(),
    (file: Descriptor) => file.close(),
    (file: Descriptor) => Descriptor.from(file.release()).closeSync()
  ]) {
    for (let round = 0; round < 20; round++) {
      const file = await openNew()
      const pending = [file.write(MUCH), file.read(), file.bytes({ start: 0 })]
      if (round % 2 === 0) await turn()
      const ended = end(file)
      const [next, peer] = socketpair() // probably with the same number
      await ended
      const codes = await codesOf(pending)
      // Without a turn of the event loop none can have ended before.
      t.true(codes.every((code) => code === CLOSED || (code === undefined && round % 2 === 0)))
      next.close()
      t.is(await peer.recv(), null)
      peer.close()
    }
  }
})

test('files, memory and devices without poll(2) are always ready', async (t) => {
  const descriptors = [await openNew(), await opened('/dev/null', constants.O_RDWR), await opened('/')]
  if (isLinux) descriptors.push(memfd())
  for (const descriptor of descriptors) {
    await descriptor.poll('read')
    await descriptor.poll('write')
  }
  await descriptors[1]!.write('into nothing')
  t.is(await descriptors[1]!.read(), null)
  close(...descriptors)
})

test('poll resolves when a descriptor is ready, and consumes nothing', async (t) => {
  const [read, write] = pipe()
  await write.poll('write')
  const polls = [read.poll('read'), read.poll('read')]
  t.true(await isPending(polls[0]!))
  await write.write('x')
  await Promise.all(polls)
  t.is(String(await read.read()), 'x')
  const full = write.write(MUCH)
  const room = write.poll('write')
  t.true(await isPending(room))
  close(read)
  await room
  await t.throwsAsync(full, { code: 'EPIPE' })
  await write.poll('write')
  close(write)
})

test('poll reports a connection that waits to be accepted', async (t) => {
  const listener = bindListener({ port: 0, host: '127.0.0.1' })
  const ready = listener.poll('read')
  t.true(await isPending(ready))
  const { port } = listener.address as { port: number }
  const client = connectTcp(port, '127.0.0.1').on('error', () => {})
  await ready
  close(listener)
  client.destroy()
})

/** An integer as an eventfd has it. */
function count(value: bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(value).buffer)
}

const onEventfd = onlyIf(process.platform !== 'darwin', 'macOS has no eventfd')

onEventfd('an eventfd counts, wakes its reader, and is in blocking mode', async (t) => {
  const counter = eventfd()
  const shared = counter.duplicate()
  if (isLinux) t.is(statusFlags(shared.fd) & (constants.O_NONBLOCK | CLOEXEC), CLOEXEC)
  const read = counter.read()
  t.true(await isPending(read))
  await counter.write(count(5n))
  t.deepEqual(await read, Buffer.from(count(5n)))
  await counter.write(count(2n ** 64n - 2n))
  const full = counter.write(count(7n))
  t.true(await isPending(full))
  if (isLinux) t.is(statusFlags(shared.fd) & constants.O_NONBLOCK, 0)
  t.deepEqual(await counter.read(), Buffer.from(count(2n ** 64n - 2n)))
  await full
  t.deepEqual(await counter.read(), Buffer.from(count(7n)))
  await t.throwsAsync(counter.write('short'), { code: 'EINVAL' })
  close(counter, shared)
})

onEventfd('an eventfd has an initial value, all of which one read takes, or one at a time', async (t) => {
  for (const initial of [1, 2 ** 40, 2n ** 64n - 2n]) {
    const counter = eventfd({ initial })
    t.deepEqual(await counter.read(), Buffer.from(count(BigInt(initial))))
    close(counter)
  }
  const semaphore = eventfd({ initial: 2, semaphore: true })
  if (isLinux) t.is(semaphore.kind, 'eventfd')
  t.deepEqual([await semaphore.read(), await semaphore.read()], [Buffer.from(count(1n)), Buffer.from(count(1n))])
  t.true(await isPending(semaphore.read({ signal: AbortSignal.timeout(60_000) }).catch(() => {})))
  close(semaphore)
  for (const options of notOptions) throws(t, 'options', TYPE, () => (eventfd as Loose)(options))
  for (const initial of [-1, 1.5, 2 ** 53, -1n, 2n ** 64n - 1n]) throws(t, 'initial', RANGE, () => eventfd({ initial }))
  for (const value of ['1', null, {}]) throws(t, 'initial', TYPE, () => (eventfd as Loose)({ initial: value }))
  for (const value of [1, null, 'yes']) throws(t, 'semaphore', TYPE, () => (eventfd as Loose)({ semaphore: value }))
})

onlyIf(process.platform === 'darwin', 'macOS only')('an eventfd on macOS is refused', (t) => {
  throws(t, 'eventfd', 'ERR_UNSUPPORTED_PLATFORM', () => eventfd())
})

/** The path of an open file; undefined if the number is not open. */
function linkOf(fd: number | string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return undefined
  }
}

onLinux('the number that a named pipe is read by belongs to fdpass', async (t) => {
  const [read, write] = await openFifo()
  t.true(await isPending(read.poll('read')))
  const pending = read.read()
  const isSame = (fd: string) => fd !== String(read.fd) && fd !== String(write.fd) && linkOf(fd) === linkOf(read.fd)
  const others = readdirSync('/proc/self/fd').filter(isSame).map(Number)
  t.is(others.length, 1)
  throws(t, 'a number in use', VALUE, () => Descriptor.from(others[0]!))
  await write.write('x')
  t.is(String(await pending), 'x')
  close(read, write)
})

withPidfds('poll of a pidfd reports that the process has ended', async (t) => {
  const { samples, end } = await everyKind(true)
  const pidfd = samples.find(({ kind }) => kind === 'pidfd')!.descriptor.duplicate()
  const ended = pidfd.poll('read')
  t.true(await isPending(ended))
  await Promise.all([end(), ended])
  await t.throwsAsync(pidfd.read(), { code: 'EINVAL' })
  close(pidfd)
})
