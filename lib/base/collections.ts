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

/**
 * A collection of objects that come and go. Each has a place, by which it is removed in constant time.
 *
 * A Set or a Map in its stead would keep all objects that it has held until V8 collects its old generation: a table that has been promoted, and
 * then replaced because it was full, refers to the objects of that time and to its successor (`next_table` in src/objects/ordered-hash-table.h).
 */
export class Places<T extends object> implements Iterable<T> {
  readonly #items: (T | undefined)[] = []
  readonly #free: number[] = []
  /** Called when no object is left. */
  onEmpty: (() => void) | undefined

  /** The number of objects. */
  get size(): number {
    return this.#items.length - this.#free.length
  }

  /** Adds an object and returns its place. */
  add(item: T): number {
    const place = this.#free.pop() ?? this.#items.length
    this.#items[place] = item
    return place
  }

  /** Adds an object until it emits 'close'. */
  addUntilClosed(this: Places<T & NodeJS.EventEmitter>, item: T & NodeJS.EventEmitter): void {
    const place = this.add(item)
    item.on('close', () => this.remove(item, place))
  }

  /** Removes an object from its place; does nothing if it is not there any more. */
  remove(item: T, place: number): void {
    if (this.#items[place] !== item) return
    this.#items[place] = undefined
    this.#free.push(place)
    if (this.onEmpty !== undefined && this.size === 0) this.onEmpty()
  }

  /** Iterates over the objects, in no particular order. An object may be removed meanwhile. */
  *[Symbol.iterator](): Generator<T, void> {
    for (const item of this.#items) if (item !== undefined) yield item
  }
}
