import { type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'
import { type AddressInfo, Server, Socket } from 'node:net'
import { text as streamText } from 'node:stream/consumers'
import test, { type ExecutionContext } from 'ava'
import { type Message, type UnixServer, type UnixSocket, connect, listen as listenAt, socketpair } from 'fdpass'
import type { Request } from '../fixtures/peer.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import {
  hasWriter,
  isOpen,
  newPath,
  openFile,
  openPipe,
  readAll,
  sameFile,
  statusFlags,
  temporaryFile
} from '../helpers/descriptors.ts'
import { startFixture, startPython } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

const withNode = onlyIf(!('bun' in process.versions || 'deno' in process.versions), "only Node's stdio takes `{ fd }`")

const withNodeSockets = onlyIf(!('bun' in process.versions), "Bun's net.Socket takes no descriptor")

const withPython = onlyIf(hasPython, 'needs Python 3.9')

const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

/** Sends a request to `peer.ts` and returns its answer. */
async function ask(socket: UnixSocket, request: Request, fds: readonly number[]): Promise<Message> {
  await socket.send(JSON.stringify(request), { fds })
  return (await socket.recv())!
}

/** The descriptor in a server or connection of Node's. */
function handleFd(holder: Server | Socket): number {
  return (holder as unknown as { _handle: { fd: number } })._handle.fd
}

/** Starts a child whose standard input is a socket, and that answers over it; then the same with a server. */
async function lend(t: ExecutionContext, entry: (lent: UnixSocket | UnixServer) => unknown): Promise<void> {
  const [socket, theirs] = socketpair()
  const cat = spawn('cat', { stdio: [entry(theirs), entry(theirs), 'inherit'] as StdioOptions })
  const closed = once(cat, 'close')
  t.is(typeof theirs.fd, 'number')
  await theirs.send('from here, ') // it is still open
  theirs.close()
  await socket.send('there and back')
  socket.shutdown('write')
  let received = ''
  for await (const message of socket) received += text(message)
  t.is(received, 'from here, there and back')
  t.deepEqual(await closed, [0, null])
  socket.close()

  const server = await listenAt(newPath('lent'))
  const script = `require('net').createServer((c) => c.end('by the child', () => process.exit())).listen({ fd: 0 })`
  const child = spawn(process.execPath, ['-e', script], {
    stdio: [entry(server), 'inherit', 'inherit'] as StdioOptions
  })
  const childClosed = once(child, 'close')
  const client = await connect(server.address)
  t.is(text(await client.recv()), 'by the child')
  await childClosed
  const second = await connect(server.address)
  ;(await server.accept()).close() // it is still open
  for (const each of [client, second, server]) each.close()
}

withNode('a socket and a server are lent to a child as its stdio, and stay open here', async (t) => {
  await lend(t, (lent) => lent)
})

withNodeSockets('a socket and a server are lent to a child by their fd, and stay open here', async (t) => {
  await lend(t, ({ fd }) => fd)
})

async function listen(): Promise<{ server: Server; port: number }> {
  const server = new Server().listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, port: (server.address() as AddressInfo).port }
}

test('in another process the number is another and the open file description the same: what is read here is not read there [A6] [A8]', async (t) => {
  const { socket, done } = startFixture('peer', ['serve'])
  // The other process uses its lowest free number, so this one opens a higher number first.
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
  const { socket, done } = startFixture('peer', ['serve'])
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

withPython('lseek in another process moves the offset here [A6] [A8] [S17]', async (t) => {
  const { socket, done } = startPython('seek', ['4'])
  const file = openFile('0123456789')
  await socket.send('x', { fds: [file] })
  t.is(text(await socket.recv()), 'done')
  t.is(readAll(file), '456789')
  await done
  closeSync(file)
  socket.close()
})

withPythonOnLinux('O_APPEND and O_NONBLOCK that another process sets are set here [A6] [S17]', async (t) => {
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

test('descriptors go to another process and come back from it [A8]', async (t) => {
  const { socket, done } = startFixture('peer', ['serve'])
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
    const { socket, done, child } = startFixture('peer', ['serve'], { type })
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
  const { socket, done } = startFixture('peer', ['serve', '7'], { socketAt: 7 })
  const file = openFile('by number 7')
  t.is(text(await ask(socket, { task: 'read' }, [file])), 'by number 7')
  closeSync(file)
  socket.close()
  await done
})

test('a process that receives a TCP listener accepts its connections [A10] [S36]', async (t) => {
  const { socket, done } = startFixture('peer', ['serve'])
  const { server, port } = await listen()
  t.is(text(await ask(socket, { task: 'accept' }, [handleFd(server)])), 'listening')
  server.close()
  const client = new Socket().connect(port, '127.0.0.1')
  t.is(await streamText(client), 'accepted elsewhere')
  socket.close()
  await done
})

withNodeSockets('a process that receives a TCP connection talks over it [A10] [S36]', async (t) => {
  const { socket, done } = startFixture('peer', ['serve'])
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

test('a process that receives a Unix socket sends over it [A8.2] [A10] [A15] [S37]', async (t) => {
  const { socket, done } = startFixture('peer', ['serve'])
  const [a, b] = socketpair()
  await socket.send(JSON.stringify({ task: 'speak' }), { fds: [b] })
  b.close()
  t.is(text(await a.recv()), 'from elsewhere')
  t.is(await a.recv(), null)
  a.close()
  socket.close()
  await done
})

test('standard input, output and error are descriptors as any other [A14.1]', async (t) => {
  const paths = ['in', 'out', 'error'].map((content) => temporaryFile(content))
  const [input, output, error] = paths.map((path) => openSync(path, 'r+')) as [number, number, number]
  const { socket, done } = startFixture('peer', ['standard'], { standard: [input, output, error] })
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
  const { socket, done } = startFixture('peer', ['zero'])
  const file = openFile('as number zero')
  await socket.sendFd(file)
  closeSync(file)
  t.is(text(await socket.recv()), '0 as number zero')
  t.is(await socket.recv(), null)
  socket.close()
  await done
})

test('descriptors sent by a process that is then killed arrive, and after them the end [A8]', async (t) => {
  const { socket, child, done } = startFixture('peer', ['serve'])
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

test.serial('descriptors on their way to a process that is killed are closed, and sends to it fail [A8]', async (t) => {
  const { socket, child, done } = startFixture('peer', ['serve'])
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
