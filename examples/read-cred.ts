// Prints who sends what, as the kernel vouches for it: UNP vol. 1, section 15.8. `read-cred PATH`.
import { type Credentials, type UnixSocket, listen } from 'fdpass'

const [path] = process.argv.slice(2)
if (path === undefined) {
  console.error('usage: read-cred PATH')
  process.exit(2)
}

const show = ({ pid, uid, gid, groups }: Credentials) =>
  `pid ${pid ?? 'unknown'}, uid ${uid}, gid ${gid}${groups === undefined ? '' : `, groups ${groups.join(' ') || 'none'}`}`

/** Who connected is one question, who sent this message another: a socket can be inherited, or passed on. */
async function read(connection: UnixSocket): Promise<void> {
  console.log(`connected: ${show(connection.peer())}`)
  for await (const { data, credentials } of connection) {
    console.log(`sent by ${show(credentials!)}: ${Buffer.from(data).toString().trim()}`)
  }
  connection.close()
}

// Everybody may connect. What they send is told with their credentials from the first byte on.
const server = await listen(path, { mode: 0o666, descriptors: false, credentials: true })
console.log(`listening on ${server.address}`)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => server.close())
for await (const connection of server) {
  read(connection).catch((error: Error) => console.error(error.message))
}
