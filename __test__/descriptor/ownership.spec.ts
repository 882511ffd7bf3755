import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readlinkSync } from 'node:fs'
import { inspect } from 'node:util'
import { MessageChannel } from 'node:worker_threads'
import test from 'ava'
import { Channel, Descriptor, UnixServer, UnixSocket, listen, pipe, socketpair } from 'fdpass'
import { Broker } from 'fdpass/broker'
import { NodeChannel } from 'fdpass/ipc'
import { Store, connectStore, serveStore } from 'fdpass/store'
import { Superserver } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import {
  CLOEXEC,
  hasWriter,
  isOpen,
  newPath,
  openFile,
  openPipe,
  readAll,
  statusFlags,
  temporaryFile
} from '../helpers/descriptors.ts'
import { text } from '../helpers/sockets.ts'

// Serial throughout: some of these tests depend on the kernel giving out the lowest free number.
const onLinux = onlyIf(isLinux, 'needs /proc', test.serial)

/** What a new program finds in its descriptor table. */
function inherited(extra: number[] = []): string[] {
  const list = 'for fd in /proc/self/fd/*; do readlink "$fd"; done; exit 0'
  const { stdout } = spawnSync('sh', ['-c', list], { stdio: ['ignore', 'pipe', 'ignore', ...extra], encoding: 'utf8' })
  return stdout.split('\n')
}

/** Sends one descriptor through a new pair and returns the received one. */
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

onLinux('a received descriptor is close-on-exec [D1] [S9]', async (t) => {
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

onLinux('both ends of a pair, and numbers from release(), are close-on-exec [D10]', (t) => {
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

onLinux('a duplicate, and numbers from Descriptor.release(), are close-on-exec [D10]', (t) => {
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

test.serial('close() of a socket closes descriptors received ahead, and those not received [D3]', async (t) => {
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

test.serial('release() hands the number over, and the object no longer owns it [D4]', (t) => {
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

test.serial('what an object owns shows when it is printed', async (t) => {
  const [read, write] = pipe()
  t.is(inspect(read), `Descriptor { fd: ${read.fd}, kind: 'fifo', state: 'open' }`)
  t.is(inspect({ in: { an: { object: { of: read } } } }), '{ in: { an: { object: [Object] } } }')
  t.is(inspect({ in: { an: { object: read } } }), '{ in: { an: { object: [Descriptor] } } }')
  read.closeSync()
  write.closeSync()
  t.is(inspect(read), "Descriptor { state: 'closed' }")
  for (const { name, prototype } of [Descriptor, UnixSocket, UnixServer, Broker, Store, NodeChannel, Superserver]) {
    t.is(inspect(Object.create(prototype)), `${name} {}`)
  }

  const path = newPath()
  const server = await listen(path)
  const number = server.fd
  t.is(
    inspect(server, { breakLength: 200 }),
    `UnixServer { fd: ${number}, type: 'stream', address: '${path}', state: 'open' }`
  )
  server.close()
  t.is(inspect(server, { breakLength: 200 }), `UnixServer { type: 'stream', address: '${path}', state: 'closed' }`)

  const [a, b] = socketpair({ type: 'seqpacket' })
  const addresses = 'localAddress: null, remoteAddress: null'
  t.is(inspect(a, { breakLength: 200 }), `UnixSocket { fd: ${a.fd}, type: 'seqpacket', ${addresses}, state: 'open' }`)
  a.close()
  b.close()
  t.is(inspect(a), "UnixSocket { type: 'seqpacket', state: 'closed' }")

  const [c, d] = socketpair()
  const channel = new Channel(c)
  t.regex(inspect(channel), /^Channel {\s+socket: UnixSocket {[^}]+state: 'owned by a Channel'/)
  channel.close()
  d.close()

  const [e, f] = socketpair()
  const nodeChannel = new NodeChannel(e)
  t.regex(inspect(nodeChannel), /^NodeChannel {\s+socket: UnixSocket {[^}]+},\s+state: 'open'/)
  nodeChannel.close()
  f.close()
  const service = await serveStore({ path: newPath() })
  t.is(inspect(service, { breakLength: 200 }), `StoreService { address: '${service.address}', state: 'open' }`)
  const store = await connectStore(service.address)
  t.is(inspect(store, { breakLength: 200 }), `Store { address: '${service.address}', state: 'open' }`)
  for (const object of [service, store, nodeChannel])
    t.throws(() => structuredClone(object), { any: true, name: 'DataCloneError' })
  store.close()
  service.close()
  t.is(inspect(store, { breakLength: 200 }), `Store { address: '${service.address}', state: 'closed' }`)
})

test.serial('an object that owns a descriptor cannot be cloned into another thread', async (t) => {
  const [read, write] = pipe()
  const [a, b] = socketpair()
  const [c, d] = socketpair()
  await a.sendFd(read)
  const server = await listen(newPath())
  const message = (await b.recv())!
  const channel = new Channel(c)
  const { port1 } = new MessageChannel()
  for (const object of [read, a, server, message, channel, { deep: [write] }]) {
    t.throws(() => structuredClone(object), { any: true, name: 'DataCloneError' })
    t.throws(() => port1.postMessage(object), {
      any: true,
      name: 'DataCloneError',
      message: /fdpass: send its descriptor/
    })
  }
  t.is(JSON.stringify({ write }), '{"write":{}}')
  port1.close()
  message.close()
  for (const descriptor of [read, write]) descriptor.closeSync()
  for (const open of [a, b, d, server, channel]) open.close()
})
