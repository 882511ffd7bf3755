// Clients of the superserver: `superserver-clients.js tcp|unix WHERE SEED`. They ask until standard input ends, and print what they saw.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { digest } from '../helpers/connections.ts'
import { generator } from '../helpers/random.ts'

const [family, where, seed] = process.argv.slice(2)
const { below } = generator(Number(seed))
const noise = randomBytes(400_000)
const seen = { asked: 0, answered: 0, reset: 0, refused: 0, odd: 0, what: [] as string[] }
const clock = { isOver: false }
if (family === 'tcp') process.stdin.resume().once('end', () => (clock.isOver = true))

async function converse(): Promise<void> {
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
async function lane(number: number): Promise<void> {
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
