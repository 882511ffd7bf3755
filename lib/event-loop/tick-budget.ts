import { setImmediate } from 'node:timers'

/** The number of operations that may complete at once before the event loop continues. */
const OPERATIONS_PER_TICK = 64

let spent = 0
let next: Promise<void> | undefined
let resume: (() => void) | undefined

/**
 * Counts operations that complete at once; returns false once the budget of this tick is spent.
 *
 * A loop of awaits that complete at once never leaves the microtask queue: timers and all other I/O would starve.
 */
export function chargeTick(operations = 1): boolean {
  spent += operations
  return spent <= OPERATIONS_PER_TICK
}

/** Starts a tick: the event loop has run. */
export function startTick(): void {
  spent = 0
  resume?.()
  resume = next = undefined
}

/** Resolves when the event loop has run. */
export function yieldToLoop(): Promise<void> {
  next ??= new Promise((resolve) => {
    resume = resolve
    setImmediate(startTick)
  })
  return next
}
