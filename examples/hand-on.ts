// hand-on PORT FOLDER: two kinds of workers. A front worker reads the first bytes of a connection. If it is for the other kind,
// the front hands the connection over, with the bytes that it read. The client does not notice.
import { join } from 'node:path'
import { type UnixSocket, connect, handOver, receiveConnection } from 'fdpass'
import { connections, isWorker, listeners, superserve } from 'fdpass/superserver'

const [first, second] = process.argv.slice(2)
const module = import.meta.url

if (!isWorker) {
  const rooms = join(second!, 'rooms')
  await superserve({
    services: {
      rooms: { listen: `unix:${rooms}`, module, args: ['rooms'], handoff: 'listener', workers: 1, socketMode: 0o600 },
      front: { listen: `tcp:127.0.0.1:${first}`, module, args: ['front', rooms], workers: 2 }
    }
  })
  console.log('listening')
} else if (first === 'front') {
  const rooms = await connect(second!)
  for await (const connection of connections()) {
    connection.once('readable', () => {
      const head = (connection.read() as Buffer | null) ?? Buffer.alloc(0)
      connection.unshift(head)
      if (!head.toString().startsWith('room ')) connection.end(`the front, process ${process.pid}\n`)
      else handOver(rooms, connection).catch((error: Error) => connection.destroy(error))
    })
  }
} else {
  const given = listeners()
  const server = (await given.next()).value!.fd.toUnixServer()
  void given.next().then(() => server.close()) // the superserver stops this worker
  for await (const front of server) void serveFront(front)
}

async function serveFront(front: UnixSocket): Promise<void> {
  for (let one = await receiveConnection(front); one !== null; one = await receiveConnection(front)) {
    const connection = one.on('data', (name) => connection.end(`${name} is in process ${process.pid}\n`))
  }
}
