/**
 * Collects bytes that arrive in parts. The buffer doubles when it is full, so that a peer which sends one byte at a time costs
 * neither an object for each nor a copy of everything before it.
 */
export class ByteBuffer {
  #bytes = Buffer.alloc(0)
  #length = 0

  /** The number of bytes collected. */
  get length(): number {
    return this.#length
  }

  /** Appends a copy of a part. */
  append(part: Uint8Array): void {
    const length = this.#length + part.length
    if (length > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(length, 2 * this.#bytes.length))
      larger.set(this.#bytes.subarray(0, this.#length))
      this.#bytes = larger
    }
    this.#bytes.set(part, this.#length)
    this.#length = length
  }

  /** Removes and returns all bytes. */
  take(): Buffer {
    const taken = this.#bytes.subarray(0, this.#length)
    this.#bytes = Buffer.alloc(0)
    this.#length = 0
    return taken
  }
}
