import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { capabilities, listen, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, countFds, isOpen, newPath, openFile, statusFlags } from '../helpers/descriptors.ts'
import { finish, fixturePath, startLimited, pidOf, startAs } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const can = capabilities()

const isRoot = process.geteuid!() === 0

const withPidfds = onlyIf(can.messagePidfd, 'needs Linux 6.5')

const serialWithPidfds = onlyIf(can.messagePidfd, 'needs Linux 6.5', test.serial)

const withPeerPidfd = onlyIf(can.peerPidfd, 'needs Linux 6.5')

const asRootOnLinux = onlyIf(isRoot && isLinux, 'needs root, to become another user, and Linux')

const own = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }

withPeerPidfd('peerPidfd means the process that connected, and no other once that has ended [S32]', async (t) => {
  const server = await listen(newPath())
  const { socket: pair, child, done } = startAs({ ...own, groups: [] }, server.address, 'x')
  const connection = await server.accept()
  await connection.recv()
  const early = connection.peerPidfd()
  t.is(pidOf(early), child.pid!)
  if (isLinux) t.is(statusFlags(early.fd) & CLOEXEC, CLOEXEC)
  pair.close()
  await done
  t.is(pidOf(early), -1)
  // Now it is gone: a pidfd of the dead process from Linux 6.16 on, before that an error, never another process.
  try {
    const late = connection.peerPidfd()
    t.is(pidOf(late), -1)
    late.closeSync()
  } catch (error) {
    t.regex((error as NodeJS.ErrnoException).code!, /^(ESRCH|EINVAL)$/)
  }
  t.is(connection.peer().pid, child.pid!, 'a pid stays the number that it was')
  early.closeSync()
  connection.close()
  server.close()
})

/** Nothing of this process may be open afterwards that was not before. */
async function leakless(t: ExecutionContext, body: () => Promise<void>): Promise<void> {
  const before = countFds()
  await body()
  t.is(countFds(), before)
}

serialWithPidfds('recvFd closes the pidfd for which its result has no place', async (t) => {
  const [a, b] = socketpair({ pidfd: true })
  const file = openFile()
  await leakless(t, async () => {
    await a.sendFd(file)
    const received = (await b.recvFd())!
    t.true(isOpen(received.fd!.fd))
    received.fd!.closeSync()
    await a.send('bytes')
    t.is((await b.recvFd())!.fd, null)
  })
  closeSync(file)
  a.close()
  b.close()
})

serialWithPidfds('pidfds that were received ahead, refused, or left in a message are closed with it', async (t) => {
  const file = openFile()
  await leakless(t, async () => {
    const [a, b] = socketpair({ type: 'seqpacket', pidfd: true })
    for (let i = 0; i < 20; i++) await a.send(`${i}`, { fds: i % 2 === 0 ? [] : [file] })
    for await (const message of b) {
      message.close()
      if (text(message) === '2') break
    }
    await a.send('refused', { fds: [file] })
    using message = (await b.recv())!
    t.is(text(message), '3')
    a.close()
    b.close()
  })
  await leakless(t, async () => {
    const [a, b] = socketpair({ pidfd: true })
    await a.send('refused', { fds: [file, file] })
    await t.throwsAsync(b.recv({ maxFds: 1 }), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
    a.close()
    b.close()
  })
  closeSync(file)
})

withPidfds(
  'a message whose pidfd finds no room in the descriptor table is reported as truncated, and keeps its bytes',
  async (t) => {
    const { socket, done } = startLimited(64, 'tables', ['pidfds'])
    socket.close()
    t.is(await done, 'ERR_CONTROL_TRUNCATED x\nERR_CONTROL_TRUNCATED y\nz with a pidfd\n')
  }
)

asRootOnLinux('a process outside of the pid namespace has no pid', async (t) => {
  const server = await listen(newPath())
  const command = [
    '--pid',
    '--fork',
    process.execPath,
    ...process.execArgv,
    fixturePath('addresses'),
    'namespace',
    server.address
  ]
  const child = spawn('unshare', command, { stdio: ['ignore', 'pipe', 'inherit'] })
  const done = finish(child)
  const connection = await server.accept()
  const message = connection.recv()
  await connection.send('from outside')
  t.is(text(await message), 'from inside')
  t.true(connection.peer().pid! > 1, 'inside it is 1, outside it is another number')
  connection.close()
  t.is(await done, `1 ${JSON.stringify([null, own.uid])} ${JSON.stringify({ ...own, pid: null })}\n`)
  server.close()
})
