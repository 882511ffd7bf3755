import { once } from 'node:events'
import { constants, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { type AddressInfo, Socket } from 'node:net'
import test from 'ava'
import { Descriptor, type DescriptorStream, bindListener, connectTcp, pipe, socketpair } from 'fdpass'
import { type Loose, RANGE, TYPE, loose, throws } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { CLOEXEC, readAll, statusFlags } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { Container, openPty } from '../helpers/kinds.ts'
import { isPending } from '../helpers/promises.ts'
import { runs, startProgram } from '../helpers/processes.ts'

const onNode = onlyIf(!('bun' in process.versions || 'deno' in process.versions), "needs Node's own handles")

onNode('a pipe carries what is written, up to the end, and both ends are in blocking mode', async (t) => {
  const [read, write] = pipe()
  if (isLinux) {
    for (const { fd } of [read, write]) t.is(statusFlags(fd) & (0o4000 | CLOEXEC), CLOEXEC)
  }
  writeSync(write.fd, 'through a pipe')
  write.closeSync()
  t.is(readAll(read.fd), 'through a pipe')
  read.closeSync()
})

onNode("a pipe's ends are a program's standard input and output", async (t) => {
  const [input, output] = [pipe(), pipe()]
  const { socket, done } = startProgram('cat', [], { standard: [input[0].fd, output[1].fd, 'inherit'] })
  input[0].closeSync()
  output[1].closeSync()
  const writer = input[1].toSocket()
  writer.end('through cat')
  t.is(await readToEnd(output[0].toSocket()), 'through cat')
  await done
  socket.close()
})

onNode('writing to a pipe without a reader is EPIPE', (t) => {
  const [read, write] = pipe()
  read.closeSync()
  t.throws(() => writeSync(write.fd, 'x'), { code: 'EPIPE' })
  write.closeSync()
})

test('pipe takes nothing', (t) => {
  const [read, write] = (pipe as Loose)(5, {}) as [Descriptor, Descriptor]
  t.deepEqual([read.kind, write.kind], ['fifo', 'fifo'])
  read.closeSync()
  write.closeSync()
})

const isNode = !('bun' in process.versions || 'deno' in process.versions)

const withPython = onlyIf(isNode && isLinux && hasPython, "needs Node's own handles, Linux and Python 3.9")

/** Whether a descriptor's description is in non-blocking mode. */
const isNonBlocking = (descriptor: Descriptor) => (statusFlags(descriptor.fd) & constants.O_NONBLOCK) !== 0

withPython(
  "a terminal has no cast to one of Node's streams, which lose bytes or occupy threads, but toTerminal()",
  async (t) => {
    const [master, slave] = await openPty()
    using kept = slave.duplicate()
    for (const end of [master, slave]) {
      for (const method of ['toSocket', 'toReadStream', 'toWriteStream', 'toDuplex'] as const) {
        t.throws(() => end[method](), { code: 'ERR_INVALID_FD_TYPE', message: /it has toTerminal\(\)/ })
      }
    }
    const [inside, outside] = [slave.toTerminal(), master.toTerminal()]
    t.throws(() => slave.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    outside.write('in')
    t.is(String(((await once(inside, 'data')) as [Buffer])[0]), 'in')
    inside.write('out')
    t.is(String(((await once(outside, 'data')) as [Buffer])[0]), 'out')
    t.false(isNonBlocking(kept), 'the mode, which the sender shares')
    inside.destroy()
    await once(inside, 'close')
    t.throws(() => inside.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    outside.destroy()
  }
)

withPython('a terminal has a size, and the program inside gets SIGWINCH when it changes', async (t) => {
  const [master, slave] = await openPty()
  const terminal = master.toTerminal()
  t.deepEqual({ ...terminal.size }, { columns: 0, rows: 0 })
  terminal.resize({ columns: 100, rows: 30 })
  t.deepEqual({ ...terminal.size }, { columns: 100, rows: 30 })
  const program = `
import os, signal, fcntl, termios
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
print("ready", flush=True)
signal.sigwait([signal.SIGWINCH])
print(os.get_terminal_size(0), flush=True)`
  const { socket, done } = startProgram('python3', ['-c', program], { standard: [slave.fd, slave.fd, 'inherit'] })
  slave.closeSync()
  let text = ''
  for await (const chunk of terminal) {
    text += String(chunk)
    if (text === 'ready\n') terminal.resize({ columns: 65_535, rows: 7 })
  }
  t.is(text, 'ready\nos.terminal_size(columns=65535, lines=7)\n')
  await done
  socket.close()
})

withPython('a size that is none is refused', async (t) => {
  const [master, slave] = await openPty()
  const terminal = slave.toTerminal()
  const resize = loose(terminal, 'resize')
  for (const value of [undefined, null, 5, 'x']) throws(t, 'size', TYPE, () => resize(value))
  for (const value of [{}, { columns: 80 }, { columns: '80', rows: 24 }])
    throws(t, 'size', TYPE, () => resize(value), /size\.(columns|rows)/)
  for (const value of [
    { columns: -1, rows: 24 },
    { columns: 80, rows: 65_536 },
    { columns: 80, rows: 0.5 }
  ]) {
    throws(t, 'size', RANGE, () => resize(value), /size\.(columns|rows)/)
  }
  t.deepEqual({ ...terminal.size }, { columns: 0, rows: 0 })
  terminal.destroy()
  master.closeSync()
  t.throws(() => terminal.size, { code: 'ERR_DESCRIPTOR_CLOSED' })
  t.throws(() => terminal.resize({ columns: 1, rows: 1 }), { code: 'ERR_DESCRIPTOR_CLOSED' })
})

const LENGTH = 100_000
const ROUNDS = Number(process.env.FDPASS_CONSOLES ?? 20)

withPython(`${ROUNDS} consoles that write 100 KB and close at once are read to the last byte, then end`, async (t) => {
  const program = `import os; os.write(1, b"x" * ${LENGTH - 1} + b"z")` // one write(2), which waits while the terminal is full
  for (let round = 0; round < ROUNDS; round++) {
    const [master, slave] = await openPty()
    const { socket, done } = startProgram('python3', ['-c', program], { standard: ['ignore', slave.fd, 'inherit'] })
    slave.closeSync()
    const terminal = master.toTerminal()
    let [length, last] = [0, '']
    terminal.on('data', (chunk: Buffer) => {
      length += chunk.length
      last = String(chunk.subarray(-1))
      const busy = performance.now() + 1
      while (performance.now() < busy); // a reader that is busy
    })
    await once(terminal, 'end')
    if (length !== LENGTH || last !== 'z') t.fail(`${length} bytes in round ${round}`)
    await done
    socket.close()
  }
  t.pass()
})

withPython('writing to a terminal that is not read is back-pressure, and blocks nothing', async (t) => {
  const [master, slave] = await openPty()
  const [writer, reader] = [slave.toTerminal(), master.toTerminal()]
  const data = Buffer.alloc(1024 * 1024, 'x')
  t.false(writer.write(data))
  const finished = once(writer.end(), 'finish')
  t.true(await isPending(finished)) // and the event loop has gone round
  let length = 0
  reader.on('data', (chunk: Buffer) => (length += chunk.length))
  await finished
  writer.destroy()
  await once(reader, 'end')
  t.is(length, data.length)
})

withPython('32 quiet terminals and 32 quiet pipes that are read occupy no thread of the pool', async (t) => {
  const waiting: Promise<unknown>[] = []
  const ends: (Descriptor | DescriptorStream)[] = []
  for (let i = 0; i < 32; i++) {
    const [master, slave] = await openPty()
    const [read, write] = pipe()
    const streams = [master.toTerminal(), read.toDuplex()]
    waiting.push(...streams.map((stream) => once(stream.resume(), 'end')))
    ends.push(slave, write)
  }
  t.true((await readFile('package.json', 'utf8')).includes('fdpass')) // on the pool, which has four threads
  t.true(await isPending(Promise.race(waiting)))
  for (const end of ends) (end as Descriptor).closeSync()
  await Promise.all(waiting)
})

const HANGUPS = Number(process.env.FDPASS_HANGUPS ?? 300)

/** A received descriptor, and a function that sends bytes to it and hangs up at once. */
interface HangUp {
  readonly fd: Descriptor
  readonly sendAndClose: (bytes: Buffer) => Promise<unknown>
}

/** Kinds of connections, with their casts. */
const hangUps: Record<string, [open: () => Promise<HangUp>, ...casts: ('toSocket' | 'toDuplex' | 'toStream')[]]> = {
  pipe: [
    async () => {
      const [fd, write] = pipe()
      return { fd, sendAndClose: (bytes) => write.write(bytes).then(() => write.closeSync()) }
    },
    'toSocket',
    'toDuplex'
  ],
  'Unix stream': [
    async () => {
      const [near, far] = socketpair()
      const sendAndClose = (bytes: Buffer) => near.send(bytes).then(() => near.close())
      return { fd: Descriptor.from(far.release()), sendAndClose }
    },
    'toSocket',
    'toStream'
  ],
  'TCP connection': [
    async () => {
      using listener = bindListener({ port: 0, host: '127.0.0.1' })
      const server = await listener.duplicate().toServer({ pauseOnConnect: true })
      const accepting = once(server, 'connection') as Promise<[Socket]>
      const fd = await connectTcp({ host: '127.0.0.1', port: (listener.address as AddressInfo).port })
      const [accepted] = await accepting
      server.close()
      return { fd, sendAndClose: (bytes) => once(accepted.end(bytes).resume(), 'close') }
    },
    'toSocket',
    'toDuplex'
  ]
}

for (const [kind, [open, ...casts]] of Object.entries(hangUps)) {
  for (const cast of casts) {
    onNode(
      `${cast}() of a ${kind} whose peer hangs up right after the last byte loses none, ${HANGUPS} times`,
      async (t) => {
        for (let i = 0; i < HANGUPS; i++) {
          const { fd, sendAndClose } = await open()
          const stream = fd[cast]()
          const bytes = Buffer.alloc(1 + ((i * 7919) % 60_000), 'x')
          const closed = sendAndClose(bytes)
          let length = 0
          for await (const chunk of stream) length += (chunk as Buffer).length
          if (length !== bytes.length) t.fail(`${length} bytes of ${bytes.length}`)
          await closed
        }
        t.pass()
      }
    )
  }
}

/** Receives one descriptor from a program of Python, which has ended. */
async function fromPython(program: string): Promise<Descriptor> {
  const { socket, done } = startProgram('python3', ['-c', `import os, socket, time\n${program}`])
  const { fd } = await socket.recvFd({ required: true })
  await done
  socket.close()
  return fd
}

const SEND = 'socket.send_fds(socket.socket(fileno=3), [b"x"], [fd])'

/** What a peer has sent before it hung up, where a read(2) is shorter than what is there. */
const shortReads: Record<string, [text: string, open: () => Promise<Descriptor>]> = {
  'in front of descriptors': [
    'first, second, third',
    async () => {
      const [near, far] = socketpair()
      for (const part of ['first, ', 'second, ', 'third']) await near.send(part, { fds: [0] })
      near.close()
      return Descriptor.from(far.release())
    }
  ],
  'of the packets of a pipe': [
    'first, second, third',
    () =>
      fromPython(`
fd, write = os.pipe2(os.O_DIRECT)
for part in [b"first, ", b"second, ", b"third"]: os.write(write, part)
${SEND}`)
  ],
  'in front of urgent data': [
    'first, third',
    () =>
      fromPython(
        `
listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
accepted = listener.accept()[0]
accepted.send(b"first, ")
accepted.send(b"!", socket.MSG_OOB)
accepted.send(b"third")
accepted.close()
connection.shutdown(socket.SHUT_WR)
while accepted_state(connection) != 7: time.sleep(0.001)
fd = connection.fileno()
${SEND}`.replace('accepted_state(connection)', 'connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]')
      )
  ]
}

for (const [where, [sent, open]] of Object.entries(shortReads)) {
  withPython(`a hang-up behind a read that is short ${where} takes no byte from toSocket()`, async (t) => {
    const descriptor = await open()
    t.is(await readToEnd(descriptor.toSocket()), sent)
  })

  // Later versions of libuv read on.
  onlyIf(
    isLinux && hasPython && process.version.startsWith('v20.'),
    'needs Python 3.9 on Linux, and Node 20 with its libuv 1.46'
  )(`a hang-up behind a read that is short ${where} takes bytes from a net.Socket that Node makes`, async (t) => {
    const received = await readToEnd(new Socket({ fd: (await open()).release() }))
    t.true(sent.startsWith(received) && received.length < sent.length, received)
  })
}

for (const name of ['runc', 'crun']) {
  const canStart = isNode && runs(name, '--version') && new Container(name, 'true', false).canRun()
  const withRuntime = onlyIf(canStart, `needs ${name}, and the right to start containers`)

  withRuntime(`the terminal of a container of ${name} has colours, a size and 1 MB for a slow reader`, async (t) => {
    const script =
      'tty; read line; stty size; ls -d --color=always /usr; head -c 1000000 /dev/zero | tr "\\0" x; echo; echo end'
    const container = new Container(name, script)
    const fd = await container.terminal()
    t.is(fd.kind, 'pty')
    const terminal = fd.toTerminal()
    terminal.resize({ columns: 100, rows: 30 })
    terminal.write('\n') // the program reads the size behind it
    let [length, text] = [0, '']
    for await (const chunk of terminal) {
      length += (chunk as Buffer).length
      text = text.length < 200 ? text + String(chunk) : text
      const busy = performance.now() + 1
      while (performance.now() < busy);
    }
    const lines = ['/dev/pts/0', '', '30 100', '\u001B[0m\u001B[01;34m/usr\u001B[0m', '']
    const inOrder = text.replace(/^(\r\n)(.*\r\n)/, '$2$1') // the echo can precede the program's first line
    t.true(inOrder.startsWith(lines.join('\r\n')), text.slice(0, 200))
    t.is(length, lines.join('\r\n').length + 1_000_000 + '\r\nend\r\n'.length)
    await until(() => container.delete())
  })

  withRuntime(`a container of ${name} that ends before its terminal is read leaves what it has printed`, async (t) => {
    const container = new Container(name, 'echo printed; echo and ended')
    const fd = await container.terminal()
    await until(() => container.delete())
    let text = ''
    for await (const chunk of fd.toTerminal()) text += String(chunk)
    t.is(text, 'printed\r\nand ended\r\n')
  })
}
