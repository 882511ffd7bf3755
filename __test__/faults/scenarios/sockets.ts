import { closeSync, existsSync, writeFileSync } from 'node:fs'
import { type Message, bind, bindListener, capabilities, connect, listen, socketpair } from 'fdpass'
import { broken, contents, exchange, file, gather, keep, path, pause, step, steps, text, within } from '../scenario.ts'

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
export async function pairs(): Promise<void> {
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
    const signal = within(type === 'dgram' ? 100 : 3000)
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

/** More than a socket holds, with descriptors that have to be captured; aborts among them. */
export async function full(): Promise<void> {
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
    const finished = Promise.all(sending).then(() => pause(type === 'dgram' ? 30 : 0))
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

/** Listening, connecting, datagrams to addresses; a file that a process before has left. */
export async function connections(): Promise<void> {
  const one = file('one')
  const address = path('socket')
  writeFileSync(path('no-socket'), '')
  await step('in the way', () => listen(path('no-socket')))
  // The file of a process that has ended.
  const stale = await step('stale', () => bindListener({ path: address }))
  if (stale !== undefined) await step('left', () => closeSync(stale.release()))
  const server = keep(
    await step('listen', () => listen(address, { mode: 0o600, credentials: true, allow: () => Promise.resolve(true) }))
  )
  if (server !== undefined) {
    const accepting = Promise.all(
      [1, 2].map((n) => step(`accept ${n}`, () => server.accept({ signal: within(2000) })).then(keep))
    )
    for (const n of [1, 2]) {
      const client = keep(
        await step(`connect ${n}`, () => connect(address, { localAddress: n === 1 ? path('client') : undefined }))
      )
      if (client === undefined) continue
      await step(
        `peer ${n}`,
        () => client.peer().uid,
        (uid) => uid
      )
      await step(`sent ${n}`, () => client.sendFd(one, `${n}`))
    }
    const accepted = await accepting
    for (const connection of accepted) {
      if (connection === undefined) continue
      await step(
        'received',
        () => connection.recv({ signal: within(300) }),
        (message) => message && [contents(message.fds), message.credentials?.uid]
      )
      await step('addresses', () => [connection.localAddress === address, connection.remoteAddress === null])
    }
    await step('close', () => server.close())
    if (existsSync(address) && steps.every(({ error }) => error === undefined))
      broken.push('the file of the server is left')
  }
  const abstract = keep(await step('abstract', () => listen(`\0${address}`, { type: 'seqpacket', descriptors: false })))
  if (abstract !== undefined) {
    const iteration = abstract[Symbol.asyncIterator]()
    const next = step(
      'iterate',
      () => iteration.next(),
      ({ done }) => done
    ).then((result) => keep(result?.value))
    const client = keep(
      await step('kind of a connection to it', () => connect(abstract.address, { type: 'seqpacket' }))
    )
    if (client === undefined) abstract.close()
    await next
  }
  const receiver = keep(await step('bind', () => bind(path('receiver'), { mode: 0o600, credentials: true })))
  const sender = keep(await step('bind anywhere', () => bind(null)))
  if (receiver !== undefined && sender !== undefined) {
    await exchange(
      'datagram',
      () => sender.send('to', { to: receiver.localAddress!, fds: [one] }),
      (signal) => receiver.recv({ signal }),
      (message) => [contents(message!.fds), typeof message!.address]
    )
    await step('connected', () => connect(receiver.localAddress!, { type: 'dgram' }).then((socket) => socket.close()))
  }
  await step('nobody', () => connect(path('nobody')))
}
