/** How much memory an empty queue may keep, in items. */
const KEPT = 1024

/** First in, first out; putting and taking cost the same at any length, and nothing is allocated for a short one. */
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

  /** The place of an item, 0 for the first; less than that if it is not there. */
  indexOf(item: T): number {
    return this.#items.indexOf(item, this.#head) - this.#head
  }

  /** Takes an item out of the middle; false if it is not there. */
  remove(item: T): boolean {
    const index = this.indexOf(item)
    if (index < 0) return false
    if (index === 0) return this.shift() !== undefined
    this.#items.splice(this.#head + index, 1)
    this.#tail--
    return true
  }
}
