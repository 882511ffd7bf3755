import { closeSync, existsSync, writeFileSync } from 'node:fs'
import { bind, bindListener, connect, listen } from 'fdpass'
import { broken, contents, exchange, file, keep, path, step, steps } from '../scenario.ts'

/** Listening, connecting, datagrams to addresses; a file that a process before has left. */
export async function run(): Promise<void> {
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
      [1, 2].map((n) => step(`accept ${n}`, () => server.accept({ signal: AbortSignal.timeout(2000) })).then(keep))
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
        () => connection.recv({ signal: AbortSignal.timeout(300) }),
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
