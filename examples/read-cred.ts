// read-cred PATH: prints each message with the credentials of its sender, which the kernel checks (UNP vol. 1, section 15.8).
import { type Credentials, type UnixSocket, listen } from 'fdpass'

const [path] = process.argv.slice(2)
if (path === undefined) {
  console.error('usage: read-cred PATH')
  process.exit(2)
}

const show = ({ pid, uid, gid, groups }: Credentials) =>
  `pid ${pid ?? 'unknown'}, uid ${uid}, gid ${gid}${groups === undefined ? '' : `, groups ${groups.join(' ') || 'none'}`}`

/** The sender of a message may differ from the process that connected: a socket can be inherited or passed on. */
async function read(connection: UnixSocket): Promise<void> {
  console.log(`connected: ${show(connection.peer())}`)
  for await (const { data, credentials } of connection) {
    console.log(`sent by ${show(credentials!)}: ${data.toString().trim()}`)
  }
  connection.close()
}

// Every user may connect. `credentials` makes the kernel attach the sender's credentials from the first message on.
const server = await listen(path, { mode: 0o666, descriptors: false, credentials: true })
console.log(`listening on ${server.address}`)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => server.close())
for await (const connection of server) {
  read(connection).catch((error: Error) => console.error(error.message))
}
