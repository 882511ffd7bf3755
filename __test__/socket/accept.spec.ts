import { spawn } from 'node:child_process'
import { closeSync, existsSync } from 'node:fs'
import test from 'ava'
import { Descriptor, UnixServer, UnixSocket, capabilities, connect, listen, sendFd, socketpair } from 'fdpass'
import { fdLimit, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath, openFile } from '../helpers/descriptors.ts'
import { finish, startLimited, startPython } from '../helpers/processes.ts'
import { isPending, turns } from '../helpers/promises.ts'
import { hasEnded, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const serialWithPython = onlyIf(hasPython && fdLimit > 10_100, 'needs Python 3.9 and ulimit -n 10,100', test.serial)

const withPython = onlyIf(hasPython, 'needs Python 3.9')

// A thread-safe function hands on all reports that come while one is served, up to 1,000, before the loop turns.
const onUv = onlyIf(capabilities().backend === 'uv', 'needs the uv back end')

const types = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

for (const type of types) {
  test(`connections are accepted in order, with what was sent before, type ${type} [B12.1]`, async (t) => {
    const server = await listen(newPath(), { type })
    t.is(server.type, type)
    const file = openFile('early')
    const clients: UnixSocket[] = []
    for (let i = 0; i < 100; i++) {
      const client = await connect(server.address, { type })
      await client.send(`${i}`, { fds: [file] })
      clients.push(client)
    }
    closeSync(file)
    const order: (string | null)[] = []
    for await (const connection of server) {
      t.is(connection.type, type)
      using message = (await connection.recv())!
      order.push(text(message))
      t.is(message.fds.length, 1)
      connection.close()
      if (order.length === 100) break
    }
    t.deepEqual(
      order,
      clients.map((_, i) => `${i}`)
    )
    for (const client of clients) client.close()
    server.close()
  })
}

for (const way of ['iteration', 'accept'] as const) {
  serialWithPython(`10,000 connections opened as fast as possible are all accepted, by ${way}`, async (t) => {
    const server = await listen(newPath())
    const { socket, done } = startPython('flood', [server.address, '10000'])
    let accepted = 0
    let turnsOfTheLoop = 0
    const beat = setInterval(() => turnsOfTheLoop++)
    const answer = async (connection: UnixSocket) => {
      await connection.send(`${accepted++}`)
      connection.close()
    }
    if (way === 'accept') {
      for (let i = 0; i < 10_000; i++) await answer(await server.accept())
    } else {
      for await (const connection of server) {
        await answer(connection)
        if (accepted === 10_000) break
      }
    }
    t.is(await done, '10000 answers, in order\n')
    t.true(turnsOfTheLoop > 0, 'a flood does not starve timers')
    clearInterval(beat)
    socket.close()
    server.close()
  })
}

for (const way of ['iteration', 'accept'] as const) {
  onUv(`a long backlog leaves the event loop its turns, by ${way}`, async (t) => {
    const server = await listen(newPath(), { backlog: 2000 })
    const clients: UnixSocket[] = []
    for (let i = 0; i < 1000; i++) clients.push(await connect(server.address))
    let [accepted, since, most, running] = [0, 0, 0, true]
    const turn = () => {
      most = Math.max(most, since)
      since = 0
      if (running) setImmediate(turn)
    }
    setImmediate(turn)
    const count = (connection: UnixSocket) => {
      connection.close()
      accepted++
      since++
    }
    if (way === 'accept') {
      for (let i = 0; i < 1000; i++) count(await server.accept())
    } else {
      for await (const connection of server) {
        count(connection)
        if (accepted === 1000) break
      }
    }
    running = false
    t.true(most > 0 && most < 300, `${most} connections between two turns`)
    for (const client of clients) client.close()
    server.close()
  })
}

withPython('a listener that another process makes blocking does not block this one [S54]', async (t) => {
  const server = await listen(newPath())
  const { socket, done } = startPython('make_blocking')
  await socket.sendFd(server)
  await done
  for (let i = 0; i < 30; i++) {
    const [client, connection] = await Promise.all([connect(server.address), server.accept()])
    client.close()
    connection.close()
  }
  const clients = [await connect(server.address), await connect(server.address)]
  for await (const connection of server) {
    connection.close()
    break
  }
  t.true(await isPending(server.accept().then((connection) => (connection.close(), server.accept()))))
  for (const each of [...clients, socket]) each.close()
  server.close()
})

test('several accepts at once each get a connection, in order', async (t) => {
  const server = await listen(newPath())
  const waiting = Array.from({ length: 10 }, () => server.accept())
  const clients: UnixSocket[] = []
  for (let i = 0; i < 10; i++) {
    clients.push(await connect(server.address))
    await clients[i]!.send(`${i}`)
  }
  const connections = await Promise.all(waiting)
  for (const [i, connection] of connections.entries()) t.is(text(await connection.recv()), `${i}`)
  for (const socket of [...clients, ...connections]) socket.close()
  server.close()
})

test('an accept that is aborted loses no connection', async (t) => {
  const server = await listen(newPath())
  const abort = new AbortController()
  const waiting = server.accept({ signal: abort.signal })
  const client = await connect(server.address)
  abort.abort()
  await t.throwsAsync(waiting, { name: 'AbortError', code: 'ABORT_ERR' })
  await t.throwsAsync(server.accept({ signal: abort.signal }), { name: 'AbortError' })
  const connection = await server.accept()
  await client.send('x')
  t.is(text(await connection.recv()), 'x')
  for (const socket of [client, connection, server]) socket.close()
})

test('what an iteration accepted ahead belongs to the server: taken by the next, closed with it', async (t) => {
  const server = await listen(newPath())
  const clients = await Promise.all(Array.from({ length: 20 }, () => connect(server.address)))
  const taken: UnixSocket[] = []
  for await (const connection of server) {
    taken.push(connection)
    if (taken.length === 2) break
  }
  t.throws(() => server.release(), { code: 'ERR_SOCKET_NOT_EMPTY', message: /18 connections/ })
  taken.push(await server.accept())
  for await (const connection of server) {
    taken.push(connection)
    if (taken.length === 10) break
  }
  server.close()
  for (const [i, connection] of taken.entries()) await connection.send(`${i}`)
  for (const [i, client] of clients.entries()) {
    if (i < 10) t.is(text(await client.recv()), `${i}`)
    else t.true(await hasEnded(client))
  }
  for (const socket of [...clients, ...taken]) socket.close()
})

test("an iteration ends with the server's close, and accepts reject", async (t) => {
  const server = await listen(newPath())
  const seen: UnixSocket[] = []
  const iterating = (async () => {
    for await (const connection of server) seen.push(connection)
  })()
  const client = await connect(server.address)
  await turns()
  const waiting = server.accept()
  server.close()
  await iterating
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.is(seen.length, 1)
  await t.throwsAsync(server.accept(), { code: 'ERR_SOCKET_CLOSED' })
  for await (const _ of server) t.fail()
  t.true(server.closed)
  t.notThrows(() => server.close())
  client.close()
  seen[0]!.close()
})

test('using and await using close a server', async (t) => {
  const path = newPath()
  {
    using server = await listen(path)
    t.true(existsSync(server.address))
  }
  t.false(existsSync(path))
  {
    await using server = await listen(path)
    t.true(existsSync(server.address))
  }
  t.false(existsSync(path))
})

test('a full descriptor table is reported, the connection waits, and is accepted once there is room [S70]', async (t) => {
  const { socket, done } = startLimited(64, 'tables', ['accept', newPath()])
  socket.close()
  t.is(await done, 'EMFILE\nEMFILE\naccepted 1\naccepted 2\n')
})

test('a server can be sent, and is taken over as a descriptor', async (t) => {
  const server = await listen(newPath())
  const [a, b] = socketpair()
  await sendFd(a, server)
  const { fd } = (await b.recvFd())!
  t.throws(() => UnixSocket.from(fd!), { code: 'ERR_INVALID_ARG_VALUE', message: /listening/ })
  t.throws(() => UnixSocket.from(fd!.duplicate().release()), { code: 'ERR_INVALID_ARG_VALUE' })
  t.true(fd instanceof Descriptor && server instanceof UnixServer)
  fd!.closeSync()
  a.close()
  b.close()
  server.close()
})

onLinux('a listener and its connections are close-on-exec [D10] [S9]', async (t) => {
  const server = await listen(newPath())
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  const child = spawn('ls', ['-l', '/proc/self/fd'], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.notRegex(await finish(child), / ([3-9]|\d\d+) -> socket:/)
  for (const socket of [client, connection, server]) socket.close()
})

test('a connection that is open is served although the server is closed', async (t) => {
  const server = await listen(newPath())
  const [client, connection] = await Promise.all([connect(server.address), server.accept()])
  server.close()
  await client.send('x')
  t.is(text(await connection.recv()), 'x')
  client.close()
  connection.close()
})
