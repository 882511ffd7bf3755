import { fstatSync, ftruncateSync, openSync, readFileSync, readSync, readlinkSync, writeSync } from 'node:fs'
import { inspect } from 'node:util'
import test from 'ava'
import { Descriptor, type Seal, memfd, pipe } from 'fdpass'
import {
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  loose,
  notIntegers,
  notNumbers,
  notOptions,
  throws
} from '../helpers/arguments.ts'
import { hasMemory, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, readAll, statusFlags } from '../helpers/descriptors.ts'
import { startPython } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'Linux only')

const withPython = onlyIf(isLinux && hasPython, 'needs Linux and Python 3.9')

const looseMemfd = memfd as Loose

/** What memory holds from its first byte on. */
function contentOf(memory: Descriptor): string {
  const buffer = Buffer.alloc(fstatSync(memory.fd).size)
  readSync(memory.fd, buffer, 0, buffer.length, 0)
  return buffer.toString()
}

const nameOf = (memory: Descriptor) => readlinkSync(`/proc/self/fd/${memory.fd}`)

onLinux('memory has a name, and is close-on-exec', (t) => {
  using unnamed = memfd()
  t.is(nameOf(unnamed), '/memfd:fdpass (deleted)')
  t.not(statusFlags(unnamed.fd) & CLOEXEC, 0)
  for (const given of ['', 'a name', 'with/slashes', 'ünïcode', 'x'.repeat(249)]) {
    using memory = memfd({ name: given })
    t.is(nameOf(memory), `/memfd:${given} (deleted)`)
    using same = memfd({ name: given })
    t.is(same.kind, 'memfd')
  }
})

onLinux('memory holds what it is given, and its offset is at the start', (t) => {
  using empty = memfd()
  t.is(fstatSync(empty.fd).size, 0)
  for (const data of ['text', 'ünïcode', Buffer.from('bytes'), new Uint8Array([65, 66]), '', new Uint8Array()]) {
    using memory = memfd({ data })
    t.is(readAll(memory.fd), Buffer.from(data as string).toString())
  }
  using part = memfd({ data: Buffer.from('a part').subarray(2) })
  t.is(readAll(part.fd), 'part')
  const large = Buffer.alloc(5_000_000, 'large')
  using much = memfd({ data: large })
  t.true(readFileSync(much.fd).equals(large))
})

const GIBIBYTE = 2 ** 30
const withMemory = onlyIf(isLinux && hasMemory(6 * GIBIBYTE), 'needs Linux, and 6 GiB of memory', test.serial)

withMemory('memory of more than 2 GiB holds its data [S190]', (t) => {
  const data = Buffer.alloc(2 * GIBIBYTE + 3)
  const marks = [0, GIBIBYTE, 2 * GIBIBYTE - 1, 2 * GIBIBYTE, data.length - 1]
  for (const [i, at] of marks.entries()) data[at] = i + 1
  using memory = memfd({ data })
  t.is(fstatSync(memory.fd).size, data.length)
  for (const [i, at] of marks.entries()) {
    const byte = Buffer.alloc(1)
    readSync(memory.fd, byte, 0, 1, at)
    t.is(byte[0], i + 1)
  }
})

onLinux('memory can have a size that no C int holds [S190]', (t) => {
  using memory = memfd({ size: 2 ** 41 + 1 })
  t.is(fstatSync(memory.fd).size, 2 ** 41 + 1)
  throws(t, 'beyond 2 ** 53', RANGE, () => memfd({ size: 2 ** 53 }), /options\.size/)
})

onLinux('memory has the size that it is given, filled up with zeros', (t) => {
  using filled = memfd({ data: 'data', size: 6 })
  t.is(contentOf(filled), 'data\0\0')
  using exact = memfd({ data: 'data', size: 4 })
  t.is(contentOf(exact), 'data')
  using zeros = memfd({ size: 4096 })
  t.is(contentOf(zeros), '\0'.repeat(4096))
  using none = memfd({ size: 0 })
  t.is(contentOf(none), '')
})

/** What is refused by which seal. */
const forbids: [Seal, (memory: Descriptor) => unknown][] = [
  ['write', ({ fd }) => writeSync(fd, 'x', 0)],
  ['future-write', ({ fd }) => writeSync(fd, 'x', 0)],
  ['grow', ({ fd }) => ftruncateSync(fd, 100)],
  ['shrink', ({ fd }) => ftruncateSync(fd, 1)],
  ['seal', (memory) => memory.seal(['grow'])]
]

for (const [seal, change] of forbids) {
  onLinux(`the seal '${seal}' holds, whether given at the start or later, and for every duplicate [S18]`, (t) => {
    using atStart = memfd({ data: 'data', seals: [seal] })
    using later = memfd({ data: 'data' })
    t.false(later.seals.includes(seal))
    t.notThrows(() => seal === 'seal' || change(later))
    ftruncateSync(later.fd, 4)
    using duplicate = later.duplicate()
    later.seal([seal])
    for (const memory of [atStart, later, duplicate]) {
      t.true(memory.seals.includes(seal))
      t.throws(() => change(memory), { code: 'EPERM' })
      t.is(fstatSync(memory.fd).size, 4)
    }
  })
}

onLinux('seals are listed in one order, and are never removed', (t) => {
  using memory = memfd({ seals: ['write', 'shrink'] })
  const before = memory.seals
  t.deepEqual(
    before.filter((seal) => seal !== 'exec'),
    ['shrink', 'write']
  )
  memory.seal([])
  memory.seal(['write'])
  t.deepEqual(memory.seals, before)
  memory.seal(['seal', 'grow'])
  t.deepEqual(
    memory.seals.filter((seal) => seal !== 'exec'),
    ['seal', 'shrink', 'grow', 'write']
  )
  t.throws(() => memory.seal(['future-write']), { code: 'EPERM', message: /^EPERM: .*, fcntl$/ })
})

onLinux('what is no memory has no seals and takes none, nor does memory opened for reading only', (t) => {
  using file = Descriptor.from(openSync('/dev/null', 'r+')) // a file in a tmpfs is memory, and has a seal
  t.deepEqual(file.seals, [])
  t.throws(() => file.seal(['write']), { code: 'EINVAL' })
  using memory = memfd({ data: 'data' })
  using reading = Descriptor.from(openSync(`/proc/self/fd/${memory.fd}`, 'r'))
  t.throws(() => reading.seal(['write']), { code: 'EPERM' })
  t.is(readAll(reading.fd), 'data')
  const [read, write] = pipe()
  t.deepEqual(read.seals, [])
  t.throws(() => write.seal([]), { code: 'EINVAL' })
  t.throws(() => read.seal([]), { code: 'EPERM' })
  read.closeSync()
  write.closeSync()
})

withPython('memory is shared with the process that it is passed to, in both directions', async (t) => {
  const { socket, done } = startPython('map_memory')
  using memory = memfd({ data: 'here', size: 4096 })
  await socket.sendFd(memory)
  t.is(text(await socket.recv()), 'here')
  t.throws(() => memory.seal(['write']), { code: 'EBUSY' })
  writeSync(memory.fd, 'more', 0)
  await socket.send('!')
  t.is(text(await socket.recv()), 'more')
  t.is(contentOf(memory).slice(0, 8), 'moreback')
  await socket.send('!')
  await done
  memory.seal(['write'])
  socket.close()
})

/** What another process meets when it changes memory with these seals. */
const tried = async (seals: Seal[]) => {
  const { socket, done } = startPython('try_memory')
  using memory = memfd({ data: 'data', seals })
  await socket.sendFd(memory)
  const answer = JSON.parse(text(await socket.recv())!) as [Record<string, string | null>, number]
  await done
  socket.close()
  return answer
}

withPython('the receiver of memory sees its seals, and cannot break them [S18]', async (t) => {
  const EPERM = 'EPERM'
  const [sealed, bits] = await tried(['seal', 'shrink', 'grow', 'write'])
  t.deepEqual(sealed, { write: EPERM, map: EPERM, grow: EPERM, shrink: EPERM, seal: EPERM })
  t.is(bits & 15, 15)
  const [open] = await tried([])
  t.deepEqual(open, { write: null, map: null, grow: null, shrink: null, seal: null })
})

test('memfd refuses what it cannot take', (t) => {
  if (!isLinux) t.log('no memory here; the arguments are checked all the same')
  for (const options of notOptions) throws(t, inspect(options), TYPE, () => looseMemfd(options))
  for (const name of [null, 5, true, {}, [], Buffer.from('x'), Symbol('x')]) {
    throws(t, `name ${inspect(name)}`, TYPE, () => looseMemfd({ name }), /"options\.name" property/)
  }
  for (const name of ['x'.repeat(250), 'ü'.repeat(125), 'a\0b', '\0']) {
    throws(t, `name ${inspect(name)}`, VALUE, () => looseMemfd({ name }), /^The "options\.name" property/)
  }
  for (const data of [
    null,
    5,
    true,
    {},
    [],
    [65],
    new ArrayBuffer(4),
    new DataView(new ArrayBuffer(4)),
    new Uint16Array(2)
  ]) {
    throws(t, `data ${inspect(data)}`, TYPE, () => looseMemfd({ data }))
  }
  for (const size of notNumbers) throws(t, `size ${inspect(size)}`, TYPE, () => looseMemfd({ size }))
  for (const size of [...notIntegers, -1, 2 ** 53, 3]) {
    throws(t, `size ${size}`, RANGE, () => looseMemfd({ size, data: 'data' }), /"options\.size"/)
  }
  for (const seals of [null, 5, 'write', true, {}, new Set(['write'])]) {
    throws(t, `seals ${inspect(seals)}`, TYPE, () => looseMemfd({ seals }))
  }
  for (const seals of [[''], ['Write'], ['write', 'bad'], [undefined], [null], [8], [['write']], new Array(2)]) {
    throws(t, `seals ${inspect(seals)}`, VALUE, () => looseMemfd({ seals }), /must hold 'seal', 'shrink', /)
  }
})

onLinux('seal refuses what no seals are, and seals nothing then', (t) => {
  using memory = memfd({ data: 'data' })
  const before = memory.seals
  for (const seals of [undefined, null, 5, 'write', {}, new Set(['write'])]) {
    throws(t, inspect(seals), TYPE, () => loose(memory, 'seal')(seals), /"seals" argument must be an instance of Array/)
  }
  for (const seals of [['bad'], ['write', 'bad'], ['write', undefined], [8]]) {
    throws(t, inspect(seals), VALUE, () => loose(memory, 'seal')(seals))
  }
  t.deepEqual(memory.seals, before)
})
