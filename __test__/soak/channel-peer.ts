// The other end of a channel of the soak test: `channel-peer.js SEED MAX_FDS`, over descriptor 3. It answers requests, sends messages, and asks.
import { fstatSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Channel, UnixSocket, memfd } from 'fdpass'
import { generator } from '../helpers/random.ts'

const [seed, maxFds] = process.argv.slice(2).map(Number) as [number, number]
const { below } = generator(seed)
const channel = new Channel(UnixSocket.from(3), { maxFds })

channel.onRequest(async (request) => {
  const { n, back, pause, text } = request.value as { n: number; back: number; pause: number; text: string }
  const inodes = request.fds.map(({ fd }) => fstatSync(fd).ino)
  await delay(pause)
  for (const fd of request.fds.slice(back)) fd.closeSync()
  return { value: { n, inodes, text }, fds: request.fds.slice(0, back) }
})
// What ends it ends the process.
void channel.closed.then(() => process.exit(0))

const ENDED = new Set<unknown>([
  'ECONNRESET',
  'EPIPE',
  'ERR_SOCKET_CLOSED',
  'EMFILE',
  'ERR_CONTROL_TRUNCATED',
  'ERR_OUT_OF_RANGE',
  'EMSGSIZE'
])
const may = (error: unknown) => {
  if (!ENDED.has((error as NodeJS.ErrnoException).code)) throw error
}
for (let n = 0; ;) {
  await delay(below(40))
  let memory
  try {
    memory = memfd({ data: `${n}` })
    await channel.send(
      { n },
      Array.from({ length: below(8) }, () => memory!)
    )
    n++
  } catch (error) {
    may(error)
  }
  memory?.closeSync()
  if (below(4) > 0) continue
  try {
    const answer = await channel.request({ n })
    if (readFileSync(answer.fds[0]!.fd, 'utf8') !== `${n}`) throw new Error(`${n} was answered otherwise`)
    answer.close()
  } catch (error) {
    may(error)
  }
}
