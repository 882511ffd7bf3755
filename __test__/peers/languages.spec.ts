import { spawnSync } from 'node:child_process'
import { closeSync, readSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { recvFd, sendFd } from 'fdpass'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { openFile, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { fixtureSource, startProgram, startPython } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

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
