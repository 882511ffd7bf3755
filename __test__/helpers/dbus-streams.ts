import { once } from 'node:events'
import type { ExecutionContext } from 'ava'
import { createConnection } from 'dbus-native'
import { socketpair } from 'fdpass'
import { DBusStream } from 'fdpass/dbus'

export const soon = () => ({ signal: AbortSignal.timeout(30_000) })

/** Two peers without a bus, of which the first was the server of the handshake. */
export async function openPeers(t: ExecutionContext) {
  const streams = socketpair().map((socket) => new DBusStream(socket))
  t.teardown(() => streams.forEach((stream) => stream.destroy()))
  // dbus-native's declarations lack `server` and `direct`.
  const options = [
    { stream: streams[0], server: true },
    { stream: streams[1], direct: true }
  ] as object[]
  const connections = options.map((each) => createConnection(each as Parameters<typeof createConnection>[0]))
  await Promise.all(connections.map((connection) => once(connection, 'connect', soon())))
  return { server: connections[0]!, client: connections[1]!, streams }
}
