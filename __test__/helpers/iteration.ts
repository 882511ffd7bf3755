import type { Message, UnixSocket } from 'fdpass'

/** Takes one message out of a new iteration and leaves it; the rest may have been received ahead. */
export async function takeOne(socket: UnixSocket): Promise<Message> {
  for await (const message of socket) return message
  throw new Error('The connection has ended')
}

/** Sends messages '0', '1', … with one descriptor each, so that a stream keeps them apart. */
export async function sendNumbered(socket: UnixSocket, fd: number, count: number, from = 0): Promise<void> {
  for (let i = from; i < from + count; i++) await socket.sendFd(fd, String(i))
}
