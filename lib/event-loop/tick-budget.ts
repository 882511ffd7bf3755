import { setImmediate } from 'node:timers'

/** How many operations may complete at once before the event loop gets its turn. */
const PER_TURN = 64

let spent = 0
let next: Promise<void> | undefined
let resume: (() => void) | undefined

/**
 * Count operations that complete at once; false where the event loop's turn has come.
 *
 * A loop of awaits that never have to wait stays in the microtask queue, and timers and all other I/O would starve.
 */
export function chargeTick(operations = 1): boolean {
  spent += operations
  return spent <= PER_TURN
}

/** The event loop has had its turn. */
export function startTick(): void {
  spent = 0
  resume?.()
  resume = next = undefined
}

/** Resolves when the event loop has had its turn. */
export function yieldToLoop(): Promise<void> {
  next ??= new Promise((resolve) => {
    resume = resolve
    setImmediate(startTick)
  })
  return next
}
