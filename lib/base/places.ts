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
