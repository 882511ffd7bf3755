import { setImmediate as turn } from 'node:timers/promises'

/** Lets the event loop go round some times. */
export async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await turn()
}

/** Whether a promise is still pending after the event loop has gone round. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true
  const settle = () => (pending = false)
  promise.then(settle, settle)
  await turns()
  return pending
}

/** What several promises reject with, as codes; undefined for one that resolves. */
export async function codesOf(promises: readonly Promise<unknown>[]): Promise<unknown[]> {
  const results = await Promise.allSettled(promises)
  return results.map((result) =>
    result.status === 'rejected' ? (result.reason as NodeJS.ErrnoException).code : undefined
  )
}
