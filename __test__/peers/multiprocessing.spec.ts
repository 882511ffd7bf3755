import { closeSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type UnixSocket, listen, recvFd, sendFd } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'
import { openFile, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { fixtureSource, start, startProgram } from '../helpers/processes.ts'
import { receiveBytes, receiveSoon, text } from '../helpers/sockets.ts'

const withPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

const folder = temporaryFolder()

/** A socket to a `multiprocessing.connection.Connection`, and what Python printed. */
interface Peer {
  readonly socket: UnixSocket
  readonly done: Promise<string>
}

const program = fixtureSource('handles.py')
const ways: Record<string, (t: ExecutionContext) => Promise<Peer>> = {
  async 'an inherited Connection'(t) {
    const { child, socket, done } = startProgram('python3', [program, 'inherit'])
    t.teardown(() => child.kill('SIGKILL'))
    done.catch(() => {}) // only some tests await it
    return { socket, done }
  },
  async 'a Client of listen'(t) {
    const path = join(folder, 'ours')
    const server = await listen(path)
    t.teardown(() => server.close())
    const { done } = start(t, 'python3', [program, 'dial', path])
    return { socket: await server.accept({ signal: AbortSignal.timeout(30_000) }), done }
  },
  async 'a Listener for connect'(t) {
    const path = join(folder, 'theirs')
    const { done } = start(t, 'python3', [program, 'listen', path])
    return { socket: await connectWhenThere(path), done }
  }
}

/** `Connection.send_bytes` */
async function sendBytes(socket: UnixSocket, content: string): Promise<void> {
  const length = Buffer.alloc(4)
  length.writeInt32BE(content.length)
  await socket.send(Buffer.concat([length, Buffer.from(content)]))
}

/** `Connection.recv_bytes` */
async function receiveString(socket: UnixSocket): Promise<string> {
  const { data } = await receiveBytes(socket, 4, { maxBytes: 4 })
  const length = data.readInt32BE()
  return text(await receiveBytes(socket, length, { maxBytes: length }))!
}

/** `reduction.sendfds`: the byte that carries them counts them. */
async function sendFiles(socket: UnixSocket, contents: readonly string[]): Promise<void> {
  const fds = contents.map((content) => openFile(content))
  await socket.send(Uint8Array.of(fds.length), { fds })
  for (const fd of fds) closeSync(fd)
}

for (const [way, open] of Object.entries(ways)) {
  withPython(`recv_handle and send_handle of Python's multiprocessing pass descriptors (${way})`, async (t) => {
    const { socket, done } = await open(t)
    t.teardown(() => socket.close())
    await sendBytes(socket, 'take')
    await sendFiles(socket, ['from Node'])
    t.is(await receiveString(socket), 'from Node')

    await sendBytes(socket, 'give a file of Python')
    const received = await recvFd(socket)
    t.deepEqual(received!.data, Buffer.of(1))
    t.is(readAll(received!.fd!.fd), 'a file of Python')
    received!.fd!.closeSync()

    socket.shutdown('write')
    t.is(await done, 'the end\n')
    t.is(await socket.recv(), null)
  })
}

withPython("as many descriptors as a message carries pass by Python's sendfds and recvfds", async (t) => {
  const { socket } = await ways['an inherited Connection']!(t)
  t.teardown(() => socket.close())
  const contents = Array.from({ length: 253 }, (_, i) => `${i}`)
  await sendBytes(socket, 'take_many 253')
  await sendFiles(socket, contents)
  t.is(await receiveString(socket), contents.join(' '))

  await sendBytes(socket, 'give_many 253')
  const message = await receiveSoon(socket)
  t.deepEqual(message.data, Buffer.of(253))
  t.deepEqual(
    message.fds.map(({ fd }) => readAll(fd)),
    contents
  )
  message.close()
})

withPython("Python's recv_handle refuses the zero byte of sendFd, which does not count", async (t) => {
  const { socket } = await ways['an inherited Connection']!(t)
  t.teardown(() => socket.close())
  const file = openFile('uncounted')
  t.teardown(() => closeSync(file))
  await sendBytes(socket, 'take')
  await sendFd(socket, file)
  t.is(await receiveString(socket), 'refused: Len is 1 but msg[0] is 0')
  await sendBytes(socket, 'take')
  await sendFd(socket, file, Uint8Array.of(1))
  t.is(await receiveString(socket), 'uncounted')
})
