/** The number of items for which an empty queue keeps its memory. */
const KEPT = 1024

/** A first-in, first-out queue. `push` and `shift` take constant time, and a short queue allocates nothing. */
export class Queue<T> {
  #items: (T | undefined)[] = []
  #head = 0
  #tail = 0

  get length(): number {
    return this.#tail - this.#head
  }

  push(item: T): void {
    this.#items[this.#tail++] = item
  }

  peek(): T | undefined {
    return this.#items[this.#head]
  }

  shift(): T | undefined {
    const item = this.#items[this.#head]
    if (item === undefined) return undefined
    this.#items[this.#head++] = undefined
    if (this.#head === this.#tail) {
      if (this.#tail > KEPT) this.#items = []
      this.#head = this.#tail = 0
    } else if (this.#head > KEPT && this.#head * 2 > this.#tail) {
      this.#items = this.#items.slice(this.#head, this.#tail)
      this.#tail -= this.#head
      this.#head = 0
    }
    return item
  }
}

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
