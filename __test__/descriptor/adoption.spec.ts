import { spawn } from 'node:child_process'
import { closeSync, constants, readFileSync, readSync, writeSync } from 'node:fs'
import { once } from 'node:events'
import { createConnection, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, UnixSocket, capabilities, memfd, pipe, socketpair } from 'fdpass'
import { VALUE } from '../helpers/arguments.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, isOpen, openFile, readAll, sameFile, statusFlags, temporaryFolder } from '../helpers/descriptors.ts'
import { finish } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

// Serial throughout: some of these tests depend on the kernel giving out the lowest free number.
const onLinux = onlyIf(isLinux, 'needs /proc', test.serial)

test.serial('Descriptor.from() takes a number over once, and fails without owning anything [D9]', (t) => {
  const fd = openFile('x')
  const descriptor = Descriptor.from(fd)
  t.throws(() => Descriptor.from(fd), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => UnixSocket.from(fd), { code: 'ENOTSOCK' })
  t.is(readAll(descriptor.fd), 'x')
  descriptor.closeSync()
  t.throws(() => Descriptor.from(fd), { code: 'EBADF' })

  const next = openFile('y')
  t.is(next, fd)
  const again = Descriptor.from(next)
  t.is(readAll(again.fd), 'y')
  again.closeSync()
})

test.serial('UnixSocket.from() takes a number over once [D9]', async (t) => {
  const [a, b] = socketpair({ type: 'seqpacket' })
  const number = a.release()
  const again = UnixSocket.from(number)
  t.is(again.type, 'seqpacket')
  t.throws(() => UnixSocket.from(number), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => Descriptor.from(number), { code: 'ERR_INVALID_ARG_VALUE' })
  await b.send('over')
  t.is(text(await again.recv()), 'over')
  again.close()
  t.throws(() => UnixSocket.from(number), { code: 'EBADF' })
  t.is(await b.recv(), null)
  b.close()
})

test.serial(
  'UnixSocket.from() of a Descriptor takes it over, and leaves it as it was where it fails [D9]',
  async (t) => {
    const [a, b] = socketpair()
    const [c, d] = socketpair({ type: 'dgram' })
    await a.sendFd(c)
    c.close()
    const descriptor = (await b.recvFd())!.fd!
    const socket = UnixSocket.from(descriptor)
    t.is(socket.type, 'dgram')
    t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    t.throws(() => UnixSocket.from(descriptor), { code: 'ERR_DESCRIPTOR_CLOSED' })
    await descriptor.close()
    await socket.send('through')
    t.is(text(await d.recv()), 'through')

    const file = Descriptor.from(openFile('no socket'))
    t.throws(() => UnixSocket.from(file), { code: 'ENOTSOCK' })
    t.is(readAll(file.fd), 'no socket')
    file.closeSync()
    for (const open of [a, b, d, socket]) open.close()
  }
)

onLinux('UnixSocket.from() refuses sockets of other families [D9]', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  t.throws(() => UnixSocket.from(fd), { code: 'EAFNOSUPPORT' })
  t.true(isOpen(fd))
  await new Promise((resolve) => server.close(resolve))
})

onLinux('release() of a socket returns the number in the mode in which it was adopted [D9]', async (t) => {
  const [a, b] = socketpair()
  const waiting = b.recv() // the event loop watches the socket from now on
  await a.send('x')
  await waiting
  const rejected = t.throwsAsync(b.recv(), { code: 'ERR_SOCKET_CLOSED' })
  const number = b.release()
  await rejected
  t.true(b.closed)
  t.is(statusFlags(number) & constants.O_NONBLOCK, 0)
  t.not(statusFlags(number) & CLOEXEC, 0)

  // Another reader takes it from here, in this process and by a plain read.
  await a.send('plain')
  const buffer = Buffer.alloc(16)
  t.is(buffer.toString('utf8', 0, readSync(number, buffer)), 'plain')
  writeSync(number, 'answer')
  t.is(text(await a.recv()), 'answer')
  b.close()
  t.true(isOpen(number))
  closeSync(number)
  t.is(await a.recv(), null)
  a.close()
})

onLinux(
  'the mode of a socket is unchanged while an operation waits, also for processes that share it [D9]',
  async (t) => {
    const [a, b] = socketpair()
    await a.sendFd(b)
    const copy = (await b.recvFd())!.fd!
    const before = statusFlags(copy.fd)
    const waiting = b.recv()
    t.is(statusFlags(copy.fd), before)
    await a.send('x')
    await waiting
    t.is(statusFlags(copy.fd), before)
    copy.closeSync()
    a.close()
    b.close()
  }
)

onLinux('a socket that came in non-blocking mode is given back in it [D9]', async (t) => {
  const path = `${temporaryFolder()}/s`
  const server = createServer().listen(path)
  await new Promise((resolve) => server.once('listening', resolve))
  const client = createConnection(path)
  await new Promise((resolve) => client.once('connect', resolve))
  const { fd } = (client as unknown as { _handle: { fd: number } })._handle
  const [a, b] = socketpair()
  await a.sendFd(fd)
  const theirs = UnixSocket.from((await b.recvFd())!.fd!)
  const rejected = t.throwsAsync(theirs.recv(), { code: 'ERR_SOCKET_CLOSED' })
  const number = theirs.release()
  await rejected
  t.not(statusFlags(number) & constants.O_NONBLOCK, 0)
  closeSync(number)
  client.destroy()
  server.close()
  a.close()
  b.close()
})

test.serial('a duplicate shares the open file description and is closed by itself [D9]', (t) => {
  const one = Descriptor.from(openFile('abcdef'))
  const two = one.duplicate()
  t.not(one.fd, two.fd)
  t.true(sameFile(one.fd, two.fd))
  const buffer = Buffer.alloc(3)
  readSync(one.fd, buffer, 0, 3, null)
  one.closeSync()
  t.is(readFileSync(two.fd, 'utf8'), 'def')
  two.closeSync()
})

const fdpass = JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)
const isNode = !('bun' in process.versions || 'deno' in process.versions)
const onNode = onlyIf(isNode && isLinux, "needs Node's own handles, and Linux", test.serial)

/** Code that returns the code of the error of taking over a number, or 'taken'. */
const attempt = `const attempt = (from, number) => {
  try {
    from(number)
    return 'taken'
  } catch (error) {
    return error.code
  }
}`

/** Another thread that evaluates expressions, with the names of fdpass and `number`. */
class Thread {
  readonly #worker: Worker

  constructor(t: ExecutionContext) {
    const program = `const { parentPort } = require('node:worker_threads')
    ${attempt}
    let kept = []
    parentPort.on('message', async ([expression, number]) => {
      const { Descriptor, UnixSocket, memfd } = await import(${fdpass})
      parentPort.postMessage(eval(expression))
    })`
    this.#worker = new Worker(program, { eval: true, trackUnmanagedFds: false })
    t.teardown(() => this.#worker.terminate())
  }

  async evaluate(expression: string, number = -1): Promise<unknown> {
    this.#worker.postMessage([expression, number], [])
    return ((await once(this.#worker, 'message')) as [unknown])[0]
  }

  async end(): Promise<void> {
    await this.#worker.terminate()
  }
}

test.serial('a number that fdpass owns in another thread is refused, until it is released there [S180]', async (t) => {
  const thread = new Thread(t)
  const [a, b] = socketpair()
  const received = memfd({ data: 'ours' })
  using duplicate = received.duplicate()
  for (const number of [received.fd, duplicate.fd]) {
    t.is(await thread.evaluate('attempt(Descriptor.from, number)', number), VALUE)
  }
  t.is(readAll(received.fd), 'ours')
  received.closeSync()

  const number = a.release()
  t.is(await thread.evaluate('attempt((fd) => kept.push(UnixSocket.from(fd)), number)', number), 'taken')
  t.throws(() => UnixSocket.from(number), {
    code: VALUE,
    message: /already owned by fdpass, in this thread or another/
  })
  t.throws(() => Descriptor.from(number), { code: VALUE })
  await b.send('to the other thread')
  t.is(await thread.evaluate('kept.at(-1).release()'), number)
  const again = UnixSocket.from(number)
  t.is(text(await again.recv()), 'to the other thread')
  again.close()
  b.close()
})

test.serial('what a thread owned can be opened again under the same numbers after its end [S180]', async (t) => {
  const thread = new Thread(t)
  const number = Number(await thread.evaluate("kept.push(memfd({ data: 'theirs' })), kept.at(-1).fd"))
  t.throws(() => Descriptor.from(number), { code: VALUE })
  await thread.end()
  t.throws(() => Descriptor.from(number), { code: 'EBADF' })
  const opened: number[] = []
  while (!opened.includes(number)) opened.push(openFile('again'))
  const descriptor = Descriptor.from(number)
  t.is(readAll(descriptor.fd), 'again')
  for (const fd of opened) {
    if (fd !== number) closeSync(fd)
  }
  descriptor.closeSync()
})

onLinux(
  'a number that the program closed itself is not closed for the thread that has it by then [S181]',
  async (t) => {
    const thread = new Thread(t)
    await thread.evaluate('kept.push(memfd())') // everything of that thread is open by now
    for (const close of ['closeSync', 'close', 'dispose'] as const) {
      const descriptor = memfd({ data: 'closed by its number' })
      const number = descriptor.fd
      closeSync(number)
      t.is(await thread.evaluate("kept.push(memfd({ data: 'theirs' })), kept.at(-1).fd"), number)
      if (close === 'closeSync') t.throws(() => descriptor.closeSync(), { code: 'EBADF' })
      else if (close === 'dispose') t.throws(() => descriptor[Symbol.dispose](), { code: 'EBADF' })
      else await descriptor.close()
      const read = "require('node:fs').readFileSync('/proc/self/fd/' + number, 'utf8')"
      t.is(await thread.evaluate(read, number), 'theirs')
    }
  }
)

onNode('the channel to the parent process is refused in each thread, until it is closed [S182]', async (t) => {
  const program = `
    ${attempt}
    const { openSync } = require('node:fs')
    const { Worker } = require('node:worker_threads')
    import(${fdpass}).then(async ({ Descriptor, UnixSocket, socketpair }) => {
      socketpair().forEach((socket) => socket.close())
      const results = [attempt(Descriptor.from, 3), attempt(UnixSocket.from, 3)]
      const code = "import(" + ${JSON.stringify(fdpass)} + ").then(({ UnixSocket }) => " +
        "require('node:worker_threads').parentPort.postMessage(attempt(UnixSocket.from, 3))); " + ${JSON.stringify(attempt)}
      results.push(await new Promise((resolve) => new Worker(code, { eval: true }).once('message', resolve)))
      process.once('message', (message) => {
        process.send(message)
        process.once('disconnect', () => {
          const closed = attempt(Descriptor.from, 3)
          console.log(closed, openSync('/dev/null'), attempt(Descriptor.from, 3))
        })
      })
      console.log(...results)
    })`
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  t.teardown(() => child.kill())
  const exit = once(child, 'exit')
  const lines = createInterface(child.stdout!)[Symbol.asyncIterator]()
  t.is((await lines.next()).value, `${VALUE} ${VALUE} ${VALUE}`)
  const answered = once(child, 'message')
  child.send('not stolen')
  t.deepEqual(await answered, ['not stolen', undefined])
  child.disconnect()
  t.is((await lines.next()).value, 'EBADF 3 taken')
  t.deepEqual(await exit, [0, null])
})

const readingStdin = `
  ${attempt}
  const reason = (from, number) => {
    try {
      from(number)
      return 'taken'
    } catch (error) {
      return error.code + ' ' + /process\\.stdin|Node/.exec(error.message)
    }
  }
  import(${fdpass}).then(({ Descriptor }) => {
    let chunks = 0
    process.stdin.on('data', () => {
      if (chunks++ === 0) console.log(reason(Descriptor.from, 0))
      process.stdin.destroy()
    })
    process.stdin.on('close', () => console.log(attempt((fd) => Descriptor.from(fd).closeSync(), 0)))
  })`

for (const kind of ['pipe', 'socket', 'file'] as const) {
  onNode(`a standard input that is being read is refused, until it is destroyed: a ${kind} [S183]`, async (t) => {
    const [a, b] = socketpair()
    const theirs = Descriptor.from(b.release())
    const [read, write] = pipe()
    const file = memfd({ data: 'input' })
    const stdin = { pipe: read, socket: theirs, file }[kind]
    const child = spawn(process.execPath, ['-e', readingStdin], { stdio: [stdin.fd, 'pipe', 'inherit'] })
    const done = finish(child)
    writeSync(write.fd, 'input')
    await a.send('input')
    t.is(await done, `${VALUE} process.stdin\ntaken\n`)
    for (const open of [read, write, theirs, file]) open.closeSync()
    a.close()
  })
}

const numberOf = (object: object) => (object as { _handle: { fd: number } })._handle.fd

const onUv = onlyIf(isNode && capabilities().backend === 'uv', 'needs the uv back end', test.serial)

onUv('a number that the event loop watches for Node is refused [S184]', async (t) => {
  const path = `${temporaryFolder()}/s`
  const server = createServer().listen(path)
  await once(server, 'listening')
  const client = createConnection(path)
  const [[connection]] = await Promise.all([
    once(server, 'connection') as Promise<[typeof client]>,
    once(client, 'connect')
  ])
  connection.resume()
  const expected = { code: VALUE, message: /in use by Node/ }
  t.throws(() => Descriptor.from(numberOf(server)), expected)
  t.throws(() => UnixSocket.from(numberOf(connection)), expected)
  connection.unref()
  t.throws(() => Descriptor.from(numberOf(connection)), expected)
  client.end('still read')
  const [chunk] = (await once(connection, 'data')) as [Buffer]
  t.is(chunk.toString(), 'still read')
  connection.destroy()
  await new Promise((resolve) => server.close(resolve))
})
