import { clearTimeout, setTimeout } from 'node:timers'
import { onAbort, aborted } from './abort.ts'

/** Delays in milliseconds that double, from the first to the longest. By default those between two tries of a system call. */
export class Backoff {
  readonly #first: number
  readonly #longest: number
  #next: number

  constructor(first = 1, longest = 64) {
    this.#first = first
    this.#longest = longest
    this.#next = first
  }

  /** Returns the delay before the next try. */
  next(): number {
    const delay = this.#next
    this.#next = Math.min(delay * 2, this.#longest)
    return delay
  }

  /** Starts again with the first delay. */
  reset(): void {
    this.#next = this.#first
  }
}

/** Calls again, after delays, until the call returns something other than `busy`; resolves to that. */
export async function retry(call: () => number, busy: number | undefined, signal?: AbortSignal): Promise<number> {
  const backoff = new Backoff()
  let code = call()
  while (code === busy) {
    await wait(backoff.next(), signal)
    code = call()
  }
  return code
}

function wait(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abortion = onAbort(signal, () => {
      clearTimeout(timer)
      abortion![Symbol.dispose]()
      reject(aborted(signal!))
    })
    const timer = setTimeout(() => {
      abortion?.[Symbol.dispose]()
      resolve()
    }, milliseconds)
  })
}

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
