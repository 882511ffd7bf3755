import { closeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { socketpair } from 'fdpass'
import { failed, file, gather, keep, keepPair, step } from '../scenario.ts'

/** A stream of Node's with descriptors beside its bytes. */
export async function run(): Promise<void> {
  const { USocket } = await import('fdpass/usocket')
  const one = file('one')
  const pair = keepPair(await step('socketpair', () => socketpair()))
  if (pair === undefined) return
  const number = pair[0].release()
  const socket = await step('stream', () => new USocket({ fd: number }))
  if (socket === undefined) return closeSync(number)
  keep(socket)
  // Its errors are events; the number is the caller's where it could not be taken over.
  socket.on('error', (error: Error) => {
    failed('error event', error)
    if (!isTaken) closeSync(number)
  })
  let isTaken = socket.fd !== undefined
  socket.once('connected', () => (isTaken = true))
  const closed = new Promise((resolve) => socket.once('close', resolve))
  await step('written', () => socket.write(Buffer.from('bytes')))
  await step('written with one', () => socket.write({ data: Buffer.from('x'), fds: [one] } as never))
  await step(
    'received',
    () => gather(pair[1], 6, AbortSignal.timeout(300)),
    (got) => got
  )
  await step('sent', () => pair[1].send('to the stream', { fds: [one] }))
  await step(
    'read',
    () => Promise.race([closed, delay(60)]).then(() => String(socket.read())),
    (said) => said
  )
  pair[1].close()
  socket.destroy()
  await step(
    'closed',
    () => closed,
    () => null
  )
}
