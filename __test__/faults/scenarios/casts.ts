import { type AddressInfo, connect as dial } from 'node:net'
import { Descriptor, bindListener, connect, memfd, socketpair } from 'fdpass'
import { exchange, gather, keep, keepPair, path, read, step } from '../scenario.ts'

/** Objects of Node's, made of descriptors. */
export async function run(): Promise<void> {
  const tcp = await step('TCP listener', () => bindListener({ port: 0, host: '127.0.0.1' }))
  const port = await step(
    'port',
    () => (tcp?.address as AddressInfo | undefined)?.port,
    (found) => typeof found
  )
  const server = tcp && keep(await step('toServer', () => tcp.toServer()))
  if (server === undefined) tcp?.closeSync()
  else if (port !== undefined) {
    server.on('connection', (connection) => connection.on('error', () => {}).end('served'))
    await step(
      'connection',
      () => read(dial(port, '127.0.0.1')),
      (said) => said
    )
  }
  const pair = keepPair(await step('pair', () => socketpair()))
  if (pair !== undefined) {
    const descriptor = await step('descriptor', () => Descriptor.from(pair[0].release()))
    const socket = descriptor && keep(await step('toSocket', () => descriptor.toSocket()))
    if (socket === undefined) descriptor?.closeSync()
    else {
      socket.on('error', () => {})
      socket.write('from Node')
      await step(
        'what it wrote',
        () => gather(pair[1], 9, AbortSignal.timeout(500)),
        (got) => got
      )
    }
  }
  const memory = await step('memfd', () => memfd({ data: 'contents' }))
  const stream = memory && (await step('toReadStream', () => memory.toReadStream({ start: 0 })))
  if (stream === undefined) memory?.closeSync()
  else
    await step(
      'what it holds',
      () => read(stream),
      (said) => said
    )
  const listener = await step('Unix listener', () => bindListener({ path: path('cast') }))
  const unix = listener && keep(await step('toUnixServer', () => listener.toUnixServer()))
  if (unix === undefined) listener?.closeSync()
  else {
    const accepted = step('accept', () => unix.accept({ signal: AbortSignal.timeout(1000) })).then(keep)
    keep(await step('connect', () => connect(path('cast'))))
    await accepted
  }
  const other = keepPair(await step('other pair', () => socketpair({ type: 'dgram' })))
  if (other !== undefined) {
    const descriptor = await step('descriptor', () => Descriptor.from(other[0].release()))
    const socket = descriptor && keep(await step('toUnixSocket', () => descriptor.toUnixSocket()))
    if (socket === undefined) descriptor?.closeSync()
    else
      await exchange(
        'cast',
        () => socket.send('cast'),
        (signal) => gather(other[1], 1, signal),
        (got) => got
      )
  }
}
