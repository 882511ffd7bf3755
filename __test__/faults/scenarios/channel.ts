import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Channel, Descriptor, socketpair } from 'fdpass'
import { closeEach, exchange, file, keep, keepPair, step, within } from '../scenario.ts'

/** What a message of a channel was, whose descriptors are closed. */
function asMessage(message: { value: unknown; fds: readonly Descriptor[] } | null): unknown {
  if (message === null) return null
  const held = new Set(message.fds.map(({ fd }) => readFileSync(`/proc/self/fd/${fd}`, 'utf8')))
  const { length } = message.fds
  closeEach(message.fds)
  return [
    message.value instanceof Uint8Array ? createHash('sha256').update(message.value).digest('hex') : message.value,
    length,
    [...held]
  ]
}

/** Messages in frames, requests, hundreds of descriptors, more than a socket holds. */
export async function channel(): Promise<void> {
  const one = file('one')
  const pair = keepPair(await step('socketpair', () => socketpair()))
  if (pair === undefined) return
  const a = keep(await step('channel a', () => new Channel(pair[0], { maxFds: 1000 })))
  const b = keep(await step('channel b', () => new Channel(pair[1], { maxFds: 1000 })))
  if (a === undefined || b === undefined) return
  // An error at one end is reported to the other end, or seen there as the end.
  void a.closed.then(() => b.close())
  void b.closed.then(() => a.close())
  await exchange(
    'value',
    () => a.send({ value: 1 }),
    (signal) => b.receive({ signal }),
    asMessage
  )
  await exchange(
    'descriptor',
    () => a.send('with', [one]),
    (signal) => b.receive({ signal }),
    asMessage
  )
  await exchange(
    'descriptors',
    () =>
      a.send(
        'many',
        Array.from({ length: 600 }, () => one)
      ),
    (signal) => b.receive({ signal }),
    asMessage
  )
  await exchange(
    'large',
    () => a.send(Buffer.alloc(1_000_000, 'x'), [one]),
    (signal) => b.receive({ signal }),
    asMessage
  )
  const several = Array.from({ length: 10 }, (_, i) => step(`several ${i}`, () => a.send(i, [one])))
  for (let i = 0; i < 10; i++) await step(`received ${i}`, () => b.receive({ signal: within(500) }), asMessage)
  await Promise.all(several)
  b.onRequest(({ value, fds }) => {
    closeEach(fds)
    if (value === 'fail') throw Object.assign(new Error('it fails'), { code: 'MINE' })
    return { value, fds: [one] }
  })
  await step('request', () => a.request('ask', [one], { timeout: 3000 }), asMessage)
  await step('request that fails', () => a.request('fail', null, { timeout: 3000 }))
  await step(
    'requests',
    async () => {
      const answers = [1, 2, 3].map((n) => a.request(n, null, { timeout: 3000 }).then(asMessage))
      for (const answer of await Promise.allSettled(answers)) if (answer.status === 'rejected') throw answer.reason
      return Promise.all(answers)
    },
    (held) => held
  )
  await step('cancelled', () =>
    a.request('never', null, { signal: AbortSignal.timeout(0) }).then(
      (answer) => answer.close(),
      () => {}
    )
  )
  a.close()
  await step('closed', () => b.closed.then((why) => (why === null ? null : Promise.reject(why))))
}
