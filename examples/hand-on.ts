// hand-on PORT FOLDER: two kinds of workers. A front looks at what comes first, and hands a connection that is for the other kind
// on to it, with what was read. The connection is the same one, and the client notices nothing.
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
      const isFor = (connection.read() as Buffer | null) ?? Buffer.alloc(0)
      connection.unshift(isFor)
      if (!isFor.toString().startsWith('room ')) connection.end(`the front, process ${process.pid}\n`)
      else handOver(rooms, connection).catch((error: Error) => connection.destroy(error))
    })
  }
} else {
  const given = listeners()
  const server = (await given.next()).value!.fd.toUnixServer()
  void given.next().then(() => server.close()) // the superserver wants this worker to go
  for await (const front of server) void talk(front)
}

async function talk(front: UnixSocket): Promise<void> {
  for (let one = await receiveConnection(front); one !== null; one = await receiveConnection(front)) {
    const connection = one.on('data', (said) => connection.end(`${said} is in process ${process.pid}\n`))
  }
}
