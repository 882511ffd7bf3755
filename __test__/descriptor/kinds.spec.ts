import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync, constants, openSync } from 'node:fs'
import { Server } from 'node:net'
import { join } from 'node:path'
import test from 'ava'
import { Descriptor, bind, bindListener, listen, memfd, pipe, socketpair } from 'fdpass'
import { TYPE, throws } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { everyKind } from '../helpers/kinds.ts'

const CLOSED = 'ERR_DESCRIPTOR_CLOSED'

const onLinux = onlyIf(isLinux, 'Linux only')
const folder = temporaryFolder()

const { samples, missing, end: endSamples } = await everyKind(isLinux && hasPython)
test.after.always(endSamples)

for (const { kind, title, descriptor } of samples) {
  test(`another process's ${title} is of kind '${kind}' [S16]`, (t) => {
    t.is(descriptor.kind, kind)
    t.is(descriptor.kind, kind)
    using duplicate = descriptor.duplicate()
    t.is(duplicate.kind, kind)
  })
}
for (const [kind, title, reason] of missing) {
  onlyIf(false, reason)(`another process's ${title} is of kind '${kind}' [S16]`, (t) => t.fail())
}

test('what the package makes has a kind', async (t) => {
  const [read, write] = pipe()
  t.deepEqual([read.kind, write.kind], ['fifo', 'fifo'])
  using tcp = bindListener({ port: 0 })
  t.is(tcp.kind, 'tcp-listener')
  using unix = bindListener({ path: join(folder, 'listener') })
  t.is(unix.kind, 'unix-listener')
  for (const type of ['stream', 'dgram', ...(isLinux ? (['seqpacket'] as const) : [])] as const) {
    for (const socket of socketpair({ type })) {
      using descriptor = Descriptor.from(socket.release())
      t.is(descriptor.kind, `unix-${type}`)
    }
  }
  using server = Descriptor.from((await listen(join(folder, 'server'))).release())
  t.is(server.kind, 'unix-listener')
  for (const descriptor of [read, write]) descriptor.closeSync()
})

onLinux('memory that the package makes is memory', (t) => {
  using memory = memfd()
  t.is(memory.kind, 'memfd')
})

test.serial('a kind is found out when it is asked for, once', (t) => {
  const [asked, unasked] = [openFile(), openFile()]
  const [first, second] = [Descriptor.from(asked), Descriptor.from(unasked)]
  t.is(first.kind, 'file')
  closeSync(asked)
  closeSync(unasked)
  t.is(first.kind, 'file')
  t.throws(() => second.kind, { code: 'EBADF', message: /^EBADF: .*, fstat$/ })
  const numbers = [openSync(folder, 'r'), openSync(folder, 'r')]
  t.deepEqual(new Set(numbers), new Set([asked, unasked]))
  t.deepEqual([first.kind, second.kind], ['file', 'directory'])
  first.closeSync()
  second.closeSync()
})

test('a descriptor that is closed, released or given away has no kind, address or seals', async (t) => {
  const ways: [string, (descriptor: Descriptor) => unknown][] = [
    ['closeSync', (descriptor) => descriptor.closeSync()],
    ['close', (descriptor) => descriptor.close()],
    ['release', (descriptor) => closeSync(descriptor.release())],
    ['a cast', (descriptor) => descriptor.toReadStream().destroy()]
  ]
  for (const [what, end] of ways) {
    for (const ask of [false, true]) {
      const descriptor = Descriptor.from(openFile())
      if (ask) t.is(descriptor.kind, 'file')
      await end(descriptor)
      throws(t, what, CLOSED, () => descriptor.kind)
      throws(t, what, CLOSED, () => descriptor.address)
      throws(t, what, CLOSED, () => descriptor.seals)
      throws(t, what, CLOSED, () => descriptor.seal([]))
      throws(t, what, CLOSED, () => descriptor.setBlocking(true))
    }
  }
})

test('what only has the prototype of a Descriptor is refused', (t) => {
  const prototype = Object.create(Descriptor.prototype) as Descriptor
  throws(t, 'kind', TYPE, () => prototype.kind)
  throws(t, 'address', TYPE, () => prototype.address)
  throws(t, 'seals', TYPE, () => prototype.seals)
  throws(t, 'seal', TYPE, () => prototype.seal([]))
  throws(t, 'setBlocking', TYPE, () => prototype.setBlocking(true))
})

test('an address is what address() of a server returns', async (t) => {
  for (const host of ['127.0.0.1', '::1']) {
    const server = new Server().listen(0, host)
    await once(server, 'listening')
    using elsewhere = bindListener({ port: 0, host })
    const taken = elsewhere.duplicate()
    const { address } = taken
    const other = await taken.toServer()
    t.deepEqual(address, elsewhere.address)
    t.deepEqual(address, other.address() as typeof address)
    server.close()
    other.close()
    await once(other, 'close')
  }
  for (const [family, type] of [
    ['127.0.0.1', 'udp4'],
    ['::1', 'udp6']
  ] as const) {
    const socket = createSocket(type).bind(0, family)
    await once(socket, 'listening')
    const [a, b] = socketpair()
    await a.sendFd(socket)
    using received = (await b.recvFd())!
    t.deepEqual(received.fd!.address, socket.address() as never)
    t.is(received.fd!.kind, 'udp')
    socket.close()
    a.close()
    b.close()
  }
})

test('the address of a Unix domain socket is its name, and null without one', async (t) => {
  const path = join(folder, 'named')
  using named = Descriptor.from(bind(path).release())
  t.is(named.address, path)
  const [a, b] = socketpair()
  using unnamed = Descriptor.from(a.release())
  t.is(unnamed.address, null)
  b.close()
  if (!isLinux) return
  using abstract = bindListener({ path: `\0fdpass-kinds-${process.pid}` })
  t.is(abstract.address, `\0fdpass-kinds-${process.pid}`)
})

test('what is no socket has no address', (t) => {
  using file = Descriptor.from(openFile())
  t.is(file.address, null)
  t.deepEqual([contentOf(file), file.kind], ['', 'file'])
  const [end, other] = pipe()
  t.deepEqual([end.address, other.address], [null, null])
  end.closeSync()
  other.closeSync()
})

onLinux("a socket's file opened with O_PATH has no address", (t) => {
  const path = join(folder, 'place')
  using listener = bindListener({ path })
  // As in fcntl.h, which Node does not have.
  using place = Descriptor.from(openSync(path, 0o10000000 | constants.O_RDONLY))
  t.deepEqual([place.kind, place.address, listener.address], ['socket', null, path])
})

function contentOf(descriptor: Descriptor): string {
  return readAll(descriptor.fd)
}

test('a kind that the system could not report is determined again [S191]', async (t) => {
  const binding = new URL('../../../dist/lib/native/binding.js', import.meta.url).href
  const { native } = (await import(binding)) as { native: { kind: (fd: number) => string } }
  using descriptor = Descriptor.from(openFile())
  const { kind } = native
  // As after an fstat(2) that a file system in user space has failed.
  native.kind = () => 'other'
  t.is(descriptor.kind, 'other')
  native.kind = kind
  t.is(descriptor.kind, 'file')
})
