import type { ExecutionContext } from 'ava'
import { UnixSocket, socketpair } from 'fdpass'
import { NodeChannel, type NodeMessage } from 'fdpass/ipc'
import { startFixture } from './processes.ts'

export interface Child {
  readonly channel: NodeChannel
  readonly pid: number
  readonly done: Promise<string>
  next(): Promise<NodeMessage>
}

/** Starts an ordinary Node program with a channel of ours. */
export function startChild(t: ExecutionContext): Child {
  const { child, socket, done } = startFixture('node-child', [], { env: { ...process.env, NODE_CHANNEL_FD: '3' } })
  const channel = new NodeChannel(socket)
  t.teardown(() => {
    channel.close()
    child.kill('SIGKILL')
  })
  done.catch(() => {})
  return { channel, pid: child.pid!, done, next: () => next(channel) }
}

/** A message that has to come soon. */
export async function next(channel: NodeChannel): Promise<NodeMessage> {
  const message = await channel.receive({ signal: AbortSignal.timeout(30_000) })
  if (message === null) throw new Error('The other end has disconnected')
  return message
}

/** A channel, and the socket at its other end. */
export function pair(t: ExecutionContext, options?: { maxBytes: number }): { channel: NodeChannel; peer: UnixSocket } {
  const [socket, peer] = socketpair()
  const channel = new NodeChannel(socket, options)
  t.true(socket.closed) // it is the channel's
  t.teardown(() => {
    channel.close()
    peer.close()
  })
  return { channel, peer }
}

export const line = (value: unknown) => `${JSON.stringify(value)}\n`

export const ACK = line({ cmd: 'NODE_HANDLE_ACK' })

/** A stream, and whether its other end is open anywhere. */
export function openWatched(t: ExecutionContext): { sent: UnixSocket; isClosed: () => Promise<boolean> } {
  const [ours, sent] = socketpair()
  t.teardown(() => ours.close())
  const isClosed = async () => {
    try {
      return (await ours.recv({ signal: AbortSignal.timeout(30_000) })) === null
    } catch {
      return false
    }
  }
  return { sent, isClosed }
}
