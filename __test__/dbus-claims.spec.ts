import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, socketpair } from 'fdpass'
import { DBusStream } from 'fdpass/dbus'
import { Bus, hasBus, jeepney, startBus } from './helpers/buses.ts'
import { onlyIf } from './helpers/conditions.ts'
import { hasWriter, openFile, openPipe, readAll, sameFile } from './helpers/descriptors.ts'
import { fixtureSource } from './helpers/processes.ts'
import { runs, start } from './helpers/programs.ts'

const withPython = onlyIf(runs('python3', '--version'), 'needs Python')
const withJeepney = onlyIf(jeepney !== undefined, 'needs Jeepney for Python')
const withGdbus = onlyIf(hasBus && runs('gdbus', 'help'), 'needs dbus-daemon and gdbus')

/** What came of a scene, once it has ended: the descriptors, which the test closes, and the stream's error. */
async function play(t: ExecutionContext, python: string, scene: string, file: number) {
  const [ours, theirs] = socketpair()
  const peer = Descriptor.from(theirs.release())
  const stream = new DBusStream(ours)
  t.teardown(() => void stream.destroy())
  const { done } = start(t, python, [fixtureSource('dbus-peer.py'), scene], {
    stdio: ['ignore', 'pipe', 'inherit', peer.fd, file]
  })
  peer.closeSync()
  closeSync(file)
  const received: number[] = []
  let count = 0
  let failure: NodeJS.ErrnoException | undefined
  stream.on('fds', (fds: number[]) => {
    count += fds.length
    received.push(...fds)
    // Some scenes send more than a table may hold.
    for (const fd of received.splice(253)) closeSync(fd)
  })
  stream.on('error', (error) => (failure = error))
  stream.resume()
  if (scene === 'server') stream.write('BEGIN\r\n')
  const closed = new Promise((resolve) => stream.once('close', resolve))
  const printed = await done
  await closed
  return { received, count, failure, printed }
}

// How many are given out before it is known that nobody claims more.
const hostile: Record<string, [title: string, most: number]> = {
  beside: ['beside a message without any', 0],
  more: ['more than the message claims', 0],
  second: ['more with the second message', 1],
  between: ['with a message that has none, behind one that has', 1],
  handshake: ['in the handshake', 0],
  unbegun: ['with messages of a client before its BEGIN', 0],
  unasked: ['with messages of a server before our BEGIN', 0],
  dribble: ['with each byte of a header', 253],
  big_dribble: ['with each byte of a header that is big-endian', 253],
  body: ['with a body, when all came that are claimed', 253],
  claims_all: ['of a message that claims all that could ever come', 253],
  garbage: ['behind what is no message', 0],
  long_fields: ['with fields that go beyond the header', 0],
  deep: ['with variants within each other, 100,000 times', 1]
}
for (const [scene, [title, most]] of Object.entries(hostile)) {
  withPython(`descriptors that no message claims end the stream, and are closed: ${title}`, async (t) => {
    const { read, write } = openPipe()
    const { received, count, failure } = await play(t, 'python3', scene, write)
    t.like(failure, { code: 'EPROTO', syscall: 'recvmsg' })
    t.true(count <= most, `${count} were given out`)
    for (const fd of received) closeSync(fd)
    t.false(hasWriter(read))
    closeSync(read)
  })
}

/** Whether all descriptors of a peer arrive that keeps to the specification. */
async function arrive(t: ExecutionContext, python: string, scene: string): Promise<void> {
  const file = openFile('content')
  const own = openFile('other')
  const { received, count, failure, printed } = await play(t, python, scene, file)
  t.is(failure, undefined)
  t.is(`${count}\n`, printed)
  t.true(count > 0)
  t.true(received.every((fd) => sameFile(fd, received[0]!) && !sameFile(fd, own)))
  t.is(readAll(received[0]!), 'content')
  for (const fd of [own, ...received]) closeSync(fd)
}

withPython(
  'every message gets the descriptors that it claims, with any fields, in both byte orders, and in any pieces',
  (t) => arrive(t, 'python3', 'claimed')
)
withPython('a client may send its first message with the end of the handshake', (t) => arrive(t, 'python3', 'client'))
withPython('a server may send its first message with the end of the handshake', (t) => arrive(t, 'python3', 'server'))
withJeepney('descriptors of messages that Jeepney has made arrive, in both byte orders', (t) =>
  arrive(t, jeepney!, 'jeepney')
)

withGdbus('the descriptor that gdbus sends arrives, and gdbus gets that of the reply', async (t) => {
  const { path, address } = startBus(t)
  const service = await Bus.open(t, path)
  service.serve('answered')
  const input = openFile('input of gdbus')
  const target = ['--address', address, '--dest', service.name, '--object-path', '/files']
  const { done } = start(t, 'gdbus', ['call', ...target, '--method', 'fdpass.Files.Exchange', '@h 0'], {
    stdio: [input, 'pipe', 'inherit']
  })
  closeSync(input)
  t.is(await done, "('input of gdbus', handle 0)\n")
})

test('bytes that are no D-Bus pass, as long as no descriptors come with them', async (t) => {
  const [ours, socket] = socketpair()
  const stream = new DBusStream(ours)
  t.teardown(() => stream.destroy())
  void socket.send('BEGIN\r\n')
  const text = 'l' + '\xff'.repeat(1000) + '\nB\n\n'
  const sent = Buffer.from(text.repeat(100), 'latin1')
  void socket.send(sent).then(() => socket.close())
  const pieces: Buffer[] = []
  for await (const piece of stream) pieces.push(piece as Buffer)
  t.deepEqual(Buffer.concat(pieces), Buffer.concat([Buffer.from('BEGIN\r\n'), sent]))
})
