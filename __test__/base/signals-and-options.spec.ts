import { closeSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { UnixSocket, bind, connect, listen, socketpair } from 'fdpass'
import { CLOSED, TYPE, loose, rejects, unchanged } from '../helpers/arguments.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, newFolder, openFile } from '../helpers/descriptors.ts'
import { startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { areConnected, closeAtLast, takesConnections, takesDatagrams, openFirstSockets } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'Linux only', test.serial)

test.before('what the first socket opens stays open', openFirstSockets)

test.serial('a signal that has been aborted ends an operation before it begins', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'datagram'))
  const sender = bind(null)
  const reason = new Error('the reason')
  const signal = AbortSignal.abort(reason)
  await unchanged(t, folder, async () => {
    for (const call of [
      () => connect(server.address, { signal }),
      () => connect(server.address, { signal, localAddress: join(folder, 'local') }),
      () => server.accept({ signal }),
      () => sender.send('x', { signal, to: receiver.localAddress! })
    ]) {
      const error = await t.throwsAsync(call(), { name: 'AbortError', code: 'ABORT_ERR' })
      t.is(error!.cause, reason)
    }
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  for (const socket of [server, receiver, sender]) socket.close()
})

onLinux('connect that is ended while it waits for room leaves no local address behind', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'server'), { backlog: 0 })
  const first = await connect(server.address)
  await unchanged(t, folder, async () => {
    const controller = new AbortController()
    const waiting = connect(server.address, { signal: controller.signal, localAddress: join(folder, 'local') })
    t.true(await isPending(waiting))
    t.true(readdirSync(folder).includes('local'))
    controller.abort()
    await t.throwsAsync(waiting, { name: 'AbortError' })
  })
  ;(await server.accept()).close()
  await takesConnections(t, server)
  first.close()
  server.close()
})

onLinux('what only looks like a signal is refused where it would be listened to', async (t) => {
  const { socket, done } = startFixture('failing-calls', ['signal', join(newFolder(), 'socket')], { timeout: 20_000 })
  socket.close()
  await t.notThrowsAsync(async () => t.is(JSON.parse(await done)[0], TYPE))
})

test.serial('what only looks like a signal leaves no duplicates of descriptors behind', async (t) => {
  const [a, b] = socketpair()
  const file = openFile()
  t.teardown(() => a.close()) // or what waits would keep the process alive after a failure
  const filler = t.throwsAsync(a.send(Buffer.alloc(4 * 1024 * 1024)), { code: CLOSED })
  t.true(await isPending(filler))
  const open = countFds()
  const signal = { aborted: false, addEventListener: 5 }
  await rejects(t, 'send', undefined, () => loose(a, 'send')('x', { fds: [file, file], signal }))
  t.is(countFds(), open)
  a.close()
  await filler
  b.close()
  closeSync(file)
})

test.serial('what an option throws when it is read is what comes of it', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'datagram'))
  const thrown = new Error('thrown by an option')
  const failing = (name: string) =>
    Object.defineProperty({}, name, {
      get: () => {
        throw thrown
      }
    })
  await unchanged(t, folder, async () => {
    for (const name of ['type', 'mode', 'backlog', 'descriptors', 'allow', 'credentials', 'pidfd']) {
      t.is(await t.throwsAsync(listen(path, failing(name))), thrown, name)
    }
    for (const name of ['type', 'localAddress', 'credentials', 'pidfd', 'signal']) {
      t.is(await t.throwsAsync(connect(server.address, failing(name))), thrown, name)
    }
    for (const name of ['mode', 'credentials', 'pidfd']) t.throws(() => bind(path, failing(name)), { is: thrown }, name)
    for (const name of ['type', 'credentials', 'pidfd']) t.throws(() => socketpair(failing(name)), { is: thrown }, name)
    for (const name of ['to', 'credentials', 'signal', 'fds']) {
      t.is(await t.throwsAsync(receiver.send('x', failing(name))), thrown, name)
    }
    for (const name of ['pid', 'uid', 'gid']) {
      const credentials = Object.defineProperties(
        { pid: 1, uid: 0, gid: 0 },
        Object.getOwnPropertyDescriptors(failing(name))
      )
      t.is(await t.throwsAsync(receiver.send('x', { to: receiver.localAddress!, credentials })), thrown, name)
    }
    t.is(await t.throwsAsync(server.accept(failing('signal'))), thrown)
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  server.close()
  receiver.close()
})

for (const name of ['to', 'credentials', 'fds', 'signal']) {
  test.serial(
    `a socket that is closed while options.${name} is read sends nothing, nor does its number's next owner`,
    async (t) => {
      const [a, b] = socketpair({ type: 'dgram' })
      let others: UnixSocket[] = []
      const closing = Object.defineProperty({}, name, {
        get: () => {
          a.close()
          others = socketpair({ type: 'dgram' })
          closeAtLast(t, ...others)
          return undefined
        }
      })
      closeAtLast(t, a, b)
      await rejects(t, name, CLOSED, () => a.send('not to be sent', closing))
      await areConnected(t, others[0]!, others[1]!)
    }
  )
}
