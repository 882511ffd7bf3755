/**
 * A rejection with the stack of who awaits.
 *
 * An error made in a callback of the event loop knows no caller. V8 finds the awaiting functions where an error is made
 * in a microtask whose promise they await: resolve the waiting promise with this one. That takes effect a microtask
 * later, and so the error has to be made after the second one.
 */
export async function rejection(error: () => unknown): Promise<never> {
  await undefined
  await undefined
  throw error()
}
