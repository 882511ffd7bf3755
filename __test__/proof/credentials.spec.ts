import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { capabilities, connect, listen } from 'fdpass'
import { serveBroker } from 'fdpass/broker'
import { connectStore } from 'fdpass/store'
import { takeover } from 'fdpass/takeover'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { begin } from '../helpers/cli.ts'
import { newPath, temporaryFolder } from '../helpers/descriptors.ts'
import { runs, start, startProgram, linesFrom, startOtherUser } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const NOBODY = 65_534

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')

asRoot('peer() of a passed connection names the connecting process, a message its sender [S28]', async (t) => {
  const server = await listen(newPath(), { credentials: true, pidfd: capabilities().messagePidfd })
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const { socket, child, done } = startOtherUser('speak')
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
  const said = startOtherUser('borrow', server.address)
  const client = await connect(server.address)
  await said.socket.sendFd(client)
  client.close()
  t.deepEqual(await linesFrom(said), ['inside', 'EACCES'])
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
  const { socket, done } = startOtherUser('accept')
  await socket.sendFd(server)
  using client = await connect(server.address)
  t.is(text(await client.recv()), 'accepted by a stranger')
  t.like(client.peer(), { pid: process.pid, uid: 0 })
  socket.close()
  await done
  server.close()
})

const inNamespace = onlyIf(runs('unshare', '--user', 'true'), 'needs Linux and user namespaces')

/** Runs where no user is mapped: each is reported as 65534, its own one too. */
const unmapped = `
import { connect, listen } from 'fdpass'
import { serveStore } from 'fdpass/store'
import { takeover } from 'fdpass/takeover'
const path = process.argv[1]
const server = await listen(path, { credentials: true })
const store = await serveStore({ path: path + '.store' })
const place = await takeover({ path: path + '.place' })
await place.ready()
console.log('ready')
const connection = await server.accept()
const message = await connection.recv()
const { unknownUid, unknownGid, groups, uid } = connection.peer()
console.log(JSON.stringify([uid === process.geteuid(), unknownUid, unknownGid, groups.includes(uid)]))
const { uid: sender, ...said } = message.credentials
console.log(JSON.stringify([sender === process.geteuid(), said.unknownUid, said.unknownGid]))
console.log(await takeover({ path: path + '.outside' }).catch(({ code }) => code))
process.exit()`

inNamespace('users whom a user namespace does not map are no user, and own nothing [S200]', async (t) => {
  const path = newPath()
  const node = [process.execPath, ...process.execArgv, '--input-type=module', '--eval', unmapped, path]
  const { child, done } = start(t, 'unshare', ['--user', ...node])
  await once(child.stdout!, 'data')
  const refused = await t.throwsAsync(takeover({ path: `${path}.place`, allow: () => true }), { code: 'EACCES' })
  t.regex(refused.message, /a user outside of this user namespace \(reported as 65534\)/)
  await t.throwsAsync(takeover({ path: `${path}.store.takeover`, allow: () => true }), { code: 'EACCES' })
  using store = await connectStore(`${path}.store`)
  await t.throwsAsync(store.put('mine', 0, { mode: 0o600 }), { code: 'EPERM' })
  t.deepEqual(await store.list(), [])
  using outside = await takeover({ path: `${path}.outside`, allow: () => true })
  await outside.ready()
  using client = await connect(path)
  await client.send('from outside')
  const [, peer, sender, predecessor] = (await done).split('\n')
  t.is(peer, '[true,true,true,false]')
  t.is(sender, '[true,true,true]')
  t.is(predecessor, 'EACCES')
})

inNamespace('--allow-uid admits no user whom a user namespace does not map [S200]', async (t) => {
  const path = newPath()
  const command = ['--user', 'fdpass', 'recv', '--count', '1', '--allow-uid', '65534', path]
  const receiving = begin(t, 'unshare', command)
  const sending = begin(t, 'fdpass', ['send', '--wait', '60', path, '/dev/null'])
  await receiving.printed(/^fdpass: Refused: an unknown user, process \d+$/m)
  receiving.child.kill('SIGTERM')
  t.is((await receiving.ended).stdout, '')
  await sending.ended
})
