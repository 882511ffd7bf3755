import { setImmediate as turn } from 'node:timers/promises'
import { socketpair } from 'fdpass'

/** On the thread back end: two connected sockets. Open from the start, so that tests which count descriptors do not see them come. */
const probe = process.env.FDPASS_BACKEND === 'thread' ? socketpair() : undefined

/**
 * Lets the event loop go round some times. Each time, events that are there already are delivered: by libuv in the next turn, and by the
 * polling thread, which can be late on a busy machine, before the event of a later message.
 */
export async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) {
    if (probe !== undefined) {
      const [sender, receiver] = probe
      const received = receiver.recv({ maxBytes: 1 }) // no other turn's
      await sender.send('.')
      await received
    }
    await turn()
  }
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
