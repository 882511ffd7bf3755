import { once } from 'node:events'
import {
  closeSync,
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
import { join } from 'node:path'
import test from 'ava'
import { Descriptor, type UnixSocket, capabilities, recvFd, sendFd, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import {
  hasWriter,
  isOpen,
  openFile,
  openPipe,
  readAll,
  sameFile,
  temporaryFile,
  temporaryFolder
} from '../helpers/descriptors.ts'
import { startPython } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

const withPidfds = onlyIf(hasPython && isLinux && capabilities().exitDescriptors, 'needs Python 3.9 and Linux 5.3')

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

test('a message is received by a pending receive as by a later one [A1]', async (t) => {
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

test.serial(
  'several descriptors of one message are each a descriptor of their own, in their order [A2] [A3]',
  async (t) => {
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
  }
)

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

test.serial('closing what was received leaves what was sent open [A7]', async (t) => {
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

withPidfds(
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

test('sendFd carries a descriptor with one zero byte by default', async (t) => {
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

test('recvFd resolves to a descriptor and its bytes, to a null descriptor with only bytes, and to null at the end', async (t) => {
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
