import type { Socket as DatagramSocket } from 'node:dgram'
import { Server, Socket } from 'node:net'
import { type Bytes, type UnixSocket, handOver, receiveConnection } from 'fdpass'
import { exactly } from './exactly.ts'

declare const channel: UnixSocket
declare const datagrams: DatagramSocket
const connection = new Socket()
const { signal } = new AbortController()

exactly<Promise<void>>()(handOver(channel, connection))
exactly<Promise<void>>()(handOver(channel, connection, undefined, { signal }))
exactly<Promise<void>>()(handOver(channel, connection, (head) => `${head.length}`))
exactly<Promise<void>>()(handOver(channel, connection, (head: Uint8Array): Bytes => head))
exactly<Promise<Socket | null>>()(receiveConnection(channel))
exactly<Promise<Socket | null>>()(receiveConnection(channel, { allowHalfOpen: true, signal }))

// @ts-expect-error
handOver(connection, channel)
// @ts-expect-error
handOver(channel)
// @ts-expect-error
handOver(channel, new Server())
// @ts-expect-error
handOver(channel, datagrams)
// @ts-expect-error
handOver(channel, 3)
// @ts-expect-error
handOver(channel, connection, 'message')
// @ts-expect-error
handOver(channel, connection, async (head) => head)
// @ts-expect-error
handOver(channel, connection, () => {})
// @ts-expect-error
handOver(channel, connection, { signal })
// @ts-expect-error
receiveConnection(connection)
// @ts-expect-error
receiveConnection(channel, { pauseOnCreate: true })

const received = await receiveConnection(channel)
// @ts-expect-error
received.write('it may be null')
received?.write('it is not')
