import { closeSync } from 'node:fs'
import { type Message, capabilities, socketpair } from 'fdpass'
import { contents, exchange, file, gather, keep, step, text } from '../scenario.ts'

/** What a message was, whose descriptors are closed. */
function shown(message: Message | null): unknown {
  if (message === null) return null
  const { data, fds, credentials, pidfd } = message
  try {
    return [text(data), contents(fds), credentials?.uid]
  } finally {
    pidfd?.closeSync()
  }
}

const types = ['stream', 'seqpacket', 'dgram'] as const

/** Pairs of each type: messages, descriptors, iteration, the end. */
export async function run(): Promise<void> {
  const one = file('one')
  const two = file('two')
  await step('capabilities', capabilities, (told) => Object.keys(told).length)
  for (const type of types) {
    const pair = await step(`${type}: socketpair`, () => socketpair({ type, credentials: true, pidfd: true }))
    if (pair === undefined) continue
    const [a, b] = pair
    keep(a)
    keep(b)
    const messages = [
      ['bytes', 5, (what: string) => a.send(what), b],
      ['two', 3, (what: string) => b.send(what, { fds: [one, two] }), a],
      ['claiming', 8, (what: string) => b.send(what, { credentials: true }), a],
      ['large', 100_000, () => a.send(Buffer.alloc(100_000, 'l')), b]
    ] as const
    for (const [what, length, send, socket] of messages) {
      await exchange(
        `${type}: ${what}`,
        () => send(what),
        (signal) => gather(socket, length, signal),
        (got) => got
      )
    }
    await exchange(
      `${type}: one`,
      () => a.sendFd(one, 'x'),
      (signal) => b.recvFd({ signal }),
      (received) => received && [text(received.data), received.fd && contents([received.fd])]
    )
    for (let i = 0; i < 5; i++) await step(`${type}: ahead ${i}`, () => a.send(`${i}`, { fds: [one] }))
    if (type !== 'dgram') await step(`${type}: shutdown`, () => a.shutdown('write'))
    const signal = AbortSignal.timeout(type === 'dgram' ? 100 : 3000)
    await step(
      `${type}: iterate`,
      async () => {
        const seen: unknown[] = []
        for await (const message of b.messages({ signal })) {
          seen.push(shown(message))
          if (type === 'dgram' && seen.length === 5) break
        }
        return seen
      },
      (seen) => seen
    )
    if (type !== 'dgram')
      await step(
        `${type}: peer`,
        () => a.peer().uid,
        (uid) => uid
      )
    const peer = type === 'dgram' ? undefined : await step(`${type}: peerPidfd`, () => a.peerPidfd())
    await step(`${type}: pidfd`, () => peer?.close())
    await step(
      `${type}: address`,
      () => [typeof a.localAddress, typeof a.remoteAddress],
      (addresses) => addresses
    )
    await step(`${type}: release`, () => closeSync(a.release()))
    await step(`${type}: dispose`, () => b[Symbol.asyncDispose]())
  }
}
