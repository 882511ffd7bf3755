/** A counted reference to an event source: it keeps the process alive while operations are pending, unless `referenced` is false. */
export class KeepAlive {
  readonly #setReferenced: (on: boolean) => void
  #pending = 0
  #referenced = true

  /** @param setReferenced references the event source if `on` is true, and unreferences it otherwise */
  constructor(setReferenced: (on: boolean) => void) {
    this.#setReferenced = setReferenced
  }

  /** Applies the current state to an event source that was created or replaced. */
  update(): void {
    this.#setReferenced(this.#referenced && this.#pending > 0)
  }

  /** Adds a pending operation; disposing of the result removes it. */
  acquire(): Disposable {
    this.#pending++
    this.update()
    return {
      [Symbol.dispose]: () => {
        this.#pending--
        this.update()
      }
    }
  }

  /** Whether pending operations keep the process alive. */
  set referenced(on: boolean) {
    this.#referenced = on
    this.update()
  }
}
