import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, writeSync } from 'node:fs'
import test from 'ava'
import { type ControlError, Descriptor, UnixSocket, bind, recvFd, socketpair } from 'fdpass'
import { hasOutOfBand, hasPython, isLinux, onlyIf, retainedBytes } from '../helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { startPython } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { contentsOf, receiveBytes, takeOne, text } from '../helpers/sockets.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9')

const withOutOfBand = onlyIf(hasOutOfBand(), 'needs Linux 5.15 and Python 3.9')

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

/** Sends 50 frames at once, each with the number of descriptors that it announces; returns their contents. */
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

withOutOfBand('bytes out of band neither lose nor repeat the descriptors around them [B14]', async (t) => {
  const contents = ['of a', 'of b', 'of c']
  const { socket, done } = startPython('out_of_band', contents.map(temporaryFile))
  const { data, fds } = await receiveBytes(socket, 3)
  t.is(data.toString(), 'abc')
  t.deepEqual(contentsOf(fds), contents)
  await done
  t.is(await socket.recv(), null)
  socket.close()
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

test('recvExactly receives each frame with its own descriptors, whatever the kernel merges or splits', async (t) => {
  const [a, b] = socketpair()
  const sending = sendFrames(a)
  const contents: string[] = []
  for (const expected of frames) {
    const header = (await b.recvExactly(3))!
    const length = header.data[0]! * 256 + header.data[1]!
    const content = (await b.recvExactly(length))!
    t.true(Buffer.concat([header.data, content.data]).equals(expected))
    const fds = [...header.fds, ...content.fds]
    t.is(fds.length, header.data[2]!)
    contents.push(...contentsOf(fds))
  }
  t.deepEqual(contents, await sending)
  a.close()
  t.is(await b.recvExactly(3), null)
  b.close()
})

test('recvExactly waits for all of its bytes, and later receives wait behind it', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('shared')
  const exact = b.recvExactly(6)
  const rest = b.recv()
  const nothing = b.recvExactly(0)
  const last = b.recvExactly(2)
  await a.send('a')
  await a.send('b', { fds: [file] })
  await a.send('cde')
  t.true(await isPending(exact))
  t.true(await isPending(rest))
  t.is(text(await nothing), '')
  await a.send('f', { fds: [file, file] })
  const message = (await exact)!
  t.deepEqual([text(message), message.size, message.fds.length], ['abcdef', 6, 3])
  message.close()
  await a.send('rest')
  t.is(text(await rest), 'rest')
  await a.send('12345')
  t.is(text(await last), '12')
  t.is(text(await b.recv()), '345')
  closeSync(file)
  a.close()
  b.close()
})

test('recvExactly receives megabytes', async (t) => {
  const [a, b] = socketpair()
  const large = randomBytes(5 * 1024 * 1024 + 3)
  const [received] = await Promise.all([b.recvExactly(large.length), a.send(large)])
  t.true(received!.data.equals(large))
  a.close()
  b.close()
})

const onV8 = onlyIf(!('bun' in process.versions), "needs V8's garbage collector", test.serial)

for (const [title, fds] of [
  ['bytes that arrive one by one', []],
  ['bytes that arrive one by one, each with a descriptor too many,', [0]]
] as const) {
  onV8(`recvExactly holds ${title} in memory for bytes [S271]`, async (t) => {
    const [c, d] = socketpair()
    const small = randomBytes(50_000) // the runtime's own memory varies by more than half a megabyte
    const before = retainedBytes()
    const receiving = d.recvExactly(small.length, { maxFds: 0 })
    for (const byte of small.subarray(1)) {
      await c.send(Uint8Array.of(byte), { fds })
      await turns(1) // otherwise the kernel merges them
    }
    t.true(await isPending(receiving))
    const taken = retainedBytes() - before
    t.true(taken < 30 * small.length, `${taken} bytes`)
    await c.send(small.subarray(0, 1))
    const { data, code } = (await receiving.catch((error: ControlError) => error)) as Partial<ControlError>
    t.true(data!.equals(Buffer.concat([small.subarray(1), small.subarray(0, 1)])))
    t.is(code, fds.length > 0 ? 'ERR_TOO_MANY_DESCRIPTORS' : undefined)
    c.close()
    d.close()
  })
}

test('recvExactly takes what an iteration received ahead, and no byte more', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('shared')
  for (const data of ['first', 'abc', 'def', 'ghi']) await a.sendFd(file, data)
  ;(await takeOne(b)).close()
  const message = (await b.recvExactly(4))!
  t.deepEqual([text(message), message.fds.length], ['abcd', 2])
  const others = [(await b.recv())!, (await b.recvExactly(3))!]
  t.deepEqual(others.map(text), ['ef', 'ghi'])
  t.deepEqual(
    others.map(({ fds }) => fds.length),
    [0, 1]
  )
  for (const each of [message, ...others]) each.close()
  closeSync(file)
  a.close()
  b.close()
})

test('an end inside of what recvExactly receives is an error with the bytes, and closes the descriptors', async (t) => {
  for (const reset of [false, true]) {
    const [a, b] = socketpair()
    const { read, write } = openPipe()
    if (reset) await b.send('unread, which makes the end a reset')
    await a.send('four', { fds: [write, write] })
    closeSync(write)
    const receiving = b.recvExactly(10)
    if (reset) t.true(await isPending(receiving))
    a.close()
    const error = await t.throwsAsync(receiving, { code: 'ERR_UNEXPECTED_END', message: /4 of 10 bytes/ })
    t.is(text(error as never), 'four')
    t.is((error?.cause as NodeJS.ErrnoException | undefined)?.code, reset ? 'ECONNRESET' : undefined)
    t.false(hasWriter(read))
    closeSync(read)
    t.is(await b.recvExactly(1), null)
    b.close()
  }
})

test('an aborted recvExactly loses nothing: the next receives take what has arrived, in order', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('shared')
  const controller = new AbortController()
  const { signal } = controller
  const aborted = b.recvExactly(10, { signal })
  const alsoAborted = b.recv({ signal })
  const next = b.recvExactly(3)
  for (const data of ['ab', 'cd']) await a.send(data, { fds: [file] })
  t.true(await isPending(aborted))
  t.throws(() => b.release(), { code: 'ERR_SOCKET_NOT_EMPTY' })
  await t.throwsAsync(a.send('x', { fds: [b] }), { code: 'ERR_SOCKET_NOT_EMPTY' })
  controller.abort()
  const last = b.recv()
  await t.throwsAsync(aborted, { name: 'AbortError' })
  await t.throwsAsync(alsoAborted, { name: 'AbortError' })
  const messages = [(await next)!, (await last)!]
  t.deepEqual(messages.map(text), ['abc', 'd'])
  t.deepEqual(
    messages.map(({ fds }) => fds.length),
    [2, 0]
  )
  messages.forEach((message) => message.close())
  closeSync(file)
  a.close()
  b.close()
})

test('closing a socket closes the descriptors that recvExactly has received so far', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  await a.send('four', { fds: [write] })
  closeSync(write)
  const receiving = b.recvExactly(10)
  t.true(await isPending(receiving))
  t.true(hasWriter(read))
  b.close()
  await t.throwsAsync(receiving, { code: 'ERR_SOCKET_CLOSED' })
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
})

test('too many descriptors are an error of recvExactly once all bytes have arrived, and the next message is received', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  const receiving = b.recvExactly(6, { maxFds: 2 })
  for (const data of ['ab', 'cd', 'ef']) {
    await a.send(data, { fds: [write] })
    if (data !== 'ef') t.true(await isPending(receiving))
  }
  const error = await t.throwsAsync(receiving, { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text(error as never), 'abcdef')
  const ended = b.recvExactly(4, { maxFds: 0 })
  await a.send('gh', { fds: [write] })
  closeSync(write)
  t.true(await isPending(ended))
  t.false(hasWriter(read))
  closeSync(read)
  const next = b.recvExactly(4)
  await a.send('ijklmn')
  const second = await t.throwsAsync(ended, { code: 'ERR_TOO_MANY_DESCRIPTORS' })
  t.is(text(second as never), 'ghij')
  t.is(text(await next), 'klmn')
  const cut = b.recvExactly(4, { maxFds: 0 })
  await a.send('op', { fds: [0] })
  a.close()
  const third = await t.throwsAsync(cut, { code: 'ERR_UNEXPECTED_END' })
  t.is((third!.cause as NodeJS.ErrnoException).code, 'ERR_TOO_MANY_DESCRIPTORS')
  b.close()
})

onlyIf(isLinux, 'needs Linux')(
  'bytes of two processes are one message of recvExactly without credentials',
  async (t) => {
    const [a, b] = socketpair({ credentials: true })
    const receiving = b.recvExactly(8)
    await a.send('mine')
    const child = spawn('sh', ['-c', 'printf their >&3'], { stdio: ['ignore', 'inherit', 'inherit', a.fd] })
    const message = (await receiving)!
    t.is(text(message), 'minethei')
    t.is(message.credentials, undefined)
    t.is((await b.recvExactly(1))!.credentials!.pid, child.pid!)
    await once(child, 'close')
    await Promise.all(['m', 'ine'].map((data) => a.send(data)))
    t.is((await b.recvExactly(4))!.credentials!.pid, process.pid)
    a.close()
    b.close()
  }
)

test('recvExactly refuses packets, and lengths and limits that are none', async (t) => {
  const datagrams = bind(null)
  await t.throwsAsync(datagrams.recvExactly(1), { code: 'ERR_INVALID_STATE', message: /'dgram'/ })
  datagrams.close()
  const [a, b] = socketpair()
  for (const bytes of [-1, 1.5, 2 ** 31]) await t.throwsAsync(a.recvExactly(bytes), { code: 'ERR_OUT_OF_RANGE' })
  for (const bytes of ['1', undefined, null]) {
    await t.throwsAsync(a.recvExactly(bytes as never), { code: 'ERR_INVALID_ARG_TYPE' })
  }
  await t.throwsAsync(a.recvExactly(1, { maxFds: -1 }), { code: 'ERR_OUT_OF_RANGE' })
  await t.throwsAsync(a.recvExactly(1, 1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(a.recvExactly(1, { signal: AbortSignal.abort() }), { name: 'AbortError' })
  a.close()
  await t.throwsAsync(a.recvExactly(1), { code: 'ERR_SOCKET_CLOSED' })
  b.close()
})

test('recvFd with `required` rejects bytes without a descriptor, and the end, and receives the next message', async (t) => {
  const [a, b] = socketpair()
  const receives = [() => b.recvFd({ required: true }), () => recvFd(b, { required: true })]
  for (const receive of receives) {
    await a.send('plain')
    const error = await t.throwsAsync(receive(), { code: 'ERR_NO_DESCRIPTOR' })
    t.is(text(error as never), 'plain')
    const file = openFile('content')
    await a.sendFd(file, 'with one')
    closeSync(file)
    const { fd, data } = await receive()
    t.deepEqual([text({ data }), contentsOf([fd])], ['with one', ['content']])
  }
  await t.throwsAsync(b.recvFd({ required: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  await a.send('plain')
  const received: { fd: Descriptor | null; data: Uint8Array } | null = await b.recvFd({ required: false })
  t.is(received!.fd, null)
  a.close()
  for (const receive of receives) {
    const error = await t.throwsAsync(receive(), { code: 'ERR_UNEXPECTED_END' })
    t.is(text(error as never), '')
  }
  b.close()
})
