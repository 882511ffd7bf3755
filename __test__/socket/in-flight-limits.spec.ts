import { once } from 'node:events'
import { closeSync } from 'node:fs'
import test from 'ava'
import { type ControlError, Descriptor, UnixSocket, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll, temporaryFile } from '../helpers/descriptors.ts'
import { startLimited, startPython } from '../helpers/processes.ts'
import { receiveBytes, text } from '../helpers/sockets.ts'

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux', test.serial)

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs to begin as root on Linux', test.serial)

test.serial('more small messages than a socket holds wait, and all arrive with their descriptors [C9]', async (t) => {
  const [a, b] = socketpair()
  const before = countFds()
  const file = openFile('x')
  const sending = Promise.all(Array.from({ length: 600 }, (_, i) => a.send(Buffer.of(i), { fds: [file] })))
  for (let i = 0; i < 600; i++) {
    const message = (await b.recv())!
    t.deepEqual([...message.data], [i & 0xff])
    t.is(message.fds.length, 1)
    message.close()
  }
  await sending
  closeSync(file)
  t.is(countFds(), before)
  a.close()
  b.close()
})

asRoot(
  'a user with too many descriptors on their way waits, and all arrive once they are received [C9] [S66]',
  async (t) => {
    const { socket, child, done } = startLimited(64, 'in-flight', ['waiting', temporaryFile('in flight')])
    // Nothing is received before one waits.
    const [told] = (await once(child.stdout!, 'data')) as [string]
    t.true(Number(/waits at +(\d+)/.exec(told)![1]) < 200)
    for (let i = 0; i < 300; i++) {
      const message = (await socket.recv())!
      t.is(text(message), `${i}`.padStart(4))
      t.is(message.fds.length, 1)
      message.close()
    }
    t.is(await socket.recv(), null)
    await done
    socket.close()
  }
)

asRoot('a descriptor may be closed while its send waits for others to be received [C9] [A5]', async (t) => {
  const { socket, child, done } = startLimited(64, 'in-flight', ['captured', temporaryFile('captured')])
  await once(child.stdout!, 'data')
  let last: Descriptor | undefined
  let count = 0
  for (let message = (await socket.recv())!; text(message) !== ' end'; message = (await socket.recv())!) {
    t.is(text(message), `${count++}`.padStart(4))
    t.is(message.fds.length, 1)
    last?.closeSync()
    last = message.fds[0]!
  }
  t.is(readAll(last!.fd), 'captured')
  last!.closeSync()
  t.is(await socket.recv(), null)
  await done
  socket.close()
})

asRoot(
  'an abort ends the wait for descriptors to be received, and nothing of that message is sent [C9] [S66]',
  async (t) => {
    const { socket, done } = startLimited(64, 'in-flight', ['aborted', temporaryFile()])
    t.is((await done).trim(), 'AbortError')
    let count = 0
    let message = (await socket.recv())!
    for (; text(message) !== ' end'; message = (await socket.recv())!) {
      t.is(text(message), `${count++}`.padStart(4))
      message.close()
    }
    t.true(count > 0)
    t.deepEqual(message.fds, [])
    t.is(await socket.recv(), null)
    socket.close()
  }
)

for (const type of types) {
  test.serial(`a number that is not open rejects a ${type} send with EBADF, and nothing is sent [C10]`, async (t) => {
    const [a, b] = socketpair({ type })
    const good = openFile('still mine')
    const before = countFds()
    for (const fds of [[1_000_000], [good, 1_000_000], [1_000_000, good], [good, 2 ** 31 - 1, good]]) {
      const error = await t.throwsAsync<NodeJS.ErrnoException>(a.send('refused', { fds }), { code: 'EBADF' })
      t.is(error!.errno, -9)
      t.is(error!.syscall, 'sendmsg')
    }
    await t.throwsAsync(a.sendFd(1_000_000), { code: 'EBADF' })
    await a.send('next')
    const message = (await b.recv())!
    t.is(text(message), 'next')
    t.deepEqual(message.fds, [])
    t.is(countFds(), before)
    t.is(readAll(good), 'still mine')
    closeSync(good)
    a.close()
    b.close()
  })
}

test.serial(
  'a number that is not open rejects a send at once though the socket is full, and no duplicate stays [C10]',
  async (t) => {
    const [a, b] = socketpair()
    const { read, write } = openPipe()
    const length = 4 * 1024 * 1024
    const filler = a.send(Buffer.alloc(length))
    const before = countFds()
    await t.throwsAsync(a.send('refused', { fds: [write, write, 1_000_000] }), { code: 'EBADF' })
    t.is(countFds(), before)
    closeSync(write)
    t.false(hasWriter(read))
    const behind = a.send('next')
    const { data, fds } = await receiveBytes(b, length + 4)
    t.is(data.subarray(length).toString(), 'next')
    t.deepEqual(fds, [])
    await Promise.all([filler, behind])
    closeSync(read)
    a.close()
    b.close()
  }
)

withPythonOnLinux(
  'an unrequested pidfd is closed with the other descriptors of its message [B11] [F4] [S15]',
  async (t) => {
    const { socket, done } = startPython('unexpected', ['pidfd', 'stream'])
    const first = (await socket.recv())!
    if (first.fds.length === 0) {
      t.regex(text(first)!, /Protocol not available/) // before Linux 6.5
      await done
      socket.close()
      return
    }
    const [theirs, read] = first.fds as [Descriptor, Descriptor]
    const received = UnixSocket.from(theirs)
    const before = countFds()
    const error = (await t.throwsAsync(received.recv(), { code: 'ERR_UNEXPECTED_CONTROL' })) as ControlError
    t.is(text(error), 'unasked')
    t.is(countFds(), before)
    t.false(hasWriter(read.fd))
    await socket.send('!')
    const wanted = (await received.recv())!
    t.is(wanted.fds.length, 1)
    wanted.close()
    await socket.send('!')
    await done
    read.closeSync()
    received.close()
    socket.close()
  }
)
