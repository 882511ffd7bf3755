import { readSync } from 'node:fs'
import { Descriptor, UnixSocket } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, temporaryFile } from '../helpers/descriptors.ts'
import { startPython } from '../helpers/processes.ts'
import { contentsOf, text } from '../helpers/sockets.ts'

const withPythonOnLinux = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

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
      `${option} unrequested on a ${type} socket: ${name} rejects, keeps the bytes, closes the descriptors, and goes on [B11] [S27]`,
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

withPythonOnLinux('a full message and unrequested credentials fit together: nothing is truncated [B11]', async (t) => {
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
})
