import { Socket } from 'node:net'
import type { Descriptor, UnixSocket } from 'fdpass'
import * as ipc from 'fdpass/ipc'
import type { NodeChannelOptions, NodeMessage, NodeValue } from 'fdpass/ipc'
import { exactly, same } from './exactly.ts'

same<keyof typeof ipc, 'NodeChannel'>()
same<NodeValue, string | number | boolean | object | null>()

export type Types = [NodeChannelOptions]

declare const socket: UnixSocket

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
