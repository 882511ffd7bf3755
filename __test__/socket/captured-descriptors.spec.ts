import { closeSync, fstatSync, openSync } from 'node:fs'
import { open as openHandle } from 'node:fs/promises'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, UnixSocket, socketpair } from 'fdpass'
import { hasWriter, isOpen, openFile, openPipe, readAll, temporaryFile } from '../helpers/descriptors.ts'
import { receiveBytes, text } from '../helpers/sockets.ts'

test.serial('sending leaves the descriptor open and usable, whether it succeeds or fails [D8]', async (t) => {
  const file = openFile('still mine')
  const owned = Descriptor.from(openFile('owned'))
  const handle = await openHandle(temporaryFile('handle'), 'r')
  const [a, b] = socketpair()
  const [other, otherEnd] = socketpair()

  const fds = [file, owned, handle, other]
  await a.send('all', { fds })
  ;(await b.recv())!.close()
  await t.throwsAsync(a.send('', { fds }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(a.send('x', { fds: [...fds, 99_999] }), { code: 'EBADF' })
  b.close()
  await t.throwsAsync(a.send('x', { fds }), { code: 'EPIPE' })
  a.close()
  await t.throwsAsync(a.send('x', { fds }), { code: 'ERR_SOCKET_CLOSED' })

  t.is(readAll(file), 'still mine')
  t.is(readAll(owned.fd), 'owned')
  t.is(await handle.readFile('utf8'), 'handle')
  await other.send('works')
  t.is(text(await otherEnd.recv()), 'works')
  closeSync(file)
  owned.closeSync()
  await handle.close()
  other.close()
  otherEnd.close()
})

test.serial('a send that waited and failed leaves the descriptor open, and no duplicate of it [D8]', async (t) => {
  const { read, write } = openPipe()
  const owned = Descriptor.from(write)
  const [a, b] = socketpair()
  const filling = a.send(Buffer.alloc(4 * 1024 * 1024))
  const waiting = a.send('x', { fds: [owned] })
  b.close()
  await t.throwsAsync(filling, { code: 'EPIPE' })
  await t.throwsAsync(waiting, { code: 'EPIPE' })
  t.true(hasWriter(read))
  fstatSync(owned.fd)
  owned.closeSync()
  t.false(hasWriter(read))
  closeSync(read)
  a.close()
})

test.serial('a socket that carries itself, and cycles of sockets, are closed without a hang [D11.2]', async (t) => {
  const [a, b] = socketpair()
  await a.sendFd(a)
  await a.sendFd(b)
  await b.sendFd(a)
  await b.sendFd(b)
  a.close()
  b.close()

  // Three pairs in a ring, each carrying the next; a pipe end in one of them shows when the kernel has freed it.
  const { read, write } = openPipe()
  const ring = [socketpair(), socketpair(), socketpair()]
  for (const [i, [left, right]] of ring.entries()) {
    const [next, nextRight] = ring[(i + 1) % 3]!
    await left.send('ring', { fds: [next, nextRight, write] })
    await right.send('ring', { fds: [next] })
  }
  closeSync(write)
  t.true(hasWriter(read))
  const got = (await ring[0]![1].recv())!
  t.is(got.fds.length, 3)
  got.close()
  for (const pair of ring) for (const socket of pair) socket.close()
  closeSync(read)

  const [c, d] = socketpair()
  await c.send('after')
  t.is(text(await d.recv()), 'after')
  c.close()
  d.close()
})

test.serial('a socket received over itself works [D11.1]', async (t) => {
  const [a, b] = socketpair()
  await a.sendFd(b)
  const again = UnixSocket.from((await b.recvFd())!.fd!)
  await a.send('to either')
  t.is(text(await again.recv()), 'to either')
  b.close()
  await a.send('to the copy')
  t.is(text(await again.recv()), 'to the copy')
  again.close()
  t.is(await a.recv(), null)
  a.close()
})

const bothClosed = async (t: ExecutionContext, type: 'stream' | 'seqpacket' | 'dgram') => {
  const { read, write } = openPipe()
  const [a, b] = socketpair({ type })
  for (let i = 0; i < 5; i++) await a.sendFd(write)
  closeSync(write)
  a.close()
  t.true(hasWriter(read))
  b.close()
  t.false(hasWriter(read))
  closeSync(read)
}

for (const type of ['stream', 'seqpacket', 'dgram'] as const) {
  test.serial(`closing both ends of a ${type} pair closes the descriptors in flight [D12]`, bothClosed, type)
}

test.serial('closing a socket with sends that wait closes what they had captured [D12]', async (t) => {
  const { read, write } = openPipe()
  const [a, b] = socketpair()
  const sends = [a.send(Buffer.alloc(4 * 1024 * 1024))]
  for (let i = 0; i < 5; i++) sends.push(a.send('x', { fds: [write, write] }))
  closeSync(write)
  t.true(hasWriter(read)) // only the duplicates hold it
  a.close()
  t.false(hasWriter(read))
  for (const send of sends) await t.throwsAsync(send, { code: 'ERR_SOCKET_CLOSED' })
  closeSync(read)
  b.close()
})

test.serial(
  'a number that is not open is refused behind a message that waits, although a duplicate takes that number [A5.1]',
  async (t) => {
    const [a, b] = socketpair()
    const file = openFile('content')
    const waiting = a.send(Buffer.alloc(4 * 1024 * 1024))
    const closed = openFile()
    closeSync(closed)
    await t.throwsAsync(a.send('x', { fds: [file, closed] }), { code: 'EBADF' })
    t.false(isOpen(closed))
    b.close()
    await t.throwsAsync(waiting, { code: 'EPIPE' })
    a.close()
    closeSync(file)
  }
)

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

/** Opens files until one has this number, which is free. */
function reuse(number: number, path: string): number[] {
  const opened: number[] = []
  do opened.push(openSync(path, 'r'))
  while (opened.at(-1) !== number)
  return opened
}

for (const type of types) {
  for (const full of [false, true]) {
    const state = full ? ' full' : 'n idle'
    test.serial(
      `what a number meant at the call is what a${state} ${type} socket sends, though it is used again at once [A5]`,
      async (t) => {
        const [a, b] = socketpair({ type })
        const before: Promise<void>[] = []
        // A full stream holds half of a long message, a full packet socket some of many.
        if (full)
          for (let i = 0; i < 200; i++) before.push(a.send(Buffer.alloc(type === 'stream' ? 100_000 : 4096, 'f')))
        const right = openFile('the right file')
        const wrong = temporaryFile('the wrong file')
        const sending = a.send('!', { fds: [right] })
        closeSync(right)
        const opened = reuse(right, wrong)
        t.is(opened.at(-1), right)
        let message = (await b.recv())!
        while (message.fds.length === 0) message = (await b.recv())!
        t.is(text(message)!.at(-1), '!')
        t.deepEqual(
          message.fds.map(({ fd }) => readAll(fd)),
          ['the right file']
        )
        await Promise.all([...before, sending])
        message.close()
        opened.forEach((fd) => closeSync(fd))
        a.close()
        b.close()
      }
    )
  }
}

test.serial('a Descriptor that is closed right after its send arrives from a full socket [A5]', async (t) => {
  const [a, b] = socketpair()
  const filler = a.send(Buffer.alloc(4 * 1024 * 1024))
  const source = Descriptor.from(openFile('sent'))
  const sending = a.send('!', { fds: [source, source] })
  source.closeSync()
  const { fds } = await receiveBytes(b, 4 * 1024 * 1024 + 1)
  t.is(fds.length, 2)
  t.is(readAll(fds[0]!.fd), 'sent')
  fds.forEach((fd) => fd.closeSync())
  await Promise.all([filler, sending])
  a.close()
  b.close()
})
