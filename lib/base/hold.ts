/** What keeps the process alive while somebody waits, unless it was told not to. */
export class Hold {
  readonly #apply: (on: boolean) => void
  #waiting = 0
  #referenced = true

  /** `apply` refers to whatever holds the process, or lets it go. */
  constructor(apply: (on: boolean) => void) {
    this.#apply = apply
  }

  /** Applies it to what has just been made. */
  apply(): void {
    this.#apply(this.#referenced && this.#waiting > 0)
  }

  /** Counts somebody who waits; the result ends that. */
  wait(): Disposable {
    this.#waiting++
    this.apply()
    return {
      [Symbol.dispose]: () => {
        this.#waiting--
        this.apply()
      }
    }
  }

  set referenced(on: boolean) {
    this.#referenced = on
    this.apply()
  }
}
