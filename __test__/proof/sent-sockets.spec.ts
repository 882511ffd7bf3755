import { once } from 'node:events'
import { readSync } from 'node:fs'
import { type Socket, connect as dial } from 'node:net'
import type { ExecutionContext } from 'ava'
import { type FdSource, type SocketType, UnixSocket, connect, listen, pipe, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newPath } from '../helpers/descriptors.ts'
import { openPty } from '../helpers/kinds.ts'
import { play } from '../helpers/processes.ts'
import { isReleased, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const withPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

const types: readonly SocketType[] =
  process.platform === 'darwin' ? ['stream', 'dgram'] : ['stream', 'seqpacket', 'dgram']

/** Each edge of a graph: this socket is sent to that one. */
type Graph = readonly (readonly [sent: number, to: number])[]

/** Sends receiving ends to each other along the edges of a graph, each twice and with a pipe's end; then closes all. */
async function release(
  t: ExecutionContext,
  graph: Graph,
  open: () => Promise<{ receiver: FdSource & Disposable; sender: UnixSocket }>
): Promise<void> {
  const [read, write] = pipe()
  read.setBlocking(false)
  const ends = []
  for (let i = 0; i <= Math.max(...graph.flat()); i++) ends.push(await open())
  for (const [sent, to] of graph) {
    const { receiver } = ends[sent]!
    await ends[to]!.sender.send('x', { fds: [receiver, receiver, write] })
  }
  write.closeSync()
  t.true(hasWriter(read.fd), 'it is on its way')
  for (const { receiver, sender } of ends) {
    receiver[Symbol.dispose]()
    sender.close()
  }
  t.true(await isReleased(read.fd))
  read.closeSync()
}

const graphs: Readonly<Record<string, Graph>> = {
  self_ref: [[0, 0]],
  triangle: [
    [0, 1],
    [1, 2],
    [2, 0]
  ],
  cross_edge: [
    [0, 1],
    [1, 2],
    [2, 0],
    [1, 3],
    [3, 2]
  ],
  backtrack_from_scc: [
    [0, 1],
    [0, 4],
    [1, 2],
    [2, 3],
    [3, 1]
  ]
}

for (const [name, graph] of Object.entries(graphs)) {
  for (const type of types) {
    onLinux(
      `${type} sockets that were sent over each other are freed with what they carry (Linux scm_rights ${name}) [D11.3] [S20]`,
      async (t) => {
        await release(t, graph, () => {
          const [receiver, sender] = socketpair({ type })
          return Promise.resolve({ receiver, sender })
        })
      }
    )
  }
  onLinux(
    `listeners that were sent over unaccepted connections are freed with what they carry (Linux scm_rights ${name}) [D11.4]`,
    async (t) => {
      await release(t, graph, async () => {
        const receiver = await listen(newPath())
        return { receiver, sender: await connect(receiver.address) }
      })
    }
  )
}

withPython('four sockets of one message of one byte all come, and work (libuv pipe_sendmsg) [A13]', async (t) => {
  const { socket, done } = play('four_sockets')
  const message = (await socket.recv())!
  await done
  t.is(text(message), 'X')
  t.deepEqual(
    message.fds.map(({ kind }) => kind),
    Array<string>(4).fill('unix-stream')
  )
  const sockets = message.fds.map((fd) => UnixSocket.from(fd))
  const [a, b, c, d] = sockets as [UnixSocket, UnixSocket, UnixSocket, UnixSocket]
  await a.send('first pair')
  t.is(text(await b.recv()), 'first pair')
  await d.send('second pair')
  t.is(text(await c.recv()), 'second pair')
  for (const each of [...sockets, socket]) each.close()
})

withPython(
  'a socket that begins to listen after it was sent accepts here (libuv ipc_listen_after_write) [A10.2]',
  async (t) => {
    const { socket, done } = play('listen_later')
    const message = (await socket.recv())!
    const port = Number(text(message))
    await t.throwsAsync(once(dial(port, '127.0.0.1'), 'connect'), { code: 'ECONNREFUSED' })
    await socket.send('!')
    t.is(text(await socket.recv()), 'listens')
    const server = await message.fds[0]!.toServer()
    await done
    const client = dial(port, '127.0.0.1')
    const [connection] = (await once(server, 'connection')) as [Socket]
    connection.end('accepted')
    t.is(String(await once(client, 'data')), 'accepted')
    client.destroy()
    server.close()
    socket.close()
  }
)

withPython('a device that was not received is closed with both ends (FreeBSD devfs_orphan) [A9.1]', async (t) => {
  const [master, slave] = await openPty()
  const [a, b] = socketpair()
  await a.sendFd(slave)
  slave.closeSync()
  master.setBlocking(false)
  t.throws(() => readSync(master.fd, Buffer.alloc(1)), { code: 'EAGAIN' }, 'a terminal that somebody has')
  a.close()
  b.close()
  t.throws(() => readSync(master.fd, Buffer.alloc(1)), { code: 'EIO' }, 'a terminal that nobody has')
  master.closeSync()
})
