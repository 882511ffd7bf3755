import type { Descriptor, UnixSocket } from 'fdpass'
import { receive } from './programs.ts'

/** Reads a stream by lengths, for protocols whose messages tell theirs. */
export class Reader {
  /** The descriptors that have come, and that nobody has taken out. */
  readonly fds: Descriptor[] = []
  #bytes = Buffer.alloc(0)
  readonly #socket: UnixSocket

  constructor(socket: UnixSocket) {
    this.#socket = socket
  }

  /** The next bytes, so many. */
  async take(length: number): Promise<Buffer> {
    while (this.#bytes.length < length) {
      const { data, fds } = await receive(this.#socket)
      this.#bytes = Buffer.concat([this.#bytes, data])
      this.fds.push(...fds)
    }
    const taken = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return taken
  }
}
