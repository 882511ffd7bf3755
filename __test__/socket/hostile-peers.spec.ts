import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Channel, type Descriptor, type Message, listen, memfd, socketpair } from 'fdpass'
import { type BrokerService, connectBroker, serveBroker } from 'fdpass/broker'
import { connectStore, serveStore } from 'fdpass/store'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { type Fixture, fixtureSource, receiveLast, startLimited, startProgram } from '../helpers/processes.ts'
import { until } from '../helpers/inetds.ts'
import { codesOf, isPending } from '../helpers/promises.ts'
import { receiveBytes, text } from '../helpers/sockets.ts'

// Serial: some of these tests count descriptors, and one blocks.
const withPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux', test.serial)
const asRoot = onlyIf(isLinux && process.getuid?.() === 0, 'needs to begin as root on Linux', test.serial)

socketpair().forEach((socket) => socket.close()) // what the reactor needs is open from here on

const folder = temporaryFolder()
let paths = 0
const newPath = () => join(folder, `x${paths++}`)

/** Starts a scene of `hostile.py`; it does not outlive the test. */
function start(t: ExecutionContext, scene: string, ...args: string[]): Fixture {
  const fixture = startProgram('python3', [fixtureSource('hostile.py'), scene, ...args])
  fixture.done.catch(() => {}) // it is killed
  t.teardown(() => {
    fixture.child.kill('SIGKILL')
    fixture.socket.close()
  })
  return fixture
}

/** As `start`, and waits until it has done what it does. */
async function startThere(t: ExecutionContext, scene: string, ...args: string[]): Promise<Fixture> {
  const fixture = start(t, scene, ...args)
  await once(fixture.child.stdout!, 'data')
  return fixture
}

/** Ends a process in the midst of what it does. */
async function kill({ child }: Fixture): Promise<void> {
  const ended = once(child, 'close') // what it said is closed here too
  child.kill('SIGKILL')
  await ended
}

withPython('a peer that is killed while sends wait for it rejects them, and closes what was captured', async (t) => {
  const before = countFds()
  const fixture = await startThere(t, 'silent')
  const { socket } = fixture
  const { read, write } = openPipe()
  const sending = [Buffer.alloc(4 * 1024 * 1024), 'behind it', 'and behind that'].map((data) =>
    socket.send(data, { fds: [write] })
  )
  t.true(await isPending(Promise.race(sending)))
  closeSync(write)
  t.true(hasWriter(read))
  await kill(fixture)
  t.deepEqual(await codesOf(sending), ['EPIPE', 'EPIPE', 'EPIPE'])
  t.false(hasWriter(read))
  socket.close()
  closeSync(read)
  t.true(countFds() <= before)
})

withPython('of a peer that is killed in the middle of its message the half arrives, and then the end', async (t) => {
  const fixture = await startThere(t, 'half_message')
  await kill(fixture)
  const { socket } = fixture
  t.is(text(await socket.recv()), 'half of it')
  t.is(await socket.recv(), null)
})

for (const asks of [false, true]) {
  const title = asks ? 'that has a request unread' : 'that has read all'
  withPython(
    `a peer ${title} and is killed in the middle of a frame ends the channel, and its descriptors are closed`,
    async (t) => {
      const before = countFds()
      const fixture = await startThere(t, 'half_frame')
      const channel = new Channel(fixture.socket)
      const waiting: Promise<unknown>[] = [channel.receive()]
      if (asks) waiting.push(channel.request('question'))
      t.true(await isPending(Promise.race(waiting)))
      await kill(fixture)
      // The kernel reports unread data before the end.
      const code = asks ? 'ECONNRESET' : 'EPROTO'
      t.deepEqual(
        await codesOf(waiting),
        waiting.map(() => code)
      )
      t.is(((await channel.closed) as NodeJS.ErrnoException).code, code)
      t.true(countFds() <= before)
    }
  )
}

withPython(
  'a peer that is killed between its requests and the replies aborts them, and what came with them is closed',
  async (t) => {
    const before = countFds()
    const fixture = await startThere(t, 'asking')
    const channel = new Channel(fixture.socket)
    const aborted: Promise<unknown>[] = []
    const answers: (() => void)[] = []
    channel.onRequest((request) => {
      aborted.push(once(request.signal, 'abort'))
      request.close()
      return new Promise((resolve) => answers.push(() => resolve({ value: 'too late', fds: [memfd()] })))
    })
    while (answers.length < 5) await delay(5)
    t.true(await isPending(Promise.race(aborted)))
    await kill(fixture)
    await Promise.all(aborted)
    for (const answer of answers) answer()
    t.is(await channel.closed, null)
    await delay(0)
    t.true(countFds() <= before)
  }
)

withPython('a peer that is stopped keeps sends and requests waiting, which aborts and timeouts end', async (t) => {
  const { child, socket } = await startThere(t, 'silent')
  child.kill('SIGSTOP')
  const channel = new Channel(socket)
  const controller = new AbortController()
  const sending = channel.send(Buffer.alloc(4 * 1024 * 1024))
  const behind = channel.send('behind it', null, { signal: controller.signal })
  const asking = channel.request('question', null, { timeout: 50 })
  const receiving = channel.receive({ signal: controller.signal })
  t.deepEqual(await codesOf([asking]), ['ETIMEDOUT'])
  t.true(await isPending(Promise.race([sending, behind, receiving])))
  controller.abort()
  t.deepEqual(await codesOf([behind, receiving]), ['ABORT_ERR', 'ABORT_ERR'])
  t.true(await isPending(sending))
  channel.close()
  t.deepEqual(await codesOf([sending]), ['ERR_SOCKET_CLOSED'])
})

withPython('a peer that was stopped gets all that has waited when it goes on', async (t) => {
  const [here, there] = socketpair()
  const { child, socket } = await startThere(t, 'silent')
  child.kill('SIGSTOP')
  // Descriptors in flight belong to no process that could be stopped.
  const length = 2 * 1024 * 1024
  const sending = here.send(Buffer.alloc(length, 'x'), { fds: [socket] })
  t.true(await isPending(sending))
  const { data, fds } = await receiveBytes(there, length)
  t.is(data.length, length)
  t.is(fds.length, 1)
  fds[0]!.closeSync()
  await sending
  child.kill('SIGCONT')
  here.close()
  there.close()
})

withPython(
  'endless messages with 253 descriptors are refused where maxFds is 1, and the table stays level',
  async (t) => {
    const fixture = start(t, 'crowd')
    const { socket } = fixture
    const before = countFds()
    let most = 0
    for (let i = 0; i < 500; i++) {
      await t.throwsAsync(socket.recv({ maxFds: 1, maxBytes: 1 }), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
      most = Math.max(most, countFds())
    }
    t.true(most <= before, `${most} of ${before}`)
    // And of an iterating process that takes none.
    for (let i = 0; i < 20; i++) {
      await t.throwsAsync(socket.messages({ maxFds: 0, maxBytes: 1 }).next(), { code: 'ERR_TOO_MANY_DESCRIPTORS' })
    }
    t.true(countFds() <= before)
    socket.close()
    t.true(Number(await fixture.done) >= 500)
  }
)

withPython(
  'endless messages with 253 descriptors fill at most a quarter of the table of an iterating process',
  async (t) => {
    const { socket } = start(t, 'crowd')
    const before = countFds()
    let count = 0
    for await (const message of socket.messages({ maxBytes: 1 })) {
      t.is(message.fds.length, 253)
      t.true(countFds() - before <= 253 + 250)
      message.close()
      if (++count === 100) break
    }
    socket.close()
    t.true(countFds() <= before)
  }
)

/** Closes a descriptor, which takes two seconds, while the event loop goes on. */
async function assertClosesBeside(t: ExecutionContext, fd: Descriptor): Promise<void> {
  let turns = 0
  const timer = setInterval(() => turns++, 10)
  const since = performance.now()
  await fd.close()
  clearInterval(timer)
  t.true(performance.now() - since > 1500, 'it waits')
  t.true(turns > 50, `${turns} turns`)
}

withPython('close of a descriptor that blocks on unread data does not block the event loop [S19]', async (t) => {
  const { socket } = await startThere(t, 'lingering', '1', '2')
  await assertClosesBeside(t, await receiveLast(socket))
})

withPython('closeSync of such a descriptor blocks, as documented [S19]', async (t) => {
  const { socket } = await startThere(t, 'lingering', '1', '1')
  const fd = await receiveLast(socket)
  const since = performance.now()
  fd.closeSync()
  t.true(performance.now() - since > 500)
})

const canMount = isLinux && spawnSync('python3', [fixtureSource('kernel.py'), 'fuse', temporaryFolder()]).status === 0
onlyIf(
  canMount,
  'needs Python 3.9 on Linux, and the right to mount FUSE',
  test.serial
)('close of a FUSE file with a slow server does not block the event loop [S19]', async (t) => {
  const fixture = startProgram('python3', [fixtureSource('kernel.py'), 'fuse', temporaryFolder(), '2'])
  fixture.done.catch(() => {}) // it is killed
  t.teardown(() => fixture.child.kill('SIGKILL'))
  await assertClosesBeside(t, (await fixture.socket.recvFd())!.fd!)
  fixture.socket.close()
})

/** A broker with one file beneath its root; closed with the test. */
async function serveFile(t: ExecutionContext): Promise<{ path: string; service: BrokerService }> {
  const root = newPath()
  mkdirSync(root)
  writeFileSync(join(root, 'file'), 'inside')
  const path = newPath()
  const service = serveBroker(await listen(path), { roots: [root], allow: () => true })
  t.teardown(() => service.close())
  return { path, service }
}

async function serveEntry(t: ExecutionContext): Promise<string> {
  const path = newPath()
  const service = await serveStore({ path })
  t.teardown(() => service.close())
  const store = await connectStore(path)
  t.teardown(() => store.close())
  const file = openFile('kept')
  await store.put('entry', file)
  closeSync(file)
  return path
}

withPython('noise does not keep a broker from serving others, and nothing of it stays open', async (t) => {
  const { path } = await serveFile(t)
  const broker = await connectBroker(path)
  t.teardown(() => broker.close())
  const read = async () => {
    using file = await broker.open('file')
    return readAll(file.fd)
  }
  t.is(await read(), 'inside')
  const before = countFds()
  for (let seed = 1; seed <= 12; seed++) {
    const { done, socket } = start(t, 'noise', path, `${seed}`)
    socket.close()
    await done
    t.is(await read(), 'inside')
  }
  await until(() => countFds() <= before) // another thread closes the connections
})

withPython('noise does not keep a store from serving others, and nothing of it stays open', async (t) => {
  const path = await serveEntry(t)
  const store = await connectStore(path)
  t.teardown(() => store.close())
  const names = async () => (await store.list()).map(({ name }) => name)
  t.deepEqual(await names(), ['entry'])
  const before = countFds()
  for (let seed = 1; seed <= 12; seed++) {
    const { done, socket } = start(t, 'noise', path, `${seed}`)
    socket.close()
    await done
    t.deepEqual(await names(), ['entry'])
  }
  await until(() => countFds() <= before) // another thread closes the connections
})

withPython('a request that comes byte by byte is answered as any other', async (t) => {
  const path = await serveEntry(t)
  const { done } = start(t, 'dribble', path, '{"ask":"list"}')
  t.regex(await done, /^2 \[\{"name": "entry"/)
  const { path: broker } = await serveFile(t)
  const dribbled = start(t, 'dribble', broker, '{"operation":"open","path":"nothing","flags":0,"mode":0}')
  t.regex(await dribbled.done, /^3 \{.*ENOENT/)
})

asRoot(
  'sockets that were sent over themselves and closed are collected by the kernel, and count no more [S20]',
  async (t) => {
    t.timeout(60_000)
    // 64 descriptors of a user may be in flight: those of 16 rounds. On a quiet machine no other process closes a socket, which makes the kernel collect.
    const { done, socket } = startLimited(64, 'in-flight', ['collected', '400'])
    t.is(await done, 'collected\n')
    socket.close()
  }
)

test.serial(
  'a message whose descriptors are sockets with messages of their own is closed with all of them',
  async (t) => {
    const before = countFds()
    const { read, write } = openPipe() // which is read without waiting
    let [outer, inner] = socketpair()
    await outer.sendFd(write)
    closeSync(write)
    for (let depth = 0; depth < 3; depth++) {
      const [a, b] = socketpair()
      await a.sendFd(inner)
      inner.close()
      outer.close()
      outer = a
      inner = b
    }
    const message: Message = (await inner.recv())!
    t.is(message.fds.length, 1)
    message.close()
    inner.close()
    outer.close()
    // What was nested is closed by the kernel a little later.
    const deadline = performance.now() + 30_000
    while (hasWriter(read) && performance.now() < deadline) await delay(5)
    t.false(hasWriter(read))
    closeSync(read)
    t.true(countFds() <= before)
  }
)
