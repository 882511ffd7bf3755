import { createHash, randomBytes } from 'node:crypto'
import { closeSync, readSync, writeSync } from 'node:fs'
import test from 'ava'
import { Descriptor, type Message, UnixSocket, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import {
  hasWriter,
  isOpen,
  openFile,
  openPipe,
  readAll,
  temporaryFile,
  temporaryFolder
} from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { startPython } from '../helpers/processes.ts'
import { receiveBytes } from '../helpers/streams.ts'

const isDarwin = process.platform === 'darwin'
const types = isDarwin ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)
const packets = isDarwin ? (['dgram'] as const) : (['seqpacket', 'dgram'] as const)
const withPython = onlyIf(hasPython, 'needs Python 3.9')
const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')
const mebibyte = 1024 * 1024

/** What each descriptor's file holds; closes them. */
function contentsOf(fds: readonly Descriptor[]): string[] {
  const contents = fds.map(({ fd }) => readAll(fd))
  fds.forEach((fd) => fd.closeSync())
  return contents
}

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

for (const type of packets) {
  test(`descriptors are sent and received without a byte over a ${type} pair, which is not the end [B8]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('alone')
    await a.send('', { fds: [file] })
    await a.sendFd(file, new Uint8Array())
    await a.send('then bytes')
    const first = (await b.recv())!
    t.is(first.data.length, 0)
    t.is(first.size, 0)
    t.deepEqual(contentsOf(first.fds), ['alone'])
    const second = (await b.recvFd())!
    t.is(second.data.length, 0)
    t.true(second.fd !== null)
    second.fd!.closeSync()
    t.is(text(await b.recv()), 'then bytes')
    closeSync(file)
    a.close()
    b.close()
  })

  test(`an empty ${type} message is a message [B8]`, async (t) => {
    const [a, b] = socketpair({ type })
    await a.send('')
    await a.send('')
    const waiting = [b.recv(), b.recvFd(), b.recv()]
    await a.send('')
    t.deepEqual((await Promise.all(waiting)).map(text), ['', '', ''])
    a.close()
    b.close()
  })

  test(`descriptors without a byte are received by an iteration of a ${type} socket [B8]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('alone')
    for (let i = 0; i < 3; i++) await a.send('', { fds: [file] })
    await a.send('last')
    let count = 0
    for await (const message of b) {
      count += message.fds.length
      message.close()
      if (text(message) === 'last') break
    }
    t.is(count, 3)
    closeSync(file)
    a.close()
    b.close()
  })
}

const withSeqpacket = onlyIf(!isDarwin, 'macOS has no seqpacket sockets')

withSeqpacket(
  'a seqpacket connection that ends with descriptors without a byte gives them, and then the end [B8]',
  async (t) => {
    const [a, b] = socketpair({ type: 'seqpacket' })
    const file = openFile('the last')
    await a.send('', { fds: [file] })
    a.close()
    const message = (await b.recv())!
    t.is(message.data.length, 0)
    t.deepEqual(contentsOf(message.fds), ['the last'])
    t.is(await b.recv(), null)
    closeSync(file)
    b.close()
  }
)

for (const type of types) {
  test(`no descriptors, said in any way, is a plain ${type} send [B9]`, async (t) => {
    const [a, b] = socketpair({ type })
    for (const options of [undefined, {}, { fds: [] }, { fds: undefined }, { fds: null }]) {
      await a.send('plain', options)
      const message = (await b.recv())!
      t.is(text(message), 'plain')
      t.deepEqual(message.fds, [])
    }
    a.close()
    b.close()
  })
}

withPythonOnLinux('the descriptors of several headers in one message all arrive [B10]', async (t) => {
  const contents = ['first', 'second', 'third']
  const { socket, done } = startPython('separate_headers', contents.map(temporaryFile))
  const message = (await socket.recv())!
  t.is(text(message), 'separate')
  t.deepEqual(contentsOf(message.fds), contents)
  await done
  socket.close()
})

const unexpected = [
  ['credentials', 'stream'],
  ['credentials', 'seqpacket'],
  ['credentials', 'dgram'],
  // A stream has no timestamps.
  ['timestamp', 'seqpacket'],
  ['timestamp', 'dgram']
] as const
const receives = {
  recv: (socket: UnixSocket) => socket.recv(),
  recvFd: (socket: UnixSocket) => socket.recvFd(),
  iteration: (socket: UnixSocket) => socket.messages().next()
}

for (const [option, type] of unexpected) {
  for (const [name, receive] of Object.entries(receives)) {
    if (type !== 'stream' && name !== 'recv') continue
    withPythonOnLinux(
      `${option} that nobody asked for on a ${type} socket: ${name} rejects, keeps the bytes, closes the descriptors, and goes on [B11]`,
      async (t) => {
        const { socket, done } = startPython('unexpected', [option, type])
        const [theirs, read] = (await socket.recv())!.fds as [Descriptor, Descriptor]
        const received = UnixSocket.from(theirs)
        t.is(received.type, type)
        t.true(hasWriter(read.fd))
        const error = await t.throwsAsync<Error & { data: Uint8Array }>(receive(received), {
          code: 'ERR_UNEXPECTED_CONTROL'
        })
        t.is(text(error), 'unasked')
        t.false(hasWriter(read.fd))
        await socket.send('!') // it clears the option now
        const wanted = (await received.recv())!
        t.is(text(wanted), 'wanted')
        t.is(readSync(wanted.fds[0]!.fd, Buffer.alloc(1)), 0)
        wanted.close()
        await socket.send('!')
        await done
        read.closeSync()
        received.close()
        socket.close()
      }
    )
  }
}

withPythonOnLinux(
  'a full message and credentials that nobody asked for fit together: nothing is truncated [B11]',
  async (t) => {
    const { socket, done } = startPython('truncated', ['253'])
    const [theirs, read] = (await socket.recv())!.fds as [Descriptor, Descriptor]
    const received = UnixSocket.from(theirs)
    const error = await t.throwsAsync<Error & { data: Uint8Array }>(received.recv(), { code: 'ERR_UNEXPECTED_CONTROL' })
    t.is(text(error), 'full')
    t.false(hasWriter(read.fd))
    await socket.send('!')
    await done
    read.closeSync()
    received.close()
    socket.close()
  }
)

withPython(
  'what was sent before a connection was accepted is received through the accepted socket [B12]',
  async (t) => {
    const { socket, done } = startPython('before_accept', [temporaryFolder(), temporaryFile('sent early')])
    const accepted = UnixSocket.from((await socket.recv())!.fds[0]!)
    const message = (await accepted.recv())!
    t.is(text(message), 'early')
    t.deepEqual(contentsOf(message.fds), ['sent early'])
    await socket.send('!')
    await done
    accepted.close()
    socket.close()
  }
)

/** A frame: the length of its content, how many descriptors it has, its content. */
function frame(index: number): Buffer {
  const content = Buffer.alloc(index * 97, index)
  const header = Buffer.alloc(3)
  header.writeUInt16BE(content.length)
  header.writeUInt8(index % 4, 2)
  return Buffer.concat([header, content])
}

/** Sends 50 frames at once, each with as many descriptors as it says; gives what they hold. */
async function sendFrames(socket: UnixSocket): Promise<string[]> {
  const contents: string[] = []
  await Promise.all(
    Array.from({ length: 50 }, (_, i) => {
      const names = Array.from({ length: i % 4 }, (__, j) => `frame ${i}, descriptor ${j}`)
      contents.push(...names)
      const fds = names.map((name) => openFile(name))
      const sent = socket.send(frame(i), { fds })
      fds.forEach((fd) => closeSync(fd))
      return sent
    })
  )
  return contents
}

const frames = Array.from({ length: 50 }, (_, i) => frame(i))
/** The first byte of each descriptor's frame. */
const frameStarts = frames.flatMap((each, i) => {
  const start = frames.slice(0, i).reduce((sum, { length }) => sum + length, 0)
  return Array.from({ length: each[2]! }, () => start)
})

test('frames that count their descriptors belong to them over 50 messages sent at once [B13]', async (t) => {
  const [a, b] = socketpair()
  const sending = sendFrames(a)
  const whole = Buffer.concat(frames)
  const { data, fds, within } = await receiveBytes(b, whole.length, { maxBytes: 1009 })
  t.true(data.equals(whole))
  t.deepEqual(contentsOf(fds), await sending)
  t.true(within.every(([first, last], i) => first <= frameStarts[i]! && frameStarts[i]! <= last))
  a.close()
  b.close()
})

withPython(
  'frames that count their descriptors belong to them behind a process that passes them on [B13]',
  async (t) => {
    const { socket, done } = startPython('relay')
    const far = UnixSocket.from((await socket.recv())!.fds[0]!)
    const sending = sendFrames(socket)
    const whole = Buffer.concat(frames)
    const { data, fds, within } = await receiveBytes(far, whole.length)
    t.true(data.equals(whole))
    t.deepEqual(contentsOf(fds), await sending)
    // The process in between may pass plain bytes on together with the descriptors of those behind them, never later.
    t.true(within.every(([first], i) => first <= frameStarts[i]!))
    socket.close()
    await done
    far.close()
  }
)

withPythonOnLinux('bytes out of band neither lose nor repeat the descriptors around them [B14]', async (t) => {
  const contents = ['of a', 'of b', 'of c']
  const { socket, done } = startPython('out_of_band', contents.map(temporaryFile))
  const { data, fds } = await receiveBytes(socket, 3)
  t.is(data.toString(), 'abc')
  t.deepEqual(contentsOf(fds), contents)
  await done
  t.is(await socket.recv(), null)
  socket.close()
})

for (const type of packets) {
  test(`${type} messages keep their boundaries [B15]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile()
    const sent = ['one', '', 'three', 'four', 'five'.repeat(1000)]
    for (const [i, data] of sent.entries()) await a.send(data, { fds: i % 2 === 0 ? [file] : [] })
    for (const [i, data] of sent.entries()) {
      const message = (await b.recv())!
      t.is(text(message), data)
      t.is(message.size, data.length)
      t.is(message.fds.length, i % 2 === 0 ? 1 : 0)
      message.close()
    }
    closeSync(file)
    a.close()
    b.close()
  })

  test(`a ${type} message longer than maxBytes is cut, says so, and keeps its descriptors; the next is whole [B15]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('kept')
    for (let i = 0; i < 4; i++) await a.send('0123456789', { fds: [file] })
    await a.send('next')
    const cut = (await b.recv({ maxBytes: 4 }))!
    t.is(text(cut), '0123')
    if (isLinux) t.is(cut.size, 10)
    t.true(cut.size > cut.data.length)
    t.deepEqual(contentsOf(cut.fds), ['kept'])
    const whole = (await b.recv({ maxBytes: 10 }))!
    t.is(whole.size, whole.data.length)
    whole.close()
    const carried = (await b.recvFd({ maxBytes: 1 }))!
    t.is(text(carried), '0')
    carried.fd!.closeSync()
    const waitedFor = (await b.messages({ maxBytes: 9 }).next()).value!
    t.is(text(waitedFor), '012345678')
    t.true(waitedFor.size > 9)
    waitedFor.close()
    t.is(text(await b.recv()), 'next')
    closeSync(file)
    a.close()
    b.close()
  })

  test(`a ${type} message that can never go out rejects with EMSGSIZE; those around it arrive [B15]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile()
    await a.send('before')
    await t.throwsAsync(a.send(Buffer.alloc(64 * mebibyte), { fds: [file] }), { code: 'EMSGSIZE' })
    await a.send('after')
    t.is(text(await b.recv()), 'before')
    t.is(text(await b.recv()), 'after')
    t.true(isOpen(file))
    closeSync(file)
    a.close()
    b.close()
  })
}

test('each message has memory of its own', async (t) => {
  for (const maxBytes of [65_536, 4 * mebibyte]) {
    const [a, b] = socketpair()
    const received: Uint8Array[] = []
    for (const length of [1, 63, 64, 65, 1000, 65_536]) {
      await a.send(Buffer.alloc(length, length))
      received.push((await b.recv({ maxBytes }))!.data)
    }
    t.is(new Set(received.map(({ buffer }) => buffer)).size, received.length)
    for (const data of received) t.true(Buffer.alloc(data.length, data.length).equals(data))
    // Nor is a short message kept in the memory of a long one.
    t.true(received.every((data) => data.buffer.byteLength <= data.length * 2))
    a.close()
    b.close()
  }
})

test('strings are sent as UTF-8, and views of memory as what they show', async (t) => {
  const [a, b] = socketpair()
  const memory = Buffer.from('0123456789')
  for (const [data, expected] of [
    ['naïve — 文字 🙂', 'naïve — 文字 🙂'],
    [memory.subarray(3, 6), '345'],
    [new Uint8Array(memory.buffer, memory.byteOffset + 8, 2), '89']
  ] as const) {
    await a.send(data)
    t.is(text(await b.recv()), expected)
  }
  a.close()
  b.close()
})

test('a pipe passed along a chain of sockets is the one that its maker reads', async (t) => {
  const { read, write } = openPipe()
  const links = Array.from({ length: 5 }, () => socketpair())
  let current = Descriptor.from(write)
  for (const [from, to] of links) {
    await from.sendFd(current)
    current.closeSync()
    current = (await to.recvFd())!.fd!
  }
  writeSync(current.fd, 'passed on')
  current.closeSync()
  t.is(readAll(read), 'passed on')
  closeSync(read)
  links.flat().forEach((socket) => socket.close())
})
