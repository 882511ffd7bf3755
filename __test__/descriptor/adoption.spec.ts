import { closeSync, constants, readFileSync, readSync, writeSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import test from 'ava'
import { Descriptor, UnixSocket, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, isOpen, openFile, readAll, sameFile, statusFlags, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'

// Serial throughout: some of these tests depend on the kernel giving out the lowest free number.
const onLinux = onlyIf(isLinux, 'needs /proc', test.serial)

test.serial('Descriptor.from() takes a number over once, and fails without owning anything [D9]', (t) => {
  const fd = openFile('x')
  const descriptor = Descriptor.from(fd)
  t.throws(() => Descriptor.from(fd), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => UnixSocket.from(fd), { code: 'ENOTSOCK' })
  t.is(readAll(descriptor.fd), 'x')
  descriptor.closeSync()
  t.throws(() => Descriptor.from(fd), { code: 'EBADF' })

  const next = openFile('y')
  t.is(next, fd)
  const again = Descriptor.from(next)
  t.is(readAll(again.fd), 'y')
  again.closeSync()
})

test.serial('UnixSocket.from() takes a number over once [D9]', async (t) => {
  const [a, b] = socketpair({ type: 'seqpacket' })
  const number = a.release()
  const again = UnixSocket.from(number)
  t.is(again.type, 'seqpacket')
  t.throws(() => UnixSocket.from(number), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => Descriptor.from(number), { code: 'ERR_INVALID_ARG_VALUE' })
  await b.send('over')
  t.is(text(await again.recv()), 'over')
  again.close()
  t.throws(() => UnixSocket.from(number), { code: 'EBADF' })
  t.is(await b.recv(), null)
  b.close()
})

test.serial(
  'UnixSocket.from() of a Descriptor takes it over, and leaves it as it was where it fails [D9]',
  async (t) => {
    const [a, b] = socketpair()
    const [c, d] = socketpair({ type: 'dgram' })
    await a.sendFd(c)
    c.close()
    const descriptor = (await b.recvFd())!.fd!
    const socket = UnixSocket.from(descriptor)
    t.is(socket.type, 'dgram')
    t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    t.throws(() => UnixSocket.from(descriptor), { code: 'ERR_DESCRIPTOR_CLOSED' })
    await descriptor.close()
    await socket.send('through')
    t.is(text(await d.recv()), 'through')

    const file = Descriptor.from(openFile('no socket'))
    t.throws(() => UnixSocket.from(file), { code: 'ENOTSOCK' })
    t.is(readAll(file.fd), 'no socket')
    file.closeSync()
    for (const open of [a, b, d, socket]) open.close()
  }
)

onLinux('UnixSocket.from() refuses sockets of other families [D9]', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  t.throws(() => UnixSocket.from(fd), { code: 'EAFNOSUPPORT' })
  t.true(isOpen(fd))
  await new Promise((resolve) => server.close(resolve))
})

onLinux('release() of a socket returns the number in the mode in which it was adopted [D9]', async (t) => {
  const [a, b] = socketpair()
  const waiting = b.recv() // the event loop watches the socket from now on
  await a.send('x')
  await waiting
  const rejected = t.throwsAsync(b.recv(), { code: 'ERR_SOCKET_CLOSED' })
  const number = b.release()
  await rejected
  t.true(b.closed)
  t.is(statusFlags(number) & constants.O_NONBLOCK, 0)
  t.not(statusFlags(number) & CLOEXEC, 0)

  // Another reader takes it from here, in this process and by a plain read.
  await a.send('plain')
  const buffer = Buffer.alloc(16)
  t.is(buffer.toString('utf8', 0, readSync(number, buffer)), 'plain')
  writeSync(number, 'answer')
  t.is(text(await a.recv()), 'answer')
  b.close()
  t.true(isOpen(number))
  closeSync(number)
  t.is(await a.recv(), null)
  a.close()
})

onLinux(
  'the mode of a socket is unchanged while an operation waits, also for processes that share it [D9]',
  async (t) => {
    const [a, b] = socketpair()
    await a.sendFd(b)
    const copy = (await b.recvFd())!.fd!
    const before = statusFlags(copy.fd)
    const waiting = b.recv()
    t.is(statusFlags(copy.fd), before)
    await a.send('x')
    await waiting
    t.is(statusFlags(copy.fd), before)
    copy.closeSync()
    a.close()
    b.close()
  }
)

onLinux('a socket that came in non-blocking mode is given back in it [D9]', async (t) => {
  const path = `${temporaryFolder()}/s`
  const server = createServer().listen(path)
  await new Promise((resolve) => server.once('listening', resolve))
  const client = createConnection(path)
  await new Promise((resolve) => client.once('connect', resolve))
  const { fd } = (client as unknown as { _handle: { fd: number } })._handle
  const [a, b] = socketpair()
  await a.sendFd(fd)
  const theirs = UnixSocket.from((await b.recvFd())!.fd!)
  const rejected = t.throwsAsync(theirs.recv(), { code: 'ERR_SOCKET_CLOSED' })
  const number = theirs.release()
  await rejected
  t.not(statusFlags(number) & constants.O_NONBLOCK, 0)
  closeSync(number)
  client.destroy()
  server.close()
  a.close()
  b.close()
})

test.serial('a duplicate shares the open file description and is closed by itself [D9]', (t) => {
  const one = Descriptor.from(openFile('abcdef'))
  const two = one.duplicate()
  t.not(one.fd, two.fd)
  t.true(sameFile(one.fd, two.fd))
  const buffer = Buffer.alloc(3)
  readSync(one.fd, buffer, 0, 3, null)
  one.closeSync()
  t.is(readFileSync(two.fd, 'utf8'), 'def')
  two.closeSync()
})
