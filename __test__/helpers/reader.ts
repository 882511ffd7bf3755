import type { Descriptor, UnixSocket } from 'fdpass'
import { receive } from './programs.ts'

/** Reads a stream by lengths, for protocols with length prefixes. */
export class Reader {
  /** The received descriptors that were not taken yet. */
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
