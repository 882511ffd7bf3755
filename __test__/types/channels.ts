import type { Socket as DatagramSocket } from 'node:dgram'
import { Server, Socket } from 'node:net'
import {
  type Bytes,
  Channel,
  type ChannelMessage,
  type ChannelRequest,
  type Descriptor,
  type UnixSocket,
  handOver,
  receiveConnection
} from 'fdpass'
import * as ipc from 'fdpass/ipc'
import type { NodeChannelOptions, NodeMessage, NodeValue } from 'fdpass/ipc'
import { exactly, same } from './exports.ts'

declare const socket: UnixSocket
declare const descriptor: Descriptor
declare const signal: AbortSignal

const any = new Channel(socket)
exactly<Channel<unknown>>()(any)
exactly<UnixSocket>()(any.socket)
exactly<Promise<Error | null>>()(any.closed)
exactly<Promise<void>>()(any.send({ any: 'thing' }, [descriptor, 3], { signal }))
exactly<Promise<ChannelMessage<unknown> | null>>()(any.receive({ signal }))
exactly<Promise<ChannelMessage<unknown>>>()(any.request('x', null, { signal, timeout: 5 }))
exactly<Channel<unknown>>()(any.ref().unref().onRequest(null))
exactly<void>()(any.close())
exactly<Promise<void>>()(any[Symbol.asyncDispose]())
// @ts-expect-error
any.socket = socket
// @ts-expect-error
new Channel()
// @ts-expect-error
new Channel(descriptor)
// @ts-expect-error
any.send('x', descriptor)
// @ts-expect-error
any.send('x', [], { timeout: 5 })

interface Job {
  name: string
}
const jobs = new Channel<Job>(socket, {
  maxBytes: 5,
  maxFds: undefined,
  maxPending: 5,
  encode: (job: Job) => job.name,
  decode: (data) => ({ name: String(data) })
})
// @ts-expect-error
new Channel(socket, { encode: () => 5 })
// @ts-expect-error
jobs.send({ name: 5 })
// @ts-expect-error
jobs.request('x')

for await (const message of jobs) {
  exactly<ChannelMessage<Job>>()(message)
  exactly<Job>()(message.value)
  exactly<readonly Descriptor[]>()(message.fds)
  exactly<void>()(message.close())
  using closing = message
  // @ts-expect-error
  closing.value = { name: 'x' }
}

jobs.onRequest((request) => {
  exactly<ChannelRequest<Job>>()(request)
  exactly<AbortSignal>()(request.signal)
})
jobs.onRequest(() => ({ fds: [descriptor] }))
jobs.onRequest(async () => ({ value: 1 }))
jobs.onRequest(() => undefined)
// @ts-expect-error
jobs.onRequest(() => 5)
// @ts-expect-error
jobs.onRequest(() => ({ fds: descriptor }))

declare const channel: UnixSocket
declare const datagrams: DatagramSocket
const connection = new Socket()

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

same<keyof typeof ipc, 'NodeChannel'>()
same<NodeValue, string | number | boolean | object | null>()

export type NodeChannelTypes = [NodeChannelOptions]

/** The parent of a Node program. */
export async function speak(): Promise<void> {
  await using channel = new ipc.NodeChannel(socket, { maxBytes: 1000 })
  exactly<void>()(await channel.send('message', new Socket(), { signal: AbortSignal.timeout(1) }))
  await channel.send({ a: [1] } as const, 3)
  await channel.send(null, null)
  await channel.send(true, undefined)
  exactly<NodeMessage | null>()(await channel.receive({ signal: undefined }))
  for await (const { message, fd } of channel) {
    exactly<unknown>()(message)
    exactly<Descriptor | null>()(fd)
  }
  for await (using message of channel.messages({ signal: AbortSignal.timeout(1) })) exactly<NodeMessage>()(message)
  exactly<boolean>()(channel.closed)
  channel.ref().unref().close()

  // @ts-expect-error: JSON knows no undefined
  await channel.send(undefined)
  // @ts-expect-error: no name of a file
  await channel.send('message', '/etc/passwd')
  // @ts-expect-error: it is made by a channel
  new ipc.NodeMessage('message', null)
}
