import { closeSync } from 'node:fs'
import test from 'ava'
import { bind, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { runs, start } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { sendNumbered, takeOne, text } from '../helpers/sockets.ts'

for (const type of process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)) {
  test.serial(`an iteration of a ${type} socket yields every message in order, until the end [E1]`, async (t) => {
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
  'a message received ahead reports what a receive reports: the address, the size of what was cut, the credentials',
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
  'without /proc, where the room in the table is unknown, messages with descriptors are still iterated',
  async (t) => {
    const program = `
    import { pipe, socketpair } from 'fdpass'
    const [a, b] = socketpair()
    const [read, write] = pipe()
    for (let i = 0; i < 200; i++) await a.sendFd(write, String(i))
    a.close()
    let next = 0
    for await (const message of b) {
      if (message.data.toString() !== String(next++) || message.fds.length !== 1) throw new Error('another')
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
