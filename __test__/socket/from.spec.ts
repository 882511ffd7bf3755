import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Server, Socket, connect as netConnect } from 'node:net'
import { join } from 'node:path'
import { TLSSocket } from 'node:tls'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, UnixServer, UnixSocket, capabilities, connect, listen, socketpair } from 'fdpass'
import {
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  badOption,
  badOptions,
  badReceiving,
  looseFrom,
  naming,
  notAddresses,
  notIntegers,
  notNumbers,
  notTypes,
  throws,
  throwsBad,
  unchanged
} from '../helpers/arguments.ts'
import { countFds, isOpen, newFolder, openPipe } from '../helpers/descriptors.ts'
import { areConnected, takesConnections, text, openFirstSockets } from '../helpers/sockets.ts'

const looseSocketpair = socketpair as Loose

test.before('what the first socket opens stays open', openFirstSockets)

test.serial('capabilities takes no argument, returns the same each time, and is frozen', (t) => {
  const first = capabilities()
  const copy = { ...first }
  const open = countFds()
  for (const value of [...notAddresses, undefined, { backend: 'none' }]) {
    t.is((capabilities as Loose)(value), first)
  }
  for (const name of Object.keys(first)) {
    t.throws(() => Object.assign(first, { [name]: 'another' }), { instanceOf: TypeError }, name)
  }
  t.deepEqual({ ...capabilities() }, copy)
  t.is(countFds(), open)
})

test.serial('socketpair refuses what is no option of its own', (t) => {
  const open = countFds()
  const bad = [...badOptions, ...badOption('type', notTypes, VALUE), ...badReceiving]
  throwsBad(t, 'socketpair', bad, looseSocketpair)
  t.is(countFds(), open)
})

test.serial(
  'UnixSocket.from refuses what is no socket, and bad options, and leaves the source as it was',
  async (t) => {
    const folder = newFolder()
    const [a, b] = socketpair()
    const number = b.release()
    const server = await listen(join(folder, 'server'))
    const others = [server, a, new Server(), Object.create(UnixServer.prototype), Object.create(null), process, '', '3']
    await unchanged(t, folder, () => {
      throwsBad(
        t,
        'from',
        [
          ...[undefined, ...notNumbers, ...others].map((value) => ['source', value, TYPE] as const),
          ...[...notIntegers, -1, 2 ** 31, 2 ** 32].map((value) => ['source', value, RANGE] as const)
        ],
        looseFrom
      )
      throwsBad(t, 'from a number', [...badOptions, ...badReceiving], (value) => looseFrom(number, value))
    })
    await takesConnections(t, server)
    // As a Descriptor's.
    const descriptor = Descriptor.from(number)
    await unchanged(t, folder, () => {
      throwsBad(t, 'from a Descriptor', [...badOptions, ...badReceiving], (value) => looseFrom(descriptor, value))
      t.true(isOpen(descriptor.fd))
    })
    const taken = UnixSocket.from(descriptor)
    t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
    await areConnected(t, a, taken)
    throws(t, 'from a closed Descriptor', 'ERR_DESCRIPTOR_CLOSED', () => UnixSocket.from(descriptor))
    for (const socket of [a, taken, server]) socket.close()
  }
)

test.serial('UnixSocket.from refuses a socket that listens', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'released')
  const released = await listen(path)
  const number = released.release()
  const nodes = new Server().listen(join(folder, 'nodes')).unref()
  await once(nodes, 'listening')
  const nodesNumber = (nodes as unknown as { _handle: { fd: number } })._handle.fd
  const message = /^The "source" argument is a listening socket/
  await unchanged(t, folder, () => {
    for (const fd of [number, nodesNumber]) throws(t, 'a number', VALUE, () => UnixSocket.from(fd), message)
  })
  for (const at of [path, join(folder, 'nodes')]) (await connect(at)).close()
  const descriptor = Descriptor.from(number)
  await unchanged(t, folder, () => throws(t, 'a Descriptor', VALUE, () => UnixSocket.from(descriptor), message))
  t.true(isOpen(descriptor.fd))
  ;(await connect(path)).close()
  descriptor.closeSync()
  nodes.close()
  await once(nodes, 'close')
})

/** A server of Node's and both ends of a connection to it; the end of the server is paused. */
async function nodePair(folder: string): Promise<[client: Socket, connection: Socket]> {
  const path = join(folder, 'nodes')
  const server = new Server({ pauseOnConnect: true }).listen(path)
  await once(server, 'listening')
  const client = netConnect(path)
  const [[connection]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [
    [Socket],
    unknown
  ]
  client.pause()
  server.close()
  return [client, connection]
}

/** That a connection of Node's is as it was. */
async function nodesWork(t: ExecutionContext, a: Socket, b: Socket): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a]
  ] as const) {
    from.write('through Node')
    to.resume()
    const [data] = (await once(to, 'data')) as [Buffer]
    t.is(data.toString(), 'through Node')
  }
}

async function destroyed(...sockets: Socket[]): Promise<void> {
  await Promise.all(sockets.map((socket) => (socket.closed ? undefined : once(socket.destroy(), 'close'))))
}

test.serial('UnixSocket.from refuses bad options for a net.Socket, and leaves it as it was', async (t) => {
  const folder = newFolder()
  const [client, connection] = await nodePair(folder)
  await unchanged(t, folder, () => {
    throwsBad(t, 'from a net.Socket', [...badOptions, ...badReceiving], (value) => looseFrom(connection, value))
  })
  t.false(connection.destroyed)
  await nodesWork(t, client, connection)
  await destroyed(client, connection)
})

test.serial('UnixSocket.from takes a net.Socket once', async (t) => {
  const [client, connection] = await nodePair(newFolder())
  const socket = UnixSocket.from(connection)
  const open = countFds()
  throws(t, 'at once', VALUE, () => UnixSocket.from(connection), /^The "source" argument is destroyed/)
  t.is(countFds(), open)
  if (!connection.closed) await once(connection, 'close')
  throws(t, 'once it is closed', VALUE, () => UnixSocket.from(connection), /^The "source" argument is destroyed/)
  client.write('still connected')
  t.is(text(await socket.recv()), 'still connected')
  socket.close()
  await destroyed(client)
})

test.serial('UnixSocket.from refuses a net.Socket of which something would stay behind', async (t) => {
  const folder = newFolder()
  const [client, connection] = await nodePair(folder)
  // Bytes that Node has read, also if they were not consumed yet.
  client.write('read')
  connection.resume()
  await once(connection, 'data')
  connection.pause()
  await unchanged(t, folder, () => {
    const message = /^The "source" argument has read 4 bytes/
    throws(t, 'has read', VALUE, () => UnixSocket.from(connection), message)
    throws(t, 'has read', VALUE, () => UnixSocket.from(connection, { credentials: true }), message)
  })
  // What is to be written.
  client.cork()
  client.write('to be written')
  await unchanged(t, folder, () => {
    throws(t, 'to write', VALUE, () => UnixSocket.from(client), /^The "source" argument has 13 bytes waiting/)
  })
  client.uncork()
  connection.resume()
  const [data] = (await once(connection, 'data')) as [Buffer]
  t.is(data.toString(), 'to be written')
  await nodesWork(t, client, connection)
  await destroyed(client, connection)
})

test.serial('UnixSocket.from refuses a net.Socket that is not connected, or no Unix socket', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'nodes')
  const nodes = new Server((connection) => connection.resume()).listen(path)
  const tcp = new Server({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await Promise.all([once(nodes, 'listening'), once(tcp, 'listening')])
  const accepted = once(tcp, 'connection') as Promise<[Socket]>
  const overTcp = netConnect((tcp.address() as { port: number }).port, '127.0.0.1')
  const [[other]] = await Promise.all([accepted, once(overTcp, 'connect')])
  overTcp.pause()
  const { read, write } = openPipe()
  const pipe = new Socket({ fd: read, readable: true, writable: false })
  const connecting = netConnect(path)
  const connected = once(connecting, 'connect')
  const unconnected = new Socket()
  const lost = new Socket().destroy()
  const wrapped = new Socket()
  const tls = new TLSSocket(wrapped)
  tls.on('error', () => {})
  const prototype = Object.create(Socket.prototype)
  await unchanged(t, folder, () => {
    const cases: [string, unknown, RegExp][] = [
      ['connecting', connecting, /^The "source" argument is still connecting/],
      ['not connected', unconnected, /^The "source" argument has no descriptor/],
      ['destroyed', lost, /^The "source" argument is destroyed/],
      ['TLS', tls, /^The "source" argument is a TLSSocket/]
    ]
    for (const [what, source, message] of cases) {
      throws(t, what, VALUE, () => looseFrom(source), message)
      throws(t, what, VALUE, () => looseFrom(source, { credentials: true }), message)
    }
    throws(t, 'only the prototype', TYPE, () => looseFrom(prototype), naming('source', TYPE))
    throws(t, 'TCP', 'EAFNOSUPPORT', () => UnixSocket.from(overTcp))
    throws(t, 'a pipe', 'ENOTSOCK', () => UnixSocket.from(pipe))
  })
  for (const socket of [connecting, unconnected, tls, overTcp, pipe]) t.false(socket.destroyed)
  await nodesWork(t, overTcp, other)
  await connected
  const taken = UnixSocket.from(connecting)
  await taken.send('works')
  taken.close()
  closeSync(write)
  await destroyed(overTcp, other, pipe, unconnected)
  tls.destroy()
  wrapped.destroy()
  nodes.close()
  tcp.close()
  await Promise.all([once(nodes, 'close'), once(tcp, 'close')])
})
