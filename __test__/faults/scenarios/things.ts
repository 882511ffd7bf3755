import { closeSync, openSync, writeSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { Descriptor, bindListener, memfd, pipe, socketpair } from 'fdpass'
import { contents, keep, keepPair, path, step } from '../scenario.ts'

/** What can be passed, and how it is asked about. */
export async function run(): Promise<void> {
  const memory = keep(await step('memfd', () => memfd({ name: 'faults', data: 'contents', seals: ['grow'] })))
  await step('sized', () => memfd({ size: 4096 }).closeSync())
  if (memory !== undefined) {
    await step(
      'kind',
      () => memory.kind,
      (kind) => kind
    )
    await step(
      'seals',
      () => memory.seals,
      (seals) => seals
    )
    await step('seal', () => memory.seal(['shrink', 'write']))
    await step(
      'sealed',
      () => memory.seals,
      (seals) => seals
    )
    await step(
      'duplicate',
      () => memory.duplicate(),
      (copy) => contents([copy])
    )
    await step('setBlocking', () => memory.setBlocking(false))
  }
  const ends = await step('pipe', pipe)
  if (ends !== undefined) {
    const [reading, writing] = ends
    await step(
      'written',
      () => writeSync(writing.fd, 'x'),
      (count) => count
    )
    await step(
      'kind of a pipe',
      () => reading.kind,
      (kind) => kind
    )
    await step('close', () => reading.close())
    await step('close', () => writing.closeSync())
  }
  const tcp = keep(
    await step('TCP listener', () => bindListener({ port: 0, host: '127.0.0.1', backlog: 5, reusePort: true }))
  )
  await step(
    'its address',
    () => tcp?.address,
    (address) => address && (address as AddressInfo).family
  )
  await step(
    'its kind',
    () => tcp?.kind,
    (kind) => kind
  )
  const unix = keep(await step('Unix listener', () => bindListener({ path: path('listener'), mode: 0o600 })))
  await step(
    'its address',
    () => unix?.address === path('listener'),
    (is) => is
  )
  await step(
    'its kind',
    () => unix?.kind,
    (kind) => kind
  )
  const number = openSync('/dev/null', 'r')
  const adopted = await step('from', () => Descriptor.from(number))
  if (adopted === undefined) closeSync(number)
  else await step('release', () => closeSync(adopted.release()))
  const socketEnds = keepPair(await step('pair', () => socketpair()))
  if (socketEnds !== undefined) {
    const released = socketEnds[0].release()
    const socket = await step('from a socket', () => Descriptor.from(released))
    if (socket === undefined) closeSync(released)
    else {
      keep(socket)
      await step(
        'kind of a socket',
        () => socket.kind,
        (kind) => kind
      )
    }
  }
  await step('many', async () => {
    const many: Descriptor[] = []
    try {
      for (let i = 0; i < 20; i++) many.push(memfd())
    } finally {
      await Promise.all(many.map((each) => each.close()))
    }
  })
}
