import { once } from 'node:events'
import { type AddressInfo, Server, Socket, connect as dial } from 'node:net'
import { handOver, receiveConnection, socketpair } from 'fdpass'
import { exchange, keepPair, read, step } from '../scenario.ts'

/** A live connection, handed over with what was read of it. */
export async function run(): Promise<void> {
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
    const again = AbortSignal.timeout(100)
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
