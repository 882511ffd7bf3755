import { createHash, randomBytes } from 'node:crypto'
import { closeSync } from 'node:fs'
import test from 'ava'
import { type Message, socketpair } from 'fdpass'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { startPython } from '../helpers/processes.ts'
import { contentsOf, receiveBytes, text } from '../helpers/sockets.ts'

const isDarwin = process.platform === 'darwin'

const packets = isDarwin ? (['dgram'] as const) : (['seqpacket', 'dgram'] as const)

const withPython = onlyIf(hasPython, 'needs Python 3.9')

const mebibyte = 1024 * 1024

test('descriptors come with the first byte of their message, and not again with the rest [B1]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('with the first byte')
  await a.send('abc', { fds: [file] })
  const messages: Message[] = []
  for (let i = 0; i < 3; i++) messages.push((await b.recv({ maxBytes: 1 }))!)
  t.deepEqual(messages.map(text), ['a', 'b', 'c'])
  t.deepEqual(
    messages.map(({ fds }) => fds.length),
    [1, 0, 0]
  )
  t.deepEqual(contentsOf(messages[0]!.fds), ['with the first byte'])
  closeSync(file)
  a.close()
  b.close()
})

test('two messages with descriptors are never received as one [B2]', async (t) => {
  const [a, b] = socketpair()
  const files = ['of A', 'of B', 'of C'].map((content) => openFile(content))
  await Promise.all(['A', 'B', 'C'].map((data, i) => a.send(data, { fds: [files[i]!] })))
  for (const name of ['A', 'B', 'C']) {
    const message = (await b.recv())!
    t.is(text(message), name)
    t.deepEqual(contentsOf(message.fds), [`of ${name}`])
  }
  files.forEach((fd) => closeSync(fd))
  a.close()
  b.close()
})

test('plain bytes sent before a message with descriptors may be received together with it, bytes sent after it are not [B3]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('of BB')
  await a.send('AA')
  await a.send('BB', { fds: [file] })
  await a.send('CC')
  const { data, fds, within } = await receiveBytes(b, 6)
  t.is(data.toString(), 'AABBCC')
  t.is(fds.length, 1)
  const [first, last] = within[0]!
  t.true(first === 0 || first === 2)
  t.is(last, 3)
  t.deepEqual(contentsOf(fds), ['of BB'])
  closeSync(file)
  a.close()
  b.close()
})

test('messages that met a full socket arrive with their descriptors, each once and in order [B4]', async (t) => {
  const [a, b] = socketpair()
  const length = 64 * 1024
  const sending = Array.from({ length: 60 }, (_, i) => {
    const file = openFile(`file ${i}`)
    const sent = a.send(Buffer.alloc(length, i), { fds: [file] })
    closeSync(file)
    return sent
  })
  const { data, fds, within } = await receiveBytes(b, 60 * length)
  await Promise.all(sending)
  for (let i = 0; i < 60; i++) t.true(data.subarray(i * length, (i + 1) * length).equals(Buffer.alloc(length, i)))
  t.true(within.every(([first, last], i) => first <= i * length && i * length <= last))
  t.deepEqual(
    contentsOf(fds),
    sending.map((_, i) => `file ${i}`)
  )
  a.close()
  b.close()
})

for (const type of packets) {
  test(`${type} messages that met a full socket arrive with their descriptors, each once and in order [B4]`, async (t) => {
    const [a, b] = socketpair({ type })
    const sending = Array.from({ length: 60 }, (_, i) => {
      const file = openFile(`file ${i}`)
      const sent = a.send(Buffer.alloc(16_384, i), { fds: [file] })
      closeSync(file)
      return sent
    })
    for (let i = 0; i < 60; i++) {
      const message = (await b.recv())!
      t.true(Buffer.alloc(16_384, i).equals(message.data))
      t.deepEqual(contentsOf(message.fds), [`file ${i}`])
    }
    await Promise.all(sending)
    a.close()
    b.close()
  })
}

test('a message that is sent in parts brings its descriptors once, and its bytes whole [B5]', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  const content = randomBytes(8 * mebibyte)
  const sending = a.send(content, { fds: [write] })
  closeSync(write)
  const { data, fds, within } = await receiveBytes(b, content.length)
  await sending
  t.true(data.equals(content))
  t.is(fds.length, 1)
  t.is(within[0]![0], 0)
  // Neither end keeps a duplicate.
  t.true(hasWriter(read))
  fds[0]!.closeSync()
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
  b.close()
})

test('descriptors of long messages that are sent at once come with their own bytes [B5]', async (t) => {
  const [a, b] = socketpair()
  const parts = Array.from({ length: 8 }, (_, i) => Buffer.alloc(300_000 + i * 50_001, i))
  const sending = parts.map((part, i) => {
    const file = openFile(`of part ${i}`)
    const sent = a.send(part, { fds: [file] })
    closeSync(file)
    return sent
  })
  const whole = Buffer.concat(parts)
  const { data, fds, within } = await receiveBytes(b, whole.length)
  await Promise.all(sending)
  t.true(data.equals(whole))
  let start = 0
  for (const [i, part] of parts.entries()) {
    const [first, last] = within[i]!
    t.true(first <= start && start <= last)
    start += part.length
  }
  t.deepEqual(
    contentsOf(fds),
    parts.map((_, i) => `of part ${i}`)
  )
  a.close()
  b.close()
})

withPython(
  'a message that is sent in parts to another process brings its descriptors once, and its bytes whole [B5]',
  async (t) => {
    const content = randomBytes(8 * mebibyte)
    const { socket, done } = startPython('digest', [`${content.length}`])
    const file = openFile()
    await socket.send(content, { fds: [file] })
    const digest = createHash('sha256').update(content).digest('hex')
    t.deepEqual(JSON.parse(await done), { digest, fds: 1, first: 0 })
    closeSync(file)
    socket.close()
  }
)

test('a message that is longer than what a receive takes comes whole, its descriptors first [B6]', async (t) => {
  const [a, b] = socketpair()
  const content = randomBytes(mebibyte)
  const file = openFile('of the long message')
  const sending = a.send(content, { fds: [file] })
  const { data, fds, within } = await receiveBytes(b, content.length, { maxBytes: 1000 })
  await sending
  t.true(data.equals(content))
  t.deepEqual(within, [[0, 999]])
  t.deepEqual(contentsOf(fds), ['of the long message'])
  closeSync(file)
  a.close()
  b.close()
})

test('descriptors without a byte cannot be sent on a stream: the send rejects, and nothing is sent [B7]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('still mine')
  const refused = { code: 'ERR_INVALID_ARG_VALUE', message: /at least one byte/ }
  await t.throwsAsync(a.send('', { fds: [file] }), refused)
  await t.throwsAsync(a.send(new Uint8Array(), { fds: [file, file] }), refused)
  await t.throwsAsync(a.sendFd(file, ''), refused)
  await a.send('next')
  a.close()
  const message = (await b.recv())!
  t.is(text(message), 'next')
  t.deepEqual(message.fds, [])
  t.is(await b.recv(), null)
  t.is(readAll(file), 'still mine')
  closeSync(file)
  b.close()
})

test('sending no bytes and no descriptors on a stream does nothing [B7]', async (t) => {
  const [a, b] = socketpair()
  await a.send('')
  await a.send(new Uint8Array(), { fds: [] })
  await a.send('next')
  t.is(text(await b.recv()), 'next')
  a.close()
  b.close()
})
