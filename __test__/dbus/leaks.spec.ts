import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { type UnixSocket, listen, socketpair } from 'fdpass'
import { DBusStream, connectBus } from 'fdpass/dbus'
import { UServer, USocket } from 'fdpass/usocket'
import { countFds, openFile, temporaryFolder } from '../helpers/descriptors.ts'

// Serial throughout: each test counts the descriptors of the process before and after.
const path = `${temporaryFolder()}/socket`
const fill = Buffer.alloc(4 * 1024 * 1024)
const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Resolves at an event; errors are part of some scenes. */
function closed(stream: DBusStream | USocket): Promise<void> {
  stream.on('error', () => {})
  return new Promise((resolve) => stream.once('close', resolve))
}

let file: number
test.before(async () => {
  // What the first uses of the event loop and of the thread pool open stays open.
  file = openFile('content')
  await Promise.all(kinds.map((make) => transfer(make)))
})
test.after(() => closeSync(file))

type Stream = DBusStream | USocket
const dbus = (socket: UnixSocket): Stream => new DBusStream(socket)
const usocket = (socket: UnixSocket): Stream => new USocket({ fd: socket.release() })
const kinds = [dbus, usocket]

const write = (stream: Stream, data: Uint8Array | string, fds: number[]) =>
  stream instanceof DBusStream ? stream.writeWithFds(data, fds) : stream.write({ data, fds })

/** Both ends of a pair as streams; both are gone after the scene. */
async function transfer(make: (typeof kinds)[number], scene?: (a: Stream, b: Stream) => unknown): Promise<void> {
  const [a, b] = socketpair().map(make) as [Stream, Stream]
  const ends = [closed(a), closed(b)]
  await turn() // a USocket takes its descriptor over
  if (scene === undefined) {
    b.on('fds', (fds: number[]) => fds.forEach((fd) => closeSync(fd)))
    write(a, 'x', [file, file])
    await new Promise((resolve) => b.once('data', resolve))
  } else {
    await scene(a, b)
  }
  a.destroy()
  b.destroy()
  await Promise.all(ends)
  await turn()
}

const leavesNothing = test.macro(async (t: ExecutionContext, scene: () => unknown) => {
  const before = countFds()
  for (let i = 0; i < 20; i++) await scene()
  t.is(countFds(), before)
})

for (const make of kinds) {
  const name = make === dbus ? 'DBusStream' : 'USocket'
  test.serial(`a transfer over a ${name} leaves nothing open [D2]`, leavesNothing, () => transfer(make))

  test.serial(`a ${name} without a reader leaves nothing open [D3]`, leavesNothing, () =>
    transfer(make, async (a) => {
      write(a, 'x', [file, file])
      await turn()
    })
  )

  test.serial(`a ${name} destroyed with what came to it unread leaves nothing open [D3]`, leavesNothing, () =>
    transfer(make, async (a, b) => {
      write(a, 'x', [file, file])
      b.read(0)
      while (b.readableLength === 0) await turn()
    })
  )

  test.serial(`a ${name} destroyed while a receive has just succeeded leaves nothing open`, leavesNothing, () =>
    transfer(make, async (a, b) => {
      write(a, 'x', [file, file])
      await turn()
      b.read(0)
      b.destroy()
    })
  )

  test.serial(`writes of a ${name} that wait when it is destroyed leave nothing open`, leavesNothing, () =>
    transfer(make, (a) => {
      write(a, fill, [file])
      for (let i = 0; i < 5; i++) write(a, 'waits', [file, file])
    })
  )

  test.serial(`writes of a ${name} whose peer goes leave nothing open`, leavesNothing, () =>
    transfer(make, async (a, b) => {
      write(a, fill, [file])
      for (let i = 0; i < 5; i++) write(a, 'waits', [file, file])
      b.destroy()
      await turn()
    })
  )

  test.serial(`a write of a ${name} that is refused leaves nothing open`, leavesNothing, () =>
    transfer(make, (a) => {
      const none = openFile()
      closeSync(none)
      for (const fds of [[file, none], [file, -1], Array.from({ length: 254 }, () => file)]) {
        try {
          write(a, 'x', fds)
        } catch {
          continue
        }
        throw new Error('It was taken')
      }
      a.cork()
      write(a, 'x', [file])
      write(a, 'y', [file])
    })
  )
}

test.serial('connecting to a bus, and failing to, leaves nothing open', leavesNothing, async () => {
  const server = await listen(path)
  const [stream, socket] = await Promise.all([connectBus(`unix:path=/nobody;unix:path=${path}`), server.accept()])
  const end = closed(stream)
  stream.destroy()
  socket.close()
  server.close()
  await end
  await connectBus(`unix:path=${path}`).then(
    () => Promise.reject(new Error('Connected')),
    () => {}
  )
})

test.serial('a UServer that is closed leaves nothing open, be it before it listens', leavesNothing, async () => {
  const server = new UServer()
  server.listen(path)
  server.close()
  server.listen(path)
  await new Promise<void>((resolve) => server.once('listening', resolve))
  const connection = new Promise<USocket>((resolve) => server.once('connection', resolve))
  const client = new USocket(path)
  const ends = [closed(client), closed(await connection)]
  client.destroy()
  ;(await connection).destroy()
  server.close()
  await Promise.all(ends)
})

test.serial('a USocket that is destroyed while it connects leaves nothing open', leavesNothing, async () => {
  const server = await listen(path)
  const accepted = server.accept()
  const client = new USocket(path)
  client.write({ data: 'x', fds: [file] })
  client.write([file])
  const end = closed(client)
  client.destroy()
  await end
  await turn()
  // It may have connected before.
  server.close()
  await accepted.then(
    (socket) => socket.close(),
    () => {}
  )
})
