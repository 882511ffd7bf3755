// Clients of the soak test: `clients.js SUBJECT ARGUMENT…`.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { fstatSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { Channel, UnixSocket, memfd } from 'fdpass'
import { connectBroker } from 'fdpass/broker'
import { connectStore } from 'fdpass/store'
import { digest } from '../helpers/connections.ts'
import { generator } from '../helpers/random.ts'

/** A client of the broker: `broker PATH FILES CALLS SEED`. Prints how many answers were right, and errors by their codes. */
async function askBroker([path, ...numbers]: readonly [string, ...string[]]): Promise<void> {
  const [files, calls, seed] = numbers.map(Number) as [number, number, number]
  const { below } = generator(seed)
  const seen: Record<string, number> = {}
  const count = (what: string) => (seen[what] = (seen[what] ?? 0) + 1)

  for (let left = calls; left > 0;) {
    let broker
    try {
      broker = await connectBroker(path)
    } catch (error) {
      count((error as NodeJS.ErrnoException).code!)
      left--
      continue
    }
    while (left > 0) {
      const some = Math.min(left, 1 + below(8))
      left -= some
      await Promise.all(
        Array.from({ length: some }, async () => {
          const file = below(files)
          try {
            const fd = await broker.open(`file-${file}`)
            count(readFileSync(fd.fd, 'utf8') === `content ${file}` ? 'right' : 'wrong')
            fd.closeSync()
          } catch (error) {
            count((error as NodeJS.ErrnoException).code!)
          }
        })
      )
      if (below(20) === 0) break
    }
    broker.close()
  }
  console.log(JSON.stringify(seen))
}

/** A client of the store that is killed: `store PATH SEED`. What it puts expires. */
async function useStore([path, seed]: readonly [string, ...string[]]): Promise<void> {
  const { below } = generator(Number(seed))
  const may = new Set<unknown>(['ENOSPC', 'EEXIST', 'ENOENT', 'ECONNRESET', 'EPIPE', 'ECONNREFUSED'])
  const store = await connectStore(path).catch((error: NodeJS.ErrnoException) => {
    if (may.has(error.code)) process.exit() // the store has been killed, too
    throw error
  })
  for (let i = 0; i < 2000; i++) {
    try {
      const memory = memfd({ data: 'x' })
      await store.put(
        `killed-${below(50)}`,
        Array.from({ length: 1 + below(10) }, () => memory),
        { expires: 100 + below(3000) }
      )
      memory.closeSync()
      for (const fd of await store.get(`killed-${below(50)}`)) fd.closeSync()
    } catch (error) {
      if (!may.has((error as NodeJS.ErrnoException).code)) throw error
    }
  }
}

/** Clients of the superserver: `superserver tcp|unix WHERE SEED`. They ask until standard input ends, and print what they saw. */
async function askSuperserver([family, where, seed]: readonly [string, ...string[]]): Promise<void> {
  const { below } = generator(Number(seed))
  const noise = randomBytes(400_000)
  const seen = { asked: 0, answered: 0, reset: 0, refused: 0, odd: 0, what: [] as string[] }
  const clock = { isOver: false }
  if (family === 'tcp') process.stdin.resume().once('end', () => (clock.isOver = true))

  const converse = async () => {
    let answer = ''
    // Byte by byte: where a read does not fill its buffer, libuv (uv__stream_io) takes the reset that came with it for an end.
    const onread = {
      buffer: Buffer.alloc(1),
      callback: (_: number, byte: Uint8Array) => {
        answer += String(byte)
        return true
      }
    }
    const to = family === 'tcp' ? { host: '127.0.0.1', port: Number(where) } : { path: where! }
    const socket = connect({ ...to, onread }).resume()
    seen.asked++
    try {
      const answered = once(socket, 'end')
      answered.catch(() => {})
      await Promise.race([once(socket, 'connect'), answered])
      const length = below(50) === 0 ? below(200_000) : below(2000)
      const said = noise.subarray(below(200_000)).subarray(0, length)
      socket.write(said.subarray(0, below(length + 1)))
      await delay(below(5))
      socket.end(said.subarray(socket.bytesWritten))
      await answered
      if (answer === digest(said)) seen.answered++
      else {
        seen.odd++
        seen.what.push(`${answer.slice(0, 80)} instead of ${digest(said).slice(0, 80)}`)
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // Also of connect(2): the kernel had it done, and the end came before this process looked.
      if (code === 'ECONNRESET' || code === 'EPIPE') seen.reset++
      else {
        seen.refused++
        seen.what.push(`${code} ${String(error)}`)
      }
    }
    socket.destroy()
  }

  const most = family === 'tcp' ? 90 : 60
  let wanted = 20
  const lane = async (number: number) => {
    while (!clock.isOver) {
      // Sometimes few at a time, and sometimes more than the superserver has descriptors for.
      if (number < wanted) await converse()
      await delay(number < wanted ? below(200) : 200)
      if (number === 0 && below(20) === 0) wanted = 5 + below(most - 5)
    }
  }
  await Promise.all(Array.from({ length: most }, (_, number) => lane(number)))
  seen.what.splice(5)
  console.log(JSON.stringify(seen))
}

/** The other end of a channel: `channel SEED MAX_FDS`, over descriptor 3. It answers requests, sends messages, and asks, until it is killed. */
async function useChannel(numbers: readonly [string, ...string[]]): Promise<void> {
  const [seed, maxFds] = numbers.map(Number) as [number, number]
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
}

const [subject, ...args] = process.argv.slice(2) as [string, string, ...string[]]
const subjects: Record<string, (args: readonly [string, ...string[]]) => Promise<void>> = {
  broker: askBroker,
  channel: useChannel,
  store: useStore,
  superserver: askSuperserver
}
await subjects[subject]!(args)
