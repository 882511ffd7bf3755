import { Backoff } from './backoff.ts'

/** A process that ran for less than this, in milliseconds, counts as failed. */
const SHORT_LIFE = 1000
const FIRST_DELAY = 50
const LONGEST_DELAY = 10_000

/** Delays before the restarts of a process: none after a process that ran for a while; otherwise they double, up to 10 seconds. */
export class RestartBackoff {
  readonly #backoff = new Backoff(FIRST_DELAY, LONGEST_DELAY)
  #restarts = 0

  /**
   * Returns the delay before the next start, in milliseconds.
   *
   * @param lifetime how long the last process ran, in milliseconds; 0 if it could not be started
   */
  next(lifetime: number): number {
    if (lifetime >= SHORT_LIFE) {
      this.#restarts = 0
      this.#backoff.reset()
    }
    return this.#restarts++ === 0 ? 0 : this.#backoff.next()
  }
}
