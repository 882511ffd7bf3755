import { AsyncLocalStorage } from 'node:async_hooks'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import test from 'ava'
import { type UnixSocket, socketpair } from 'fdpass'
import { fdLimit, onlyIf } from '../helpers/conditions.ts'
import { openFile, sameFile, temporaryFolder } from '../helpers/descriptors.ts'
import { finish, fixturePath, startFixture } from '../helpers/processes.ts'
import { turns } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

// Serial throughout: a test that keeps the event loop busy would slow the others down.
const large = Buffer.alloc(4 * 1024 * 1024)

/** What the event loop has to get done beside a busy socket: a timer, an immediate, and I/O of others. */
async function others(): Promise<{ done: () => boolean; close: () => void }> {
  let open = 4
  const finished = () => open--
  setTimeout(finished, 1)
  setImmediate(finished)
  const [a, b] = socketpair()
  const waiting = b.recv()
  await turns(1)
  void waiting.then(finished)
  void a.send('x')
  const path = join(temporaryFolder(), 's')
  const server = createServer((socket) => socket.end()).listen(path)
  await once(server, 'listening')
  connect(path, finished).resume()
  return {
    done: () => open === 0,
    close() {
      a.close()
      b.close()
      server.close()
    }
  }
}

/** Operations that never have to wait, one awaited after the other, until the others are done. */
const busy: Record<string, (done: () => boolean) => Promise<boolean>> = {
  async receives(done) {
    for (let round = 0; round < 20 && !done(); round++) {
      const [a, b] = socketpair()
      await a.send(Buffer.alloc(150_000))
      for (let i = 0; i < 150_000 && !done(); i++) await b.recv({ maxBytes: 1 })
      a.close()
      b.close()
    }
    return done()
  },

  async iterations(done) {
    for (let round = 0; round < 20 && !done(); round++) {
      const [a, b] = socketpair()
      await a.send(Buffer.alloc(150_000))
      a.close()
      for await (const _ of b.messages({ maxBytes: 1 })) if (done()) break
      b.close()
    }
    return done()
  },

  async sends(done) {
    const [a, b] = socketpair()
    const sockets: UnixSocket[] = [a, b]
    // A socket takes more than 200 small messages that are not read.
    for (let pair = 0; pair < 400 && !done(); pair++) {
      const ends = socketpair()
      sockets.push(...ends)
      for (let i = 0; i < 200 && !done(); i++) await ends[0].send('x')
    }
    for (const socket of sockets) socket.close()
    return done()
  },

  async both(done) {
    const [a, b] = socketpair()
    for (let i = 0; i < 1_000_000 && !done(); i++) {
      await a.send('x')
      await b.recv()
    }
    a.close()
    b.close()
    return done()
  },

  async descriptors(done) {
    const [a, b] = socketpair()
    const file = openFile()
    for (let i = 0; i < 1_000_000 && !done(); i++) {
      await a.sendFd(file)
      ;(await b.recvFd())!.fd!.closeSync()
    }
    closeSync(file)
    a.close()
    b.close()
    return done()
  },

  async ends(done) {
    const [a, b] = socketpair()
    a.close()
    for (let i = 0; i < 1_000_000 && !done(); i++) await b.recv()
    b.close()
    return done()
  }
}

for (const [name, run] of Object.entries(busy)) {
  test.serial(
    `a loop of ${name} that never wait lets timers, immediates and other sockets run [E5] [S73]`,
    async (t) => {
      const { done, close } = await others()
      t.true(await run(done))
      close()
    }
  )
}

test.serial('sends that never wait give way to an immediate within a few hundred [E5]', async (t) => {
  const [a, b] = socketpair()
  let immediate = false
  setImmediate(() => (immediate = true))
  for (let i = 0; i < 200; i++) await a.send('x')
  t.true(immediate)
  a.close()
  b.close()
})

test.serial('AsyncLocalStorage is kept across every operation, at once or after waiting [E6]', async (t) => {
  const storage = new AsyncLocalStorage<string>()
  const session = (name: string) =>
    storage.run(name, async () => {
      const [a, b] = socketpair()
      for (let i = 0; i < 100; i++) {
        await a.send('x')
        t.is(storage.getStore(), name)
        await b.recv()
        t.is(storage.getStore(), name)
      }
      const waiting = b.recv()
      setImmediate(() => void a.send('y'))
      await waiting
      t.is(storage.getStore(), name)

      const reading = (async () => {
        let bytes = 0
        for await (const { data } of b) {
          t.is(storage.getStore(), name)
          bytes += data.length
        }
        t.is(storage.getStore(), name)
        return bytes
      })()
      await a.send(large)
      t.is(storage.getStore(), name)
      await turn()
      a.close()
      t.is(await reading, large.length)
      t.is(storage.getStore(), name)

      const [c, d] = socketpair()
      const aborted = d.recvFd({ signal: AbortSignal.timeout(1) }).catch(() => storage.getStore())
      t.is(await aborted, name)
      const closed = c.recv().catch(() => storage.getStore())
      storage.run('of the closer', () => c.close())
      t.is(await closed, name)
      b.close()
      d.close()
    })
  await Promise.all(['one', 'two', 'three'].map(session))
  t.is(storage.getStore(), undefined)
})

test.serial(
  'the listener of a signal that ends an operation keeps the AsyncLocalStorage of the await [E6]',
  async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const [a, b] = socketpair()
    const controller = new AbortController()
    const waiting = storage.run('receiver', async () => {
      await b.recv({ signal: controller.signal }).catch(() => {})
      return storage.getStore()
    })
    storage.run('aborter', () => controller.abort())
    t.is(await waiting, 'receiver')
    a.close()
    b.close()
  }
)

const failures: Record<string, [title: string, output: string]> = {
  rejection: [
    "a rejection that nobody handles is the program's, and other sockets go on [E6]",
    'unhandledRejection after a receive\ny\n'
  ],
  exception: [
    'an uncaught exception is reported once each, and both sockets go on [E6]',
    'uncaughtException in a tick after a receive\nuncaughtException in a tick after a receive\n1,2\n'
  ]
}
for (const [scenario, [title, output]] of Object.entries(failures)) {
  test.serial(title, async (t) => {
    const args = [...process.execArgv, fixturePath('failures'), scenario]
    const got = await finish(spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] }))
    t.is(got, output)
  })
}

test.serial('an unhandled rejection ends a program with its error [E7]', async (t) => {
  const args = [...process.execArgv, fixturePath('failures'), 'unwatched']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (errors += chunk))
  await t.throwsAsync(finish(child), { message: /ended with code 1: $/ })
  t.regex(errors, /ERR_SOCKET_CLOSED/)
})

async function outerFunction(operation: () => Promise<unknown>): Promise<void> {
  await innerFunction(operation)
}

async function innerFunction(operation: () => Promise<unknown>): Promise<void> {
  await operation()
}

async function iteratingFunction(socket: UnixSocket, signal?: AbortSignal): Promise<void> {
  for await (const message of socket.messages({ maxFds: 0, signal })) message.close()
}

test.serial('the error of an operation that waited names the functions that await it [E7]', async (t) => {
  const named = async (operation: Promise<unknown>, code: string, name = 'innerFunction') => {
    const error = (await t.throwsAsync(operation, { code }))!
    t.regex(error.stack!, new RegExp(`at (?:async )?${name} `))
    if (name === 'innerFunction') t.regex(error.stack!, /at (?:async )?outerFunction /)
  }
  const [a, b] = socketpair()
  const controller = new AbortController()
  const { signal } = controller

  const aborted = [() => a.recv({ signal }), () => a.recvFd({ signal }), () => a.send(large, { signal })].map(
    outerFunction
  )
  const abortedIteration = iteratingFunction(a, signal)
  await turns()
  controller.abort()
  for (const operation of aborted) await named(operation, 'ABORT_ERR')
  await named(abortedIteration, 'ABORT_ERR', 'iteratingFunction')
  a.close()
  b.close()

  const [c, d] = socketpair()
  const closed = [() => c.recv(), () => c.recvFd(), () => c.send(large), () => c.sendFd(0)].map(outerFunction)
  await turns()
  c.close()
  for (const operation of closed) await named(operation, 'ERR_SOCKET_CLOSED')
  d.close()

  const [e, f] = socketpair()
  const broken = [() => e.send(large), () => e.sendFd(0)].map(outerFunction)
  await turns()
  f.close()
  for (const operation of broken) await named(operation, 'EPIPE')
  await named(
    outerFunction(() => e.send('x')),
    'EPIPE'
  )
  e.close()

  const [g, h] = socketpair()
  const refused = outerFunction(() => h.recv({ maxFds: 0 }))
  const refusedIteration = iteratingFunction(h)
  await turns()
  await g.sendFd(0)
  await named(refused, 'ERR_TOO_MANY_DESCRIPTORS')
  await g.sendFd(0)
  await named(refusedIteration, 'ERR_TOO_MANY_DESCRIPTORS', 'iteratingFunction')
  await g.send('unread')
  const reset = outerFunction(() => g.recv())
  await turns()
  h.close()
  await named(reset, 'ECONNRESET')
  g.close()
})

const withManyNumbers = onlyIf(fdLimit >= 11_000, 'ulimit -n is less than 11,000', test.serial)
withManyNumbers('10,000 idle sockets do not disturb a busy one [E9]', async (t) => {
  const pairs = Array.from({ length: 5000 }, () => socketpair())
  const waiting = pairs.map(([, b]) => b.recv())
  const otherEnds = pairs.map(([a]) => a.recv())
  const [a, b] = socketpair()
  const file = openFile('busy')
  for (let i = 0; i < 1000; i++) {
    const received = b.recvFd()
    await a.sendFd(file, String(i))
    const message = (await received)!
    t.is(text(message), String(i))
    message[Symbol.dispose]()
  }
  for (const i of [0, 2500, 4999]) {
    await pairs[i]![0].send(`to ${i}`)
    t.is(text(await waiting[i]!), `to ${i}`)
  }
  closeSync(file)
  for (const socket of [a, b, ...pairs.flat()]) socket.close()
  const settled = await Promise.allSettled([...waiting, ...otherEnds])
  t.is(settled.filter(({ status }) => status === 'fulfilled').length, 3)
})

test.serial('a storm of signals loses and repeats nothing [E8]', async (t) => {
  const { socket, child, done } = startFixture('peer', ['echo'])
  t.is(text(await socket.recv()), 'ready') // without a listener Node takes SIGUSR1 for a wish to debug
  const storm = spawn('sh', ['-c', `while kill -USR1 ${child.pid}; do :; done 2>/dev/null`], { stdio: 'ignore' })
  const files = Array.from({ length: 4 }, (_, i) => openFile(`file ${i}`))
  const content = Buffer.from(Array.from({ length: 1_000_000 }, (_, i) => i % 249))
  const sending = (async () => {
    for (let i = 0; i < 500; i++) await socket.sendFd(files[i % 4]!, String(i).padStart(3, '0'))
    await socket.send(content)
    socket.shutdown('write')
  })()
  const echoed: Uint8Array[] = []
  let descriptors = 0
  for await (const message of socket) {
    for (const { fd } of message.fds) t.true(sameFile(fd, files[descriptors++ % 4]!))
    message.close()
    echoed.push(message.data)
  }
  await sending
  t.is(descriptors, 500)
  const numbers = Array.from({ length: 500 }, (_, i) => String(i).padStart(3, '0')).join('')
  t.true(Buffer.concat(echoed).equals(Buffer.concat([Buffer.from(numbers), content])))
  storm.kill()
  await once(storm, 'exit')
  child.kill('SIGUSR2') // a signal after the child's listener is gone would end it
  t.regex(await done, /^\d+\n$/)
  for (const file of files) closeSync(file)
  socket.close()
})

test.serial('100,000 descriptors reach a slow reader in another process, in order, and none leaks [E5]', async (t) => {
  const { socket, done } = startFixture('peer', ['count'])
  const files = Array.from({ length: 16 }, (_, i) => openFile(String(i)))
  await socket.send('files', { fds: files })
  let sent = 0
  while (sent < 100_000) {
    // Messages of 1 to 50 descriptors, some of them not waited for.
    const sends: Promise<void>[] = []
    for (let i = 0; i < 8 && sent < 100_000; i++) {
      const size = Math.min(1 + (sent % 50), 100_000 - sent)
      const from = sent
      sends.push(socket.send('x', { fds: Array.from({ length: size }, (_, j) => files[(from + j) % 16]!) }))
      sent += size
    }
    await Promise.all(sends)
  }
  socket.close()
  t.is(await done, '100000\n')
  for (const file of files) closeSync(file)
})
