import type { Descriptor, RecvOptions, UnixSocket } from 'fdpass'

/** The results of several receives, joined. */
export interface Stretch {
  readonly data: Buffer
  readonly fds: readonly Descriptor[]
  /** For each descriptor, the first and the last byte of its receive. */
  readonly within: readonly (readonly [number, number])[]
}

/** Receives so many bytes of a stream. */
export async function receiveBytes(socket: UnixSocket, length: number, options?: RecvOptions): Promise<Stretch> {
  const parts: Uint8Array[] = []
  const fds: Descriptor[] = []
  const within: [number, number][] = []
  let received = 0
  while (received < length) {
    const message = await socket.recv(options)
    if (message === null) throw new Error(`The stream ended after ${received} bytes`)
    for (const fd of message.fds) {
      fds.push(fd)
      within.push([received, received + message.data.length - 1])
    }
    parts.push(message.data)
    received += message.data.length
  }
  return { data: Buffer.concat(parts), fds, within }
}
