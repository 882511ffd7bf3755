import { once } from 'node:events'
import {
  closeSync,
  constants,
  createReadStream,
  createWriteStream,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  writeSync
} from 'node:fs'
import { open } from 'node:fs/promises'
import { type AddressInfo, Server, Socket } from 'node:net'
import { join } from 'node:path'
import { text as streamText } from 'node:stream/consumers'
import test from 'ava'
import { Descriptor, type Message, type UnixSocket, recvFd, sendFd, socketpair } from 'fdpass'
import type { Request } from '../fixtures/servant.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import {
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
import { startFixture, startPython } from '../helpers/processes.ts'

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)
const withNodeSockets = onlyIf(!('bun' in process.versions), "Bun's net.Socket takes no descriptor")
const withPython = onlyIf(hasPython, 'needs Python 3.9')
const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

/** Sends a request to `servant.ts` and gives its answer. */
async function ask(socket: UnixSocket, request: Request, fds: readonly number[]): Promise<Message> {
  await socket.send(JSON.stringify(request), { fds })
  return (await socket.recv())!
}

/** The descriptor in a server or connection of Node's. */
function handleFd(holder: Server | Socket): number {
  return (holder as unknown as { _handle: { fd: number } })._handle.fd
}

async function listen(): Promise<{ server: Server; port: number }> {
  const server = new Server().listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, port: (server.address() as AddressInfo).port }
}

for (const type of types) {
  test(`a descriptor arrives over a ${type} pair with its data, and is of the same open file [A1]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('what the file holds')
    await a.send('its data', { fds: [file] })
    const message = (await b.recv())!
    t.is(text(message), 'its data')
    t.is(message.size, 8)
    t.is(message.fds.length, 1)
    const { fd } = message.fds[0]!
    t.not(fd, file)
    t.true(sameFile(fd, file))
    t.is(readAll(fd), 'what the file holds')
    message.close()
    closeSync(file)
    a.close()
    b.close()
  })
}

test('a message is received by who waits for it as by who asks later [A1]', async (t) => {
  const [a, b] = socketpair()
  const files = ['waited for', 'asked for later'].map((content) => openFile(content))
  const waiting = b.recv()
  await a.send('1', { fds: [files[0]!] })
  const first = (await waiting)!
  t.is(readAll(first.fds[0]!.fd), 'waited for')
  await a.send('2', { fds: [files[1]!] })
  const second = (await b.recv())!
  t.is(readAll(second.fds[0]!.fd), 'asked for later')
  for (const message of [first, second]) message.close()
  files.forEach((fd) => closeSync(fd))
  a.close()
  b.close()
})

test('several descriptors of one message are each a descriptor of their own, in their order [A2] [A3]', async (t) => {
  const [a, b] = socketpair()
  const files = Array.from({ length: 10 }, (_, i) => openFile(`file ${i}`))
  await a.send('ten', { fds: files })
  const message = (await b.recv())!
  t.is(new Set(message.fds.map(({ fd }) => fd)).size, 10)
  t.deepEqual(
    message.fds.map(({ fd }) => readAll(fd)),
    files.map((_, i) => `file ${i}`)
  )
  // Each can be closed by itself.
  const [first, ...others] = message.fds.map(({ fd }) => fd)
  message.fds[0]!.closeSync()
  t.false(isOpen(first!))
  t.true(others.every(isOpen))
  message.close()
  files.forEach((fd) => closeSync(fd))
  a.close()
  b.close()
})

for (const type of types) {
  test(`descriptors keep their order across ${type} messages, whether or not their sends are awaited [A3]`, async (t) => {
    const [a, b] = socketpair({ type })
    const files = Array.from({ length: 200 }, (_, i) => openFile(`${i}`))
    const sending = Promise.all(
      Array.from({ length: 40 }, (_, i) => a.send(`${i}`, { fds: files.slice(i * 5, i * 5 + 5) }))
    )
    const contents: string[] = []
    for (let i = 0; i < 40; i++) {
      const message = (await b.recv())!
      t.is(text(message), `${i}`)
      contents.push(...message.fds.map(({ fd }) => readAll(fd)))
      message.close()
    }
    await sending
    t.deepEqual(
      contents,
      files.map((_, i) => `${i}`)
    )
    files.forEach((fd) => closeSync(fd))
    a.close()
    b.close()
  })
}

test('the same descriptor twice in a message arrives as two [A2]', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  await a.send('twice', { fds: [write, write] })
  closeSync(write)
  const message = (await b.recv())!
  message.fds[0]!.closeSync()
  t.true(hasWriter(read))
  writeSync(message.fds[1]!.fd, '!')
  t.is(readSync(read, Buffer.alloc(1)), 1)
  message.fds[1]!.closeSync()
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
  b.close()
})

test('the sender may close a descriptor once it is sent [A4]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('closed by its sender')
  await a.send('x', { fds: [file] })
  closeSync(file)
  const message = (await b.recv())!
  t.is(readAll(message.fds[0]!.fd), 'closed by its sender')
  message.close()
  a.close()
  b.close()
})

test('sender and receiver share the file offset [A6]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('abcdef')
  const one = Buffer.alloc(1)
  readSync(file, Buffer.alloc(2))
  await a.send('x', { fds: [file] })
  const message = (await b.recv())!
  readSync(message.fds[0]!.fd, one)
  t.is(one.toString(), 'c')
  readSync(file, one)
  t.is(one.toString(), 'd')
  readSync(message.fds[0]!.fd, one)
  t.is(one.toString(), 'e')
  message.close()
  closeSync(file)
  a.close()
  b.close()
})

test('in another process the number is another and the open file description the same: what is read here is not read there [A6] [A8]', async (t) => {
  const { socket, done } = startFixture('servant')
  // The other process gives out its lowest free number: have a higher one here than it can come to.
  const path = temporaryFile('0123456789')
  const opened = Array.from({ length: 100 }, () => openSync(path, 'r'))
  const file = opened.pop()!
  opened.forEach((fd) => closeSync(fd))
  const here = Buffer.alloc(3)
  readSync(file, here)
  t.is(here.toString(), '012')
  const number = Number(text(await ask(socket, { task: 'number' }, [file])))
  t.true(number > 3)
  t.not(number, file)
  t.is(text(await ask(socket, { task: 'read', length: 4 }, [file])), '3456')
  readSync(file, here)
  t.is(here.toString(), '789')
  closeSync(file)
  socket.close()
  await done
})

test('what another process writes through a descriptor goes where this one left off [A6] [A8]', async (t) => {
  const { socket, done } = startFixture('servant')
  const path = temporaryFile()
  const file = openSync(path, 'w')
  writeSync(file, 'here, ')
  await ask(socket, { task: 'write', content: 'there, ' }, [file])
  writeSync(file, 'and here')
  t.is(readFileSync(path, 'utf8'), 'here, there, and here')
  closeSync(file)
  socket.close()
  await done
})

withPython('lseek in another process moves the offset here [A6] [A8]', async (t) => {
  const { socket, done } = startPython('seek', ['4'])
  const file = openFile('0123456789')
  await socket.send('x', { fds: [file] })
  t.is(text(await socket.recv()), 'done')
  t.is(readAll(file), '456789')
  await done
  closeSync(file)
  socket.close()
})

withPythonOnLinux('O_APPEND and O_NONBLOCK that another process sets are set here [A6]', async (t) => {
  const both = constants.O_APPEND | constants.O_NONBLOCK
  const { socket, done } = startPython('set_flags')
  const path = temporaryFile('before ')
  const file = openSync(path, 'r+')
  t.is(statusFlags(file) & both, 0)
  await socket.send('x', { fds: [file] })
  t.is(text(await socket.recv()), 'done')
  t.is(statusFlags(file) & both, both)
  writeSync(file, 'after')
  t.is(readFileSync(path, 'utf8'), 'before after')
  await done
  closeSync(file)
  socket.close()
})

test('closing what was received leaves what was sent open [A7]', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  await a.send('x', { fds: [write] })
  const message = (await b.recv())!
  message.close()
  t.true(isOpen(write))
  writeSync(write, 'still open')
  const content = Buffer.alloc(100)
  t.is(content.toString('utf8', 0, readSync(read, content)), 'still open')
  closeSync(write)
  closeSync(read)
  a.close()
  b.close()
})

test('descriptors go to another process and come back from it [A8]', async (t) => {
  const { socket, done } = startFixture('servant')
  const files = ['first', 'second', 'third'].map((content) => openFile(content))
  const message = await ask(socket, { task: 'return' }, files)
  files.forEach((fd) => closeSync(fd))
  t.is(text(message), 'returned')
  t.deepEqual(
    message.fds.map(({ fd }) => readAll(fd)),
    ['third', 'second', 'first']
  )
  message.close()
  socket.close()
  await done
})

for (const type of types.filter((each) => each !== 'stream')) {
  test(`descriptors go to another process and come back over a ${type} pair [A8]`, async (t) => {
    const { socket, done, child } = startFixture('servant', [], { type })
    const file = openFile('there and back')
    const message = await ask(socket, { task: 'return' }, [file])
    closeSync(file)
    t.is(readAll(message.fds[0]!.fd), 'there and back')
    message.close()
    if (type === 'dgram') child.kill() // a datagram socket never ends
    socket.close()
    await done.catch((error: Error) => t.regex(error.message, /SIGTERM/))
  })
}

test('the socket may have any number in the process that inherits it [A8]', async (t) => {
  const { socket, done } = startFixture('servant', ['7'], { socketAt: 7 })
  const file = openFile('by number 7')
  t.is(text(await ask(socket, { task: 'read' }, [file])), 'by number 7')
  closeSync(file)
  socket.close()
  await done
})

test('files, folders, pipes and devices can be sent [A9] [A12]', async (t) => {
  const folder = temporaryFolder()
  mkdirSync(join(folder, 'inside'))
  const { read, write } = openPipe()
  const sent = [openFile('of a file'), openSync(folder, 'r'), read, write, openSync('/dev/null', 'r+')]
  const { rdev } = fstatSync(sent[4]!)
  const [a, b] = socketpair()
  await a.send('kinds', { fds: sent })
  const message = (await b.recv())!
  t.true(message.fds.every(({ fd }, i) => sameFile(fd, sent[i]!)))
  sent.forEach((fd) => closeSync(fd))

  const [file, directory, reading, writing, device] = message.fds.map(({ fd }) => fd) as [number, ...number[]]
  t.is(readAll(file), 'of a file')
  t.true(fstatSync(directory!).isDirectory())
  if (isLinux) t.deepEqual(readdirSync(`/proc/self/fd/${directory}`), ['inside'])
  writeSync(writing!, 'through the pipe')
  const content = Buffer.alloc(100)
  t.is(content.toString('utf8', 0, readSync(reading!, content)), 'through the pipe')
  t.is(fstatSync(device!).rdev, rdev)
  t.is(writeSync(device!, 'nothing'), 7)
  t.is(readSync(device!, content), 0)
  message.close()
  a.close()
  b.close()
})

test('a process that receives a TCP listener accepts its connections [A10]', async (t) => {
  const { socket, done } = startFixture('servant')
  const { server, port } = await listen()
  t.is(text(await ask(socket, { task: 'accept' }, [handleFd(server)])), 'listening')
  server.close()
  const client = new Socket().connect(port, '127.0.0.1')
  t.is(await streamText(client), 'accepted elsewhere')
  socket.close()
  await done
})

withNodeSockets('a process that receives a TCP connection talks over it [A10]', async (t) => {
  const { socket, done } = startFixture('servant')
  const { server, port } = await listen()
  const client = new Socket().connect(port, '127.0.0.1')
  const [connection] = (await once(server, 'connection')) as [Socket]
  const asked = ask(socket, { task: 'talk' }, [handleFd(connection)])
  connection.destroy() // the other process's descriptor keeps the connection open
  t.is(await streamText(client), 'written elsewhere')
  t.is(text(await asked), 'closed')
  server.close()
  socket.close()
  await done
})

test('a process that receives a Unix socket sends over it [A10] [A15]', async (t) => {
  const { socket, done } = startFixture('servant')
  const [a, b] = socketpair()
  await socket.send(JSON.stringify({ task: 'speak' }), { fds: [b] })
  b.close()
  t.is(text(await a.recv()), 'from elsewhere')
  t.is(await a.recv(), null)
  a.close()
  socket.close()
  await done
})

test('both ends may send descriptors and much data at once [A11]', async (t) => {
  const count = 1000
  const length = 4096
  const [a, b] = socketpair()
  const file = openFile('shared')

  async function send(socket: UnixSocket): Promise<void> {
    for (let i = 0; i < count; i++) await socket.send(Buffer.alloc(length, i), { fds: [file] })
  }
  async function receive(socket: UnixSocket): Promise<number> {
    let [received, fds] = [0, 0]
    while (received < count * length) {
      const message = (await socket.recv())!
      for (const [i, byte] of message.data.entries()) {
        if (byte !== (Math.floor((received + i) / length) & 0xff)) throw new Error(`Byte ${received + i} is ${byte}`)
      }
      received += message.data.length
      fds += message.fds.length
      message.close()
    }
    return fds
  }

  const [, , fromA, fromB] = await Promise.all([send(a), send(b), receive(b), receive(a)])
  t.deepEqual([fromA, fromB], [count, count])
  closeSync(file)
  a.close()
  b.close()
})

withPythonOnLinux(
  'memfd, eventfd, epoll, pidfd, O_PATH, pty and socket descriptors of one message all arrive, and work when they come back [A12] [A13]',
  async (t) => {
    const { socket, done } = startPython('kinds', [temporaryFolder()])
    const message = (await socket.recv())!
    const names = JSON.parse(text(message)!) as string[]
    t.is(message.fds.length, names.length)
    const numbers = Object.fromEntries(names.map((name, i) => [name, message.fds[i]!.fd]))
    t.true(fstatSync(numbers.folder!).isDirectory())
    t.true(fstatSync(numbers.tty!).isCharacterDevice())
    t.true(fstatSync(numbers.datagrams!).isSocket())
    t.true(fstatSync(numbers.write!).isFIFO())
    await socket.send('back', { fds: message.fds })
    message.close()
    await done
    socket.close()
    t.pass()
  }
)

test('standard input, output and error are descriptors as any other [A14]', async (t) => {
  const paths = ['in', 'out', 'error'].map((content) => temporaryFile(content))
  const [input, output, error] = paths.map((path) => openSync(path, 'r+')) as [number, number, number]
  const { socket, done } = startFixture('standard', [], { standard: [input, output, error] })
  const three = (await socket.recv())!
  t.true([input, output, error].every((fd, i) => sameFile(fd, three.fds[i]!.fd)))
  t.is(readAll(three.fds[0]!.fd), 'in')
  three.close()
  for (const expected of [input, output, error]) {
    const received = (await socket.recvFd())!
    t.true(sameFile(received.fd!.fd, expected))
    received.fd!.closeSync()
  }
  for (const fd of [input, output, error]) closeSync(fd)
  socket.close()
  await done
})

test('a descriptor may be received as number 0 [A14]', async (t) => {
  const { socket, done } = startFixture('zero')
  const file = openFile('as number zero')
  await socket.sendFd(file)
  closeSync(file)
  t.is(text(await socket.recv()), '0 as number zero')
  t.is(await socket.recv(), null)
  socket.close()
  await done
})

test('numbers, Descriptors, sockets, FileHandles and streams of files can be sent in one message [A15]', async (t) => {
  const [a, b] = socketpair()
  const [one, other] = socketpair()
  const number = openFile('a number')
  const descriptor = Descriptor.from(openFile('a Descriptor'))
  const handle = await open(temporaryFile('a FileHandle'))
  const reading = createReadStream(temporaryFile('a ReadStream'))
  const path = temporaryFile()
  const writing = createWriteStream(path)
  await Promise.all([once(reading, 'open'), once(writing, 'open')])
  await a.send('mixed', { fds: [number, descriptor, handle, reading, writing, other] })

  // All stay the sender's, open.
  closeSync(number)
  await descriptor.close()
  await handle.close()
  await Promise.all([reading, writing].map((stream) => once(stream.destroy(), 'close')))
  other.close()

  const message = (await b.recv())!
  t.is(message.fds.length, 6)
  t.deepEqual(
    message.fds.slice(0, 4).map(({ fd }) => readAll(fd)),
    ['a number', 'a Descriptor', 'a FileHandle', 'a ReadStream']
  )
  writeSync(message.fds[4]!.fd, 'a WriteStream')
  t.is(readFileSync(path, 'utf8'), 'a WriteStream')
  writeSync(message.fds[5]!.fd, 'a socket')
  t.is(text(await one.recv()), 'a socket')
  message.close()
  t.is(await one.recv(), null)
  for (const socket of [a, b, one]) socket.close()
})

test('sendFd carries a descriptor with one zero byte unless told otherwise', async (t) => {
  const [a, b] = socketpair()
  const file = openFile()
  await a.sendFd(file)
  await sendFd(a, file)
  await a.sendFd(file, undefined)
  await a.sendFd(file, 'these')
  await sendFd(a, file, Uint8Array.of(1, 2, 3))
  const carriers: number[][] = []
  for (let i = 0; i < 5; i++) {
    const message = (await b.recv())!
    t.is(message.fds.length, 1)
    carriers.push([...message.data])
    message.close()
  }
  t.deepEqual(carriers, [[0], [0], [0], [...Buffer.from('these')], [1, 2, 3]])
  closeSync(file)
  a.close()
  b.close()
})

test('recvFd gives a descriptor and its bytes, null in its place where only bytes came, and null at the end', async (t) => {
  const [a, b] = socketpair()
  const file = openFile('received')
  await a.sendFd(file, 'with')
  const first = (await recvFd(b))!
  t.is(text(first), 'with')
  t.is(readAll(first.fd!.fd), 'received')
  first.fd!.closeSync()
  await a.send('without')
  const second = (await b.recvFd())!
  t.is(text(second), 'without')
  t.is(second.fd, null)
  a.close()
  t.is(await recvFd(b), null)
  closeSync(file)
  b.close()
})

test('descriptors sent by a process that is then killed arrive, and after them the end [A8]', async (t) => {
  const { socket, child, done } = startFixture('servant')
  const file = openFile('of the dead')
  await socket.send(JSON.stringify({ task: 'flood', length: 20 } satisfies Request), { fds: [file, file] })
  closeSync(file)
  await once(child.stdout!, 'data')
  child.kill('SIGKILL')
  await t.throwsAsync(done, { message: /SIGKILL/ })
  for (let i = 0; i < 20; i++) {
    const message = (await socket.recv())!
    t.is(text(message), `${i}`.padStart(4))
    t.is(message.fds.length, 2)
    t.is(fstatSync(message.fds[1]!.fd).size, 'of the dead'.length)
    message.close()
  }
  t.is(await socket.recv(), null)
  socket.close()
})

test('descriptors on their way to a process that is killed are closed, and sends to it fail [A8]', async (t) => {
  const { socket, child, done } = startFixture('servant')
  await socket.send(JSON.stringify({ task: 'stop' } satisfies Request))
  await once(child.stdout!, 'data')
  const { read, write } = openPipe()
  for (let i = 0; i < 20; i++) await socket.send('never received', { fds: [write] })
  const filler = socket.send(Buffer.alloc(4 * 1024 * 1024))
  const waiting = socket.send('never sent', { fds: [write] })
  closeSync(write)
  t.true(hasWriter(read))
  child.kill('SIGKILL')
  for (const sending of [filler, waiting]) {
    const { code } = await t.throwsAsync<NodeJS.ErrnoException>(sending)
    t.true(['EPIPE', 'ECONNRESET'].includes(code!))
  }
  await t.throwsAsync(done, { message: /SIGKILL/ })
  t.false(hasWriter(read))
  await t.throwsAsync(socket.send('to nobody', { fds: [read] }), { code: 'EPIPE' })
  t.true(isOpen(read))
  await t.throwsAsync(socket.recv(), { code: 'ECONNRESET' })
  t.is(await socket.recv(), null)
  closeSync(read)
  socket.close()
})
