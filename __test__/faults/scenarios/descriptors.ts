import { once } from 'node:events'
import { closeSync, openSync, writeSync } from 'node:fs'
import { type AddressInfo, Server, Socket, connect as dial } from 'node:net'
import {
  Descriptor,
  type UnixSocket,
  bindListener,
  connectTcp,
  connect,
  handOver,
  memfd,
  pipe,
  receiveConnection,
  socketpair
} from 'fdpass'
import {
  contents,
  exchange,
  failed,
  file,
  gather,
  keep,
  keepPair,
  path,
  pause,
  read,
  step,
  within
} from '../scenario.ts'

/** What can be passed, and how it is asked about. */
export async function descriptors(): Promise<void> {
  const memory = keep(await step('memfd', () => memfd({ name: 'faults', data: 'contents', seals: ['grow'] })))
  await step('sized', () => memfd({ size: 4096 }).closeSync())
  if (memory !== undefined) {
    await step(
      'kind',
      () => memory.kind,
      (kind) => kind
    )
    await step(
      'seals',
      () => memory.seals,
      (seals) => seals
    )
    await step('seal', () => memory.seal(['shrink', 'write']))
    await step(
      'sealed',
      () => memory.seals,
      (seals) => seals
    )
    await step(
      'duplicate',
      () => memory.duplicate(),
      (copy) => contents([copy])
    )
    await step('setBlocking', () => memory.setBlocking(false))
  }
  const ends = await step('pipe', pipe)
  if (ends !== undefined) {
    const [reading, writing] = ends
    await step(
      'written',
      () => writeSync(writing.fd, 'x'),
      (count) => count
    )
    await step(
      'kind of a pipe',
      () => reading.kind,
      (kind) => kind
    )
    await step('close', () => reading.close())
    await step('close', () => writing.closeSync())
  }
  const tcp = keep(
    await step('TCP listener', () => bindListener({ port: 0, host: '127.0.0.1', backlog: 5, reusePort: true }))
  )
  await step(
    'its address',
    () => tcp?.address,
    (address) => address && (address as AddressInfo).family
  )
  await step(
    'its kind',
    () => tcp?.kind,
    (kind) => kind
  )
  const port = await step(
    'port',
    () => (tcp?.address as AddressInfo | undefined)?.port,
    (found) => typeof found
  )
  if (port !== undefined) {
    const options = { host: '127.0.0.1', port, localAddress: '127.0.0.1' }
    const connection = keep(await step('TCP connection', () => connectTcp(options)))
    await step(
      'its kind',
      () => connection?.kind,
      (kind) => kind
    )
  }
  const unix = keep(await step('Unix listener', () => bindListener({ path: path('listener'), mode: 0o600 })))
  await step(
    'its address',
    () => unix?.address === path('listener'),
    (is) => is
  )
  await step(
    'its kind',
    () => unix?.kind,
    (kind) => kind
  )
  const number = openSync('/dev/null', 'r')
  const adopted = await step('from', () => Descriptor.from(number))
  if (adopted === undefined) closeSync(number)
  else await step('release', () => closeSync(adopted.release()))
  const socketEnds = keepPair(await step('pair', () => socketpair()))
  if (socketEnds !== undefined) {
    const socket = keep(await step('from a socket', () => descriptorOf(socketEnds[0])))
    if (socket !== undefined) {
      await step(
        'kind of a socket',
        () => socket.kind,
        (kind) => kind
      )
    }
  }
  await step('many', async () => {
    const many: Descriptor[] = []
    try {
      for (let i = 0; i < 20; i++) many.push(memfd())
    } finally {
      await Promise.all(many.map((each) => each.close()))
    }
  })
}

/** Makes a socket a Descriptor; closes it if that fails. */
function descriptorOf(socket: UnixSocket): Descriptor {
  const number = socket.release()
  try {
    return Descriptor.from(number)
  } catch (error) {
    closeSync(number)
    throw error
  }
}

/** Objects of Node's, made of descriptors. */
export async function casts(): Promise<void> {
  const tcp = await step('TCP listener', () => bindListener({ port: 0, host: '127.0.0.1' }))
  const port = await step(
    'port',
    () => (tcp?.address as AddressInfo | undefined)?.port,
    (found) => typeof found
  )
  const server = tcp && keep(await step('toServer', () => tcp.toServer()))
  if (server === undefined) tcp?.closeSync()
  else if (port !== undefined) {
    server.on('connection', (connection) => connection.on('error', () => {}).end('served'))
    await step(
      'connection',
      () => read(dial(port, '127.0.0.1')),
      (said) => said
    )
  }
  const pair = keepPair(await step('pair', () => socketpair()))
  if (pair !== undefined) {
    const descriptor = await step('descriptor', () => descriptorOf(pair[0]))
    const socket = descriptor && keep(await step('toSocket', () => descriptor.toSocket()))
    if (socket === undefined) descriptor?.closeSync()
    else {
      socket.on('error', () => {})
      socket.write('from Node')
      await step(
        'what it wrote',
        () => gather(pair[1], 9, within(500)),
        (got) => got
      )
    }
  }
  const memory = await step('memfd', () => memfd({ data: 'contents' }))
  const stream = memory && (await step('toReadStream', () => memory.toReadStream({ start: 0 })))
  if (stream === undefined) memory?.closeSync()
  else
    await step(
      'what it holds',
      () => read(stream),
      (said) => said
    )
  const listener = await step('Unix listener', () => bindListener({ path: path('cast') }))
  const unix = listener && keep(await step('toUnixServer', () => listener.toUnixServer()))
  if (unix === undefined) listener?.closeSync()
  else {
    const accepted = step('accept', () => unix.accept({ signal: within(1000) })).then(keep)
    keep(await step('connect', () => connect(path('cast'))))
    await accepted
  }
  const other = keepPair(await step('other pair', () => socketpair({ type: 'dgram' })))
  if (other !== undefined) {
    const descriptor = await step('descriptor', () => descriptorOf(other[0]))
    const socket = descriptor && keep(await step('toUnixSocket', () => descriptor.toUnixSocket()))
    if (socket === undefined) descriptor?.closeSync()
    else
      await exchange(
        'cast',
        () => socket.send('cast'),
        (signal) => gather(other[1], 1, signal),
        (got) => got
      )
  }
}

/** A live connection, handed over with what was read of it. */
export async function handOvers(): Promise<void> {
  const pair = keepPair(await step('socketpair', () => socketpair()))
  if (pair === undefined) return
  const [here, there] = pair
  const server = new Server({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  for (let i = 0; i < 3; i++) {
    const client = dial((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {})
    const [connection] = (await once(server, 'connection')) as [Socket]
    connection.on('error', () => {})
    client.write('said before')
    connection.resume()
    await once(connection, 'data').then(([data]) => connection.pause().unshift(data as Buffer))
    const received: (Socket | null)[] = []
    await exchange(
      `connection ${i}`,
      () => handOver(here, connection),
      (signal) => receiveConnection(there, { signal }),
      (arrived) => received.push(arrived)
    )
    // A message whose receive failed is still queued, or was reported with the bytes that arrived.
    const again = within(100)
    if (received.length === 0 && connection.destroyed) {
      received.push((await step('receive again', () => receiveConnection(there, { signal: again }))) ?? null)
    }
    const [socket] = received
    if (!socket && connection.destroyed) client.destroy()
    if (socket) {
      socket.on('error', () => {})
      await step(
        'what it says',
        () => once(socket, 'data'),
        ([data]) => String(data)
      )
      socket.end('answer')
      await step(
        'what it is told',
        () => read(client),
        (said) => said
      )
    } else if (!connection.destroyed) {
      // It goes on working here.
      await step(
        'what it says here',
        () => once(connection.resume(), 'data'),
        ([data]) => String(data)
      )
      connection.end('answer')
      await step(
        'what it is told',
        () => read(client),
        (said) => said
      )
    }
    for (const each of [client, connection, socket]) each?.destroy()
  }
  server.close()
}

/** A stream of Node's with descriptors beside its bytes. */
export async function streams(): Promise<void> {
  const { USocket } = await import('fdpass/usocket')
  const one = file('one')
  const pair = keepPair(await step('socketpair', () => socketpair()))
  if (pair === undefined) return
  const number = pair[0].release()
  const socket = await step('stream', () => new USocket({ fd: number }))
  if (socket === undefined) return closeSync(number)
  keep(socket)
  // Its errors are events; the number is the caller's where it could not be taken over.
  socket.on('error', (error: Error) => {
    failed('error event', error)
    if (!isTaken) closeSync(number)
  })
  let isTaken = socket.fd !== undefined
  socket.once('connected', () => (isTaken = true))
  const closed = new Promise((resolve) => socket.once('close', resolve))
  await step('written', () => socket.write(Buffer.from('bytes')))
  await step('written with one', () => socket.write({ data: Buffer.from('x'), fds: [one] } as never))
  await step(
    'received',
    () => gather(pair[1], 6, within(300)),
    (got) => got
  )
  await step('sent', () => pair[1].send('to the stream', { fds: [one] }))
  await step(
    'read',
    () => Promise.race([closed, pause(60)]).then(() => String(socket.read())),
    (said) => said
  )
  pair[1].close()
  socket.destroy()
  await step(
    'closed',
    () => closed,
    () => null
  )
}
