import type { ExecutionContext } from 'ava'
import {
  Channel,
  type ChannelOptions,
  type ChannelReply,
  type ChannelRequest,
  type Descriptor,
  UnixSocket,
  socketpair
} from 'fdpass'
import { startProgram } from './processes.ts'

/** What a frame is for, as PROTOCOL.md numbers it. */
export const MESSAGE = 0
export const REQUEST = 1
export const RESPONSE = 2
export const ERROR = 3
export const CANCEL = 4
export const CLOSE = 5

/** The two ends of a channel, closed with the test. */
export function openChannels<T = unknown>(
  t: ExecutionContext,
  options?: ChannelOptions<T>,
  others: ChannelOptions<T> | undefined = options
): [Channel<T>, Channel<T>] {
  const [a, b] = socketpair()
  return closeWith(t, [new Channel<T>(a, options), new Channel<T>(b, others)])
}

/** A channel, and the bare socket at its other end. */
export function openBare<T = unknown>(t: ExecutionContext, options?: ChannelOptions<T>): [Channel<T>, UnixSocket] {
  const [a, b] = socketpair()
  return closeWith(t, [new Channel<T>(a, options), b])
}

/** Two sockets that are connected and have room for so few bytes; closed with the test. Needs Python 3.9. */
export async function openSmall(t: ExecutionContext, bytes = 4096): Promise<[UnixSocket, UnixSocket]> {
  const program = `
import socket, sys
to = socket.socket(fileno=3)
ends = socket.socketpair()
for end in ends:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(sys.argv[1]))
socket.send_fds(to, [b"ends"], [end.fileno() for end in ends])
`
  const { socket, done } = startProgram('python3', ['-c', program, `${bytes}`])
  const [a, b] = (await socket.recv())!.fds as [Descriptor, Descriptor]
  socket.close()
  await done
  return closeWith(t, [UnixSocket.from(a), UnixSocket.from(b)])
}

function closeWith<C extends readonly [Disposable, Disposable]>(t: ExecutionContext, ends: C): C {
  t.teardown(() => ends.forEach((end) => end[Symbol.dispose]()))
  return ends
}

/** The counts that a frame announces, where they are false. */
export interface Lies {
  length?: number
  fds?: number
  id?: number
  format?: number
}

/** The bytes of a frame. */
export function frame(kind: number, data: Uint8Array | string = '', lies: Lies = {}): Buffer {
  const content = Buffer.from(data)
  const { length = content.length, fds = 0, id = 0, format = 0 } = lies
  const header = Buffer.from([0xfd, 1, kind, format, ...new Array<number>(12).fill(0)])
  header.writeUInt32BE(length, 4)
  header.writeUInt32BE(fds, 8)
  header.writeUInt32BE(id, 12)
  return Buffer.concat([header, content])
}

/** A frame that a bare socket has received. */
export interface BareFrame {
  readonly kind: number
  readonly id: number
  readonly data: Buffer
  readonly fds: readonly Descriptor[]
}

/** Receives one frame of a bare socket, to the last byte and no further. */
export async function receiveFrame(socket: UnixSocket): Promise<BareFrame | null> {
  const fds: Descriptor[] = []
  const take = async (length: number) => {
    const parts: Uint8Array[] = []
    for (let left = length; left > 0;) {
      const message = await socket.recv({ maxBytes: left })
      if (message === null) return null
      parts.push(message.data)
      fds.push(...message.fds)
      left -= message.data.length
    }
    return Buffer.concat(parts)
  }
  const header = await take(16)
  if (header === null) return null
  const data = (await take(header.readUInt32BE(4)))!
  return { kind: header[2]!, id: header.readUInt32BE(12), data, fds }
}

/** The requests that one end is asked, each with what settles it. */
export function recordRequests(channel: Channel) {
  const requests: { request: ChannelRequest; reply: (reply: ChannelReply) => void; fail: (error: unknown) => void }[] =
    []
  channel.onRequest(
    (request) => new Promise((reply, fail) => requests.push({ request, reply, fail })) as Promise<ChannelReply>
  )
  return requests
}
