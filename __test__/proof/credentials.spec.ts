import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { capabilities, connect, listen } from 'fdpass'
import { serveBroker } from 'fdpass/broker'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { startProgram } from '../helpers/processes.ts'
import { newPath, startStranger, tell } from '../helpers/strangers.ts'

const NOBODY = 65_534

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')

asRoot('peer() of a passed connection names the connecting process, a message its sender [S28]', async (t) => {
  const server = await listen(newPath(), { credentials: true, pidfd: capabilities().messagePidfd })
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const { socket, child, done } = startStranger('speak')
  await socket.sendFd(client)
  client.close()
  using message = (await connection.recv())!
  t.is(text(message), 'from a stranger')
  t.like(connection.peer(), { pid: process.pid, uid: 0 })
  t.deepEqual(message.credentials, { pid: child.pid!, uid: NOBODY, gid: NOBODY })
  socket.close()
  await done
  connection.close()
  server.close()
})

asRoot("over a connection to a broker that was passed on, its maker's rights are used [S47]", async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'inside', { mode: 0o600 })
  const server = await listen(newPath(), { mode: 0o666 })
  using _service = serveBroker(server, { roots: [root], allow: (_wish, { uid }) => uid === 0 })
  const said = startStranger('borrow', server.address)
  const client = await connect(server.address)
  await said.socket.sendFd(client)
  client.close()
  t.deepEqual(await tell(said), ['inside', 'EACCES'])
})

onlyIf(
  hasPython && capabilities().peerPidfd && process.getuid!() === 0,
  'needs root, Python 3.9, and peerPidfd() (Linux 6.5)'
)("the receiver of a pidfd can signal its process, another user's only as root [S36]", async (t) => {
  using server = await listen(newPath())
  const connecting =
    'import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); time.sleep(60)'
  const target = spawn('python3', ['-c', connecting, server.address], { stdio: 'inherit' })
  t.teardown(() => target.kill('SIGKILL'))
  const ended = once(target, 'exit')
  using connection = await server.accept()
  using pidfd = connection.peerPidfd()
  const signalling = `import errno, os, signal, socket, sys
s = socket.socket(fileno=3)
os.setuid(int(sys.argv[1]))
try:
    signal.pidfd_send_signal(socket.recv_fds(s, 1, 1)[1][0], signal.SIGTERM)
    print("sent")
except OSError as error:
    print(errno.errorcode[error.errno])`
  for (const [uid, said] of [
    [NOBODY, 'EPERM\n'],
    [0, 'sent\n']
  ] as const) {
    const { socket, done } = startProgram('python3', ['-c', signalling, `${uid}`])
    await socket.sendFd(pidfd)
    t.is(await done, said)
    socket.close()
  }
  t.deepEqual(await ended, [null, 'SIGTERM'])
})

asRoot('the peer of a client is the process that called listen, whichever process accepts [S28]', async (t) => {
  const server = await listen(newPath(), { mode: 0o666 })
  const { socket, done } = startStranger('accept')
  await socket.sendFd(server)
  using client = await connect(server.address)
  t.is(text(await client.recv()), 'accepted by a stranger')
  t.like(client.peer(), { pid: process.pid, uid: 0 })
  socket.close()
  await done
  server.close()
})
