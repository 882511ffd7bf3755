import { type ChildProcess, execFile } from 'node:child_process'
import { chmodSync, closeSync, fstatSync, openSync, readlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { ExecutionContext } from 'ava'
import { type Message, type UnixSocket, bind, listen } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'
import { openFile, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { type Program, fixturePath, fixtureSource, runs, start } from '../helpers/processes.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

const NOBODY = 65534
const isRoot = process.getuid?.() === 0
const canNotify = runs('systemd-notify', '--version')
const hasLibsystemd = hasPython && runs('python3', '-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")')
const inNamespace = ['--mount', '--propagation', 'private', 'sh', '-c']
const canMount = runs('unshare', ...inNamespace, 'mount -t tmpfs none /run')
const hasJournald = runs('test', '-x', '/lib/systemd/systemd-journald') && runs('journalctl', '--version')
const emulators = ['x86_64', 'aarch64', 'arm', 'sparc'].map((name) => `qemu-system-${name}`)
const emulator = emulators.find((name) => runs(name, '--version'))
const go = ['go', '/usr/local/go/bin/go'].find((name) => runs(name, 'version'))

const withNotify = onlyIf(canNotify, 'needs systemd-notify')
const withNotifyAsRoot = onlyIf(canNotify && isRoot, 'needs systemd-notify, and to begin as root')
const withLibsystemd = onlyIf(hasLibsystemd, 'needs Python 3.9 and libsystemd')
const withNamespace = onlyIf(canMount && hasLibsystemd, 'needs Python 3.9, libsystemd, and the right to mount')
const withJournald = onlyIf(
  canMount && hasLibsystemd && hasJournald,
  'needs journald, Python 3.9, and the right to mount'
)
const withEmulator = onlyIf(emulator !== undefined, 'needs a qemu-system program')
const withGo = onlyIf(isLinux && go !== undefined, 'needs Go')

type Kind = 'path' | 'abstract'
const kinds: Kind[] = ['path', 'abstract']
const folder = temporaryFolder()
chmodSync(folder, 0o755) // other users get to the sockets
let addresses = 0

/** A new address, as this package writes it and as others do. */
function newAddress(kind: Kind): { ours: string; theirs: string } {
  const name = `fdpass-software-${process.pid}-${addresses++}`
  if (kind === 'abstract') return { ours: `\0${name}`, theirs: `@${name}` }
  const path = join(folder, name)
  return { ours: path, theirs: path }
}

/** Binds the socket of a service manager, to which every user may send. */
function manage(t: ExecutionContext, kind: Kind): { socket: UnixSocket; env: NodeJS.ProcessEnv } {
  const { ours, theirs } = newAddress(kind)
  const socket = bind(ours, { credentials: true, ...(kind === 'path' && { mode: 0o666 }) })
  t.teardown(() => socket.close())
  return { socket, env: { ...process.env, NOTIFY_SOCKET: theirs } }
}

/** Receives the message by which a service waits, and lets it go on. */
async function passBarrier(t: ExecutionContext, socket: UnixSocket, child: ChildProcess): Promise<void> {
  const barrier = await receiveSoon(socket)
  t.is(text(barrier), 'BARRIER=1')
  t.is(barrier.fds.length, 1)
  t.true(fstatSync(barrier.fds[0]!.fd).isFIFO())
  t.is(barrier.credentials!.pid, child.pid!)
  t.is(child.exitCode, null)
  barrier.close()
}

/** The assignments of a notification, whose order means nothing. */
function linesOf(message: Message): Set<string> {
  return new Set(text(message)!.split('\n'))
}

const states = ['--ready', '--status=of all: 100 %', `--pid=${process.pid}`]
const assignments = new Set(['READY=1', 'STATUS=of all: 100 %', `MAINPID=${process.pid}`])

for (const kind of kinds) {
  withNotify(`systemd-notify sends its states to bind, and waits until its barrier is closed (${kind})`, async (t) => {
    const { socket, env } = manage(t, kind)
    const { child, done } = start(t, 'systemd-notify', states, { env })
    const message = await receiveSoon(socket)
    t.deepEqual(linesOf(message), assignments)
    t.is(message.fds.length, 0)
    // Root may speak for the process that it names, which it does; nobody else may, who speaks for himself then.
    const pid = isRoot ? process.pid : child.pid!
    t.deepEqual(message.credentials, { pid, uid: process.getuid!(), gid: process.getgid!() })
    await passBarrier(t, socket, child)
    t.is(await done, '')
  })

  withNotifyAsRoot(`systemd-notify of another user cannot pass for another process (${kind})`, async (t) => {
    const { socket, env } = manage(t, kind)
    const { child, done } = start(t, 'systemd-notify', states, { env, uid: NOBODY, gid: NOBODY, cwd: '/' })
    const message = await receiveSoon(socket)
    t.deepEqual(linesOf(message), assignments)
    t.deepEqual(message.credentials, { pid: child.pid!, uid: NOBODY, gid: NOBODY })
    await passBarrier(t, socket, child)
    t.is(await done, '')
  })
}

withNotifyAsRoot('systemd-notify --uid of root speaks for another user', async (t) => {
  const { socket, env } = manage(t, 'path')
  const { child, done } = start(t, 'systemd-notify', [...states, `--uid=${NOBODY}`], { env })
  const message = await receiveSoon(socket)
  t.is(message.credentials!.pid, process.pid)
  t.is(message.credentials!.uid, NOBODY)
  await passBarrier(t, socket, child)
  t.is(await done, '')
})

withLibsystemd('libsystemd stores descriptors with bind as in the service manager (FDSTORE=1)', async (t) => {
  const { socket, env } = manage(t, 'path')
  const files = ['first of the store', 'second of the store'].map((content) => temporaryFile(content))
  const args = [fixtureSource('systemd.py'), 'notify', 'FDSTORE=1\nFDNAME=kept', ...files]
  const { child, done } = start(t, 'python3', args, { env })
  const message = await receiveSoon(socket)
  t.is(text(message), 'FDSTORE=1\nFDNAME=kept')
  t.deepEqual(message.credentials, { pid: child.pid!, uid: process.getuid!(), gid: process.getgid!() })
  t.is(await done, '1\n')
  const contents = message.fds.map(({ fd }) => readAll(fd)) // their sender is gone
  t.deepEqual(contents, ['first of the store', 'second of the store'])
  message.close()
})

withLibsystemd("libsystemd's barrier holds until its message is closed", async (t) => {
  const { socket, env } = manage(t, 'abstract')
  const kept = start(t, 'python3', [fixtureSource('systemd.py'), 'barrier', '300'], { env })
  const message = await receiveSoon(socket)
  t.is(text(message), 'BARRIER=1')
  t.is(await kept.done, '-110\n')
  message.close()

  const closed = start(t, 'python3', [fixtureSource('systemd.py'), 'barrier', '30000'], { env })
  await passBarrier(t, socket, closed.child)
  t.is(await closed.done, '1\n')
})

/** Runs a scene of `journal.ts` where /run is empty and its own. */
async function journal(t: ExecutionContext, scene: string, length: number): Promise<unknown> {
  const script = 'mount -t tmpfs none /run && mkdir -p /run/systemd/journal && exec "$@"'
  const program = [process.execPath, ...process.execArgv, fixturePath('journal'), scene, 'one\ntwo', `${length}`]
  const { done } = start(t, 'unshare', [...inNamespace, script, 'sh', ...program])
  return JSON.parse(await done)
}

withNamespace('bind stands in for journald: libsystemd writes a small entry, and a large one in a memfd', async (t) => {
  const entry = { isCut: false, isOfClient: true }
  // As root libsystemd has a datagram hold 16 MiB.
  const [small, large] = (await journal(t, 'serve', 20_000_000)) as [{ bytes: number }, unknown]
  t.true(small.bytes > 30)
  const { bytes } = small
  t.deepEqual(small, { ...entry, bytes, fds: 0, text: 'one\ntwo', priority: '5', large: false } as typeof small)
  t.like(large, { ...entry, bytes: 0, fds: 1, text: 'large', large: true })
  t.regex((large as { memory: string }).memory, /^\/memfd:/)
})

withJournald('the real journald takes entries as bytes and as a memfd, and believes the credentials', async (t) => {
  const entry = { transport: 'journal', isOfThis: true, uid: `${process.getuid!()}`, large: false }
  t.deepEqual(await journal(t, 'write', 1_000_000), [
    { ...entry, text: 'one\ntwo' },
    { ...entry, text: 'large', large: true },
    { ...entry, text: 'of nobody', uid: `${NOBODY}` }
  ])
})

type Reply = Record<string, any>

/** A connection to QEMU's machine protocol: JSON, one object to a line. */
class Monitor {
  #rest = ''
  readonly #socket: UnixSocket

  constructor(socket: UnixSocket) {
    this.#socket = socket
  }

  /** The next object. */
  async next(): Promise<Reply> {
    while (!this.#rest.includes('\n')) this.#rest += text(await receiveSoon(this.#socket))
    const end = this.#rest.indexOf('\n')
    const line = this.#rest.slice(0, end)
    this.#rest = this.#rest.slice(end + 1)
    return JSON.parse(line) as Reply
  }

  /** Runs a command, and returns its result. */
  async run(execute: string, args: object = {}, fds: readonly number[] = []): Promise<any> {
    await this.#socket.send(JSON.stringify({ execute, arguments: args }), { fds })
    for (;;) {
      const reply = await this.next() // or an event
      if ('error' in reply) throw new Error(`${execute}: ${reply.error.desc}`)
      if ('return' in reply) return reply.return
    }
  }
}

withEmulator('QEMU takes a disk without a name by add-fd, and reads what it holds', async (t) => {
  const path = newAddress('path').ours
  const machine = ['-nodefaults', '-machine', 'none', '-display', 'none', '-S']
  const { child, done } = start(t, emulator!, [...machine, '-qmp', `unix:${path},server=on,wait=off`])
  const socket = await connectWhenThere(path)
  t.teardown(() => socket.close())
  t.is(socket.peer().pid, child.pid!)
  const monitor = new Monitor(socket)
  t.true('QMP' in (await monitor.next()))
  t.deepEqual(await monitor.run('qmp_capabilities'), {})

  await t.throwsAsync(monitor.run('add-fd'), { message: /No file descriptor supplied via SCM_RIGHTS/ })
  const disk = temporaryFile('Q'.repeat(5 * 512))
  const fd = openSync(disk, 'r')
  unlinkSync(disk)
  const added = await monitor.run('add-fd', { 'fdset-id': 7, opaque: 'a disk' }, [fd])
  closeSync(fd)
  t.is(added['fdset-id'], 7)
  t.is(readlinkSync(`/proc/${child.pid}/fd/${added.fd}`), `${disk} (deleted)`)
  t.deepEqual(await monitor.run('query-fdsets'), [{ 'fdset-id': 7, fds: [{ fd: added.fd, opaque: 'a disk' }] }])

  const file = { driver: 'file', filename: '/dev/fdset/7', locking: 'off' }
  await monitor.run('blockdev-add', { driver: 'raw', 'node-name': 'disk', 'read-only': true, file })
  for (const letter of 'QR') {
    const command = `qemu-io disk "read -P ${letter.charCodeAt(0)} 0 2560"`
    await monitor.run('human-monitor-command', { 'command-line': command })
  }
  await monitor.run('blockdev-del', { 'node-name': 'disk' })
  await monitor.run('cont') // it removes none while it is stopped
  await monitor.run('remove-fd', { 'fdset-id': 7 })
  t.deepEqual(await monitor.run('query-fdsets'), [])
  await monitor.run('quit')
  const output = await done // the file holds Q, and for that not R
  t.is(output.match(/^read 2560\/2560 bytes at offset 0$/gm)?.length, 2)
  t.is(output.match(/^Pattern verification failed at offset 0, 2560 bytes$/gm)?.length, 1)
})

const goPeer = join(folder, 'peer')
let built: Promise<unknown> | undefined

/** Compiles `peer.go`, once, from the standard library alone. */
function buildGo(): Promise<unknown> {
  const settings = {
    CGO_ENABLED: '0',
    GOCACHE: join(folder, 'cache'),
    GOFLAGS: '',
    GOPROXY: 'off',
    GOTOOLCHAIN: 'local'
  }
  const env = { ...process.env, ...settings }
  return promisify(execFile)(go!, ['build', '-o', goPeer, fixtureSource('peer.go')], { env })
}

/** Starts the program in Go, which sends descriptors of two files. */
async function startGo(t: ExecutionContext, ...args: string[]): Promise<Program> {
  t.timeout(600_000) // compiling takes a second on a quiet machine
  await (built ??= buildGo())
  const files = ['first of Go', 'second of Go'].map((content) => temporaryFile(content))
  return start(t, goPeer, args, {}, `${files.join('\n')}\n`)
}

/** Receives what the program in Go sends. */
async function receiveFromGo(t: ExecutionContext, socket: UnixSocket, { pid }: ChildProcess): Promise<Message> {
  const message = await receiveSoon(socket)
  t.is(text(message), 'from Go')
  const contents = message.fds.map(({ fd }) => readAll(fd))
  t.deepEqual(contents, ['first of Go', 'second of Go'])
  t.deepEqual(message.credentials, { pid: pid!, uid: process.getuid!(), gid: process.getgid!() })
  message.close()
  return message
}

async function sendToGo(socket: UnixSocket, to?: string): Promise<void> {
  const fds = ['first of Node', 'second of Node'].map((content) => openFile(content))
  await socket.send('from Node', { fds, to })
  for (const fd of fds) closeSync(fd)
}

const printedByGo = '1 headers, from Node\nfirst of Node\nsecond of Node\n'
const networks = { stream: 'unix', seqpacket: 'unixpacket' } as const

for (const kind of kinds) {
  for (const type of ['stream', 'seqpacket'] as const) {
    withGo(`Go as a client of listen passes descriptors both ways (${type}, ${kind})`, async (t) => {
      const { ours, theirs } = newAddress(kind)
      const server = await listen(ours, { type, credentials: true })
      t.teardown(() => server.close())
      const { child, done } = await startGo(t, 'dial', networks[type], theirs)
      const socket = await server.accept({ signal: AbortSignal.timeout(30_000) })
      t.teardown(() => socket.close())
      t.is(socket.peer().pid, child.pid!)
      await receiveFromGo(t, socket, child)
      await sendToGo(socket)
      t.is(await done, printedByGo)
      t.is(await socket.recv(), null)
    })

    withGo(`Go as a server for connect passes descriptors both ways (${type}, ${kind})`, async (t) => {
      const { ours, theirs } = newAddress(kind)
      const { child, done } = await startGo(t, 'listen', networks[type], theirs)
      const socket = await connectWhenThere(ours, { type, credentials: true })
      t.teardown(() => socket.close())
      t.is(socket.peer().pid, child.pid!)
      t.is(socket.remoteAddress, ours)
      await sendToGo(socket)
      await receiveFromGo(t, socket, child)
      t.is(await done, printedByGo)
      t.is(await socket.recv(), null)
    })
  }

  withGo(`Go sends datagrams with descriptors to bind, and gets an answer (${kind})`, async (t) => {
    const { ours, theirs } = newAddress(kind)
    const local = newAddress(kind)
    const socket = bind(ours, { credentials: true })
    t.teardown(() => socket.close())
    const { child, done } = await startGo(t, 'write', theirs, local.theirs)
    const { address } = await receiveFromGo(t, socket, child)
    t.is(address, local.ours)
    await sendToGo(socket, address!)
    t.is(await done, printedByGo)
  })

  withGo(`Go receives datagrams with descriptors from connect, and answers (${kind})`, async (t) => {
    const { ours, theirs } = newAddress(kind)
    const localAddress = newAddress(kind).ours
    const { child, done } = await startGo(t, 'read', theirs)
    const socket = await connectWhenThere(ours, { type: 'dgram', localAddress, credentials: true })
    t.teardown(() => socket.close())
    await sendToGo(socket)
    const { address } = await receiveFromGo(t, socket, child)
    t.is(address, ours)
    t.is(await done, printedByGo)
  })
}
