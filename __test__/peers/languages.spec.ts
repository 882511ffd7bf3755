import { spawnSync } from 'node:child_process'
import { closeSync, readSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { recvFd, sendFd, type UnixSocket, listen } from 'fdpass'
import type { ExecutionContext } from 'ava'
import { hasPython, onlyIf, isLinux } from '../helpers/conditions.ts'
import { openFile, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { fixtureSource, startProgram, startPython, start } from '../helpers/processes.ts'
import { text, receiveBytes, receiveSoon } from '../helpers/sockets.ts'
import { connectWhenThere } from '../helpers/connections.ts'

const hasCompiler = spawnSync('cc', ['--version']).status === 0
const withC = onlyIf(hasCompiler, 'needs cc')
const withPython = onlyIf(hasPython, 'needs Python 3.9')
const program = join(temporaryFolder(), 'unp')

test.before(() => {
  if (!hasCompiler) return
  const { status, stderr } = spawnSync('cc', ['-Wall', '-o', program, fixtureSource('unp.c')], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
})

for (const socketAt of [3, 7]) {
  const startC = (...args: string[]) => startProgram(program, [`${socketAt}`, ...args], { socketAt })

  withC(`UNP's write_fd sends to recvFd, its socket being number ${socketAt} [A8]`, async (t) => {
    const { socket, done } = startC('send', temporaryFile('opened in C'), 'from C')
    const received = (await recvFd(socket))!
    t.is(text(received), 'from C')
    t.is(readAll(received.fd!.fd), 'opened in C')
    received.fd!.closeSync()
    t.is(await recvFd(socket), null)
    await done
    socket.close()
  })

  withC(`UNP's read_fd receives what sendFd sends, its socket being number ${socketAt} [A8]`, async (t) => {
    const { socket, done } = startC('receive')
    const file = openFile('opened in Node')
    await sendFd(socket, file)
    closeSync(file)
    socket.close()
    t.is(await done, '1 bytes, first 0, descriptor of: opened in Node\n')
  })

  withPython(`Python's send_fds sends to recv, its socket being number ${socketAt} [A8.1]`, async (t) => {
    const { socket, done } = startPython('send_file', [temporaryFile('opened in Python')], { socketAt })
    const message = (await socket.recv())!
    t.is(text(message), 'from Python')
    t.is(message.fds.length, 1)
    t.is(readAll(message.fds[0]!.fd), 'opened in Python')
    message.close()
    t.is(await socket.recv(), null)
    await done
    socket.close()
  })

  withPython(`Python's recv_fds receives what send sends, its socket being number ${socketAt} [A8]`, async (t) => {
    const { socket, done } = startPython('receive_file', [], { socketAt })
    const files = ['opened in Node', 'second', 'third'].map((content) => openFile(content))
    await socket.send('from Node', { fds: files })
    files.forEach((fd) => closeSync(fd))
    t.is(await done, '3 from Node opened in Node\n')
    socket.close()
  })
}

withC("UNP's read_fd returns -1 where only bytes were sent, and sees the end", async (t) => {
  const { socket, done } = startProgram(program, ['3', 'receive'])
  const file = openFile('with it')
  await socket.sendFd(file, 'A')
  await socket.send('plain')
  socket.close()
  closeSync(file)
  t.is(await done, '1 bytes, first 65, descriptor of: with it\n5 bytes, first 112, no descriptor\n')
})

withC("a C program's descriptor shares its offset with this process", async (t) => {
  const { socket, done } = startProgram(program, ['3', 'receive'])
  const file = openFile('0123456789')
  readSync(file, Buffer.alloc(4))
  await socket.sendFd(file, Uint8Array.of(7))
  socket.close()
  t.is(await done, '1 bytes, first 7, descriptor of: 456789\n')
  t.is(readSync(file, Buffer.alloc(1)), 0)
  closeSync(file)
})

const withMultiprocessing = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

const folder = temporaryFolder()

/** A socket to a `multiprocessing.connection.Connection`, and what Python printed. */
interface Peer {
  readonly socket: UnixSocket
  readonly done: Promise<string>
}

const handles = fixtureSource('handles.py')
const ways: Record<string, (t: ExecutionContext) => Promise<Peer>> = {
  async 'an inherited Connection'(t) {
    const { child, socket, done } = startProgram('python3', [handles, 'inherit'])
    t.teardown(() => child.kill('SIGKILL'))
    done.catch(() => {}) // only some tests await it
    return { socket, done }
  },
  async 'a Client of listen'(t) {
    const path = join(folder, 'ours')
    const server = await listen(path)
    t.teardown(() => server.close())
    const { done } = start(t, 'python3', [handles, 'dial', path])
    return { socket: await server.accept({ signal: AbortSignal.timeout(30_000) }), done }
  },
  async 'a Listener for connect'(t) {
    const path = join(folder, 'theirs')
    const { done } = start(t, 'python3', [handles, 'listen', path])
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
  withMultiprocessing(
    `recv_handle and send_handle of Python's multiprocessing pass descriptors (${way})`,
    async (t) => {
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
    }
  )
}

withMultiprocessing("as many descriptors as a message carries pass by Python's sendfds and recvfds", async (t) => {
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

withMultiprocessing("Python's recv_handle refuses the zero byte of sendFd, which does not count", async (t) => {
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
