import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, type NetConnectOpts, Server, type ServerOpts, type Socket, connect as dial } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { type Address, type ConnectOptions, type UnixSocket, connect } from 'fdpass'

/** Connects to another program's socket, as soon as that has made it. */
export async function connectWhenThere(address: Address, options?: ConnectOptions): Promise<UnixSocket> {
  const deadline = performance.now() + 120_000
  for (;;) {
    try {
      return await connect(address, options)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if ((code !== 'ENOENT' && code !== 'ECONNREFUSED') || performance.now() > deadline) throw error
    }
    await delay(20)
  }
}

/** The length and the digest of some bytes. */
export function digest(data: Uint8Array): string {
  return `${data.length} ${createHash('sha256').update(data).digest('hex')}`
}

/** Reads a connection up to its end. */
export async function readAllOf(connection: Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  connection.on('data', (part: Buffer) => parts.push(part))
  if (!connection.readableEnded) await once(connection, 'end')
  return Buffer.concat(parts)
}

/** Answers a connection with the length and the digest of all that it sent. The client checks for errors. */
export function answer(connection: Socket): void {
  connection.on('error', () => {})
  readAllOf(connection).then(
    (data) => connection.end(digest(data)),
    () => {}
  )
}

/** Both ends of a new connection, TCP or Unix domain; nothing was read of the server's. */
export async function openConnection(
  options: ServerOpts = {},
  path?: string
): Promise<{ client: Socket; connection: Socket }> {
  const server = new Server({ allowHalfOpen: true, ...options })
  if (path === undefined) server.listen(0, '127.0.0.1')
  else server.listen(path)
  await once(server, 'listening')
  const address: NetConnectOpts = path === undefined ? { port: (server.address() as AddressInfo).port } : { path }
  const client = dial({ host: '127.0.0.1', allowHalfOpen: true, ...address })
  const [[connection]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[Socket], []]
  server.close()
  return { client, connection }
}
