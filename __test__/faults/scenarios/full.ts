import { setTimeout as delay } from 'node:timers/promises'
import { socketpair } from 'fdpass'
import { broken, contents, file, keep, step, steps } from '../scenario.ts'

const types = ['stream', 'seqpacket', 'dgram'] as const

/** More than a socket holds, with descriptors that have to be captured; aborts among them. */
export async function run(): Promise<void> {
  const one = file('one')
  for (const type of types) {
    const pair = await step(`${type}: socketpair`, () => socketpair({ type }))
    if (pair === undefined) continue
    const [a, b] = pair
    keep(a)
    keep(b)
    const size = type === 'stream' ? 60_000 : 20_000
    const aborting = new AbortController()
    const sent = new Set<number>()
    const sending = Array.from({ length: 24 }, (_, i) =>
      step(`${type}: send ${i}`, () =>
        a
          .send(Buffer.alloc(size, i + 1), { fds: [one, one], signal: i === 23 ? aborting.signal : undefined })
          .then(() => sent.add(i))
      )
    )
    aborting.abort()
    const finished = Promise.all(sending).then(() => delay(type === 'dgram' ? 30 : 0))
    const ending = new AbortController()
    void finished.then(() => (type === 'dgram' ? ending.abort() : a.close()))
    const got = new Map<number, number>()
    const order: number[] = []
    let descriptors = 0
    let errors = 0
    let isEnded = false
    for (; !isEnded && errors < 8;) {
      const known = steps.length
      await step(
        `${type}: receive`,
        () => b.recv({ signal: ending.signal }),
        (message) => {
          isEnded = message === null
          if (message === null) return
          for (const { data } of [message]) {
            for (let from = 0; from < data.length;) {
              const value = data[from]!
              let to = from
              while (to < data.length && data[to] === value) to++
              if (order.at(-1) !== value) order.push(value)
              got.set(value, (got.get(value) ?? 0) + to - from)
              from = to
            }
          }
          descriptors += message.fds.length
          contents(message.fds)
        }
      )
      // How the bytes were joined does not matter: only failures do.
      const taken = steps
        .splice(known)
        .filter(
          ({ step: name, error }) => name !== `${type}: receive` || (error !== undefined && error.code !== 'ABORT_ERR')
        )
      steps.push(...taken)
      const wrong = taken.some(({ step: name }) => name === `${type}: receive`)
      if (ending.signal.aborted) isEnded = true
      if (wrong) errors++
    }
    await finished
    for (const [place, value] of order.entries()) {
      if (got.get(value) !== size && place < order.length - 1 && errors === 0)
        broken.push(`${type}: half of message ${value - 1} is followed by another one`)
    }
    for (const value of order)
      if (order.indexOf(value) !== order.lastIndexOf(value))
        broken.push(`${type}: message ${value - 1} comes in parts, or twice`)
    for (const i of sent)
      if (got.get(i + 1) !== size && errors === 0) broken.push(`${type}: message ${i} was sent, and has not come`)
    if (errors === 0 && descriptors < sent.size * 2)
      broken.push(`${type}: ${descriptors} descriptors of ${sent.size} messages`)
    await step(
      `${type}: done`,
      () => [got.size, descriptors],
      (sums) => sums
    )
    b.close()
  }
}
