import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { type AddressInfo, Server, Socket, connect as connectNode } from 'node:net'
import { join } from 'node:path'
import { TLSSocket } from 'node:tls'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, UnixSocket, connect, listen, socketpair } from 'fdpass'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { finish } from '../helpers/processes.ts'
import { turns } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const onNode = onlyIf(
  !('bun' in process.versions || 'deno' in process.versions),
  "needs the handle in Node's net.Socket"
)
const serialOnNode = onlyIf(
  !('bun' in process.versions || 'deno' in process.versions),
  "needs the handle in Node's net.Socket",
  test.serial
)
const withPython = onlyIf(hasPython, 'needs Python 3.9')

const folder = temporaryFolder()
let names = 0
const newPath = () => join(folder, `socket-${names++}`)

/** One of Node's servers, which does not read what it accepts. */
async function nodeServer(onConnection: (socket: Socket) => void, address?: { port: number }): Promise<Server> {
  const server = new Server({ pauseOnConnect: true }, onConnection)
  if (address === undefined) server.listen(newPath())
  else server.listen(address)
  await once(server, 'listening')
  return server
}

async function closeServer(server: Server): Promise<void> {
  await new Promise((resolve) => server.close(resolve))
}

/** Descriptors and bytes in both directions. */
async function exchange(t: ExecutionContext, a: UnixSocket, b: UnixSocket): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a]
  ] as const) {
    const file = openFile('contents')
    await from.sendFd(file, 'with a descriptor')
    closeSync(file)
    using received = (await to.recvFd())!
    t.is(text(received), 'with a descriptor')
    t.is(readAll(received.fd!.fd), 'contents')
  }
}

onNode("a connection that Node's server accepted is taken over, with what was sent before [D9]", async (t) => {
  let resolve!: (pair: [Socket, UnixSocket]) => void
  const accepted = new Promise<[Socket, UnixSocket]>((given) => (resolve = given))
  const server = await nodeServer((node) => resolve([node, UnixSocket.from(node)]))
  const client = await connect(server.address() as string)
  const file = openFile('early')
  await client.sendFd(file, 'sent before it was accepted')
  closeSync(file)
  const [node, socket] = await accepted
  t.true(node.destroyed)
  t.is(socket.type, 'stream')
  using early = (await socket.recvFd())!
  t.is(text(early), 'sent before it was accepted')
  t.is(readAll(early.fd!.fd), 'early')
  await exchange(t, client, socket)
  // Node counts it as closed, and does not close it.
  await closeServer(server)
  await exchange(t, client, socket)
  client.close()
  t.is(await socket.recv(), null)
  socket.close()
})

onNode("a connection that Node's net.connect made is taken over in 'connect' [D9]", async (t) => {
  const server = await listen(newPath())
  const node = connectNode(server.address)
  const taken = new Promise<UnixSocket>((resolve, reject) => {
    node.once('connect', () => {
      try {
        resolve(UnixSocket.from(node))
      } catch (error) {
        reject(error as Error)
      }
    })
  })
  const connection = await server.accept()
  const file = openFile('at once')
  await connection.sendFd(file)
  closeSync(file)
  const socket = await taken
  t.true(node.destroyed)
  using received = (await socket.recvFd())!
  t.is(readAll(received.fd!.fd), 'at once')
  await exchange(t, socket, connection)
  for (const each of [socket, connection, server]) each.close()
})

serialOnNode(
  'what is taken over from Node is closed once, and what closes of Node closes nothing else [D9]',
  async (t) => {
    const server = await listen(newPath())
    const before = countFds()
    for (let i = 0; i < 50; i++) {
      const node = connectNode(server.address)
      await once(node, 'connect')
      const closed = once(node, 'close')
      const socket = UnixSocket.from(node)
      const connection = await server.accept()
      if (i % 2 === 0) await closed
      await exchange(t, socket, connection)
      const number = socket.release()
      await closed
      const again = UnixSocket.from(number)
      await exchange(t, again, connection)
      again.close()
      connection.close()
    }
    await turns()
    t.is(countFds(), before)
    server.close()
  }
)

withPython("a child's stdio socket is taken over [D9]", async (t) => {
  const program =
    "import socket; p = socket.socket(fileno=3); socket.send_fds(p, [b'child'], [0]); print(p.recv(9).decode())"
  const child = spawn('python3', ['-c', program], { stdio: ['ignore', 'pipe', 'inherit', 'pipe'] })
  const done = finish(child)
  if ('bun' in process.versions) return void t.pass()
  const socket = UnixSocket.from(child.stdio[3] as Socket)
  using received = (await socket.recvFd())!
  t.is(text(received), 'child')
  t.not(received.fd, null)
  await socket.send('parent')
  t.is(await done, 'parent\n')
  socket.close()
})

/** The code and the message of what `from` throws, after which the source is as it was. */
function refusal(t: ExecutionContext, source: Socket, message: RegExp): void {
  const before = countFds()
  t.throws(() => UnixSocket.from(source), { code: 'ERR_INVALID_ARG_VALUE', message })
  t.is(countFds(), before)
}

serialOnNode('a net.Socket that is not fresh is refused, and goes on as it was [D9]', async (t) => {
  const nodes: Socket[] = []
  const server = await nodeServer((socket) => nodes.push(socket))
  const path = server.address() as string

  const connecting = connectNode(path)
  refusal(t, connecting, /still connecting/)
  await once(connecting, 'connect')
  while (nodes.length < 1) await turns(1)

  connecting.write(Buffer.alloc(8 * 1024 * 1024))
  refusal(t, connecting, /\d+ bytes waiting to be written/)

  const read = nodes[0]!
  read.resume()
  await once(read, 'data')
  refusal(t, read, /has read \d+ bytes/)
  read.pause()

  const paused = connectNode(path)
  await once(paused, 'connect')
  while (nodes.length < 2) await turns(1)
  nodes[1]!.write('still works')
  const [data] = (await once(paused, 'data')) as [Buffer]
  t.is(data.toString(), 'still works')

  const unshifted = connectNode(path)
  await once(unshifted, 'connect')
  unshifted.unshift('from elsewhere')
  refusal(t, unshifted, /has read 14 bytes/)
  unshifted.destroy()
  const ended = connectNode(path)
  await once(ended, 'connect')
  ended.end()
  refusal(t, ended, /is being ended/)
  ended.destroy()

  connecting.destroy()
  refusal(t, connecting, /is destroyed/)
  refusal(t, new Socket(), /has no descriptor/)
  const secure = new TLSSocket(nodes[1]!)
  refusal(t, secure, /TLSSocket/)
  secure.destroy()
  paused.destroy()
  for (const node of nodes) node.destroy()
  await closeServer(server)
})

onNode('a TCP connection of Node is no Unix domain socket, and goes on as it was', async (t) => {
  const server = await nodeServer((socket) => socket.end('over TCP').resume(), { port: 0 })
  const node = connectNode((server.address() as AddressInfo).port)
  await once(node, 'connect')
  t.throws(() => UnixSocket.from(node), { code: 'EAFNOSUPPORT' })
  const [data] = (await once(node, 'data')) as [Buffer]
  t.is(data.toString(), 'over TCP')
  node.destroy()
  await closeServer(server)
})

test('numbers and Descriptors of each type are taken over, and what is none is left as it is', (t) => {
  for (const type of process.platform === 'darwin'
    ? (['stream', 'dgram'] as const)
    : (['stream', 'seqpacket', 'dgram'] as const)) {
    const [a, b] = socketpair({ type })
    const number = UnixSocket.from(a.release())
    const descriptor = UnixSocket.from(Descriptor.from(b.release()))
    t.deepEqual([number.type, descriptor.type], [type, type])
    number.close()
    descriptor.close()
  }
  const { read, write } = openPipe()
  for (const options of [undefined, { credentials: true }]) {
    t.throws(() => UnixSocket.from(write, options), { code: 'ENOTSOCK' })
    const descriptor = Descriptor.from(write)
    t.throws(() => UnixSocket.from(descriptor, options), { code: 'ENOTSOCK' })
    t.is(descriptor.release(), write)
  }
  t.true(hasWriter(read))
  closeSync(write)
  closeSync(read)
})
