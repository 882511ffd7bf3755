import { closeSync, writeSync } from 'node:fs'
import test from 'ava'
import { Descriptor, UnixSocket, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, openPipe, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { startPython } from '../helpers/processes.ts'
import { contentsOf } from '../helpers/stream-messages.ts'
import { receiveBytes } from '../helpers/streams.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9')

const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

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
