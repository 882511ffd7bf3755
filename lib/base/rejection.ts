/**
 * Returns a rejection whose stack names the awaiting functions.
 *
 * An error that is created in a callback of the event loop has no caller. V8 finds the awaiting functions if the error is created
 * in a microtask whose promise they await: so resolve the pending promise with this one. Resolving takes effect one microtask
 * later, hence the second `await`.
 */
export async function rejection(error: () => unknown): Promise<never> {
  await undefined
  await undefined
  throw error()
}
