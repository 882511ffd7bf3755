// What both ends have in common in every peer in JavaScript: the arguments, what is measured, and what is printed.
// bench/README.md tells what w1 to w5 are. usage of a peer: node PEER.mjs [WAY] WORKLOAD N
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { text } from 'node:stream/consumers'

const args = process.argv.slice(2)
export const isReceiver = args[0] === 'receive'
/** Where the receiver connects to, in peers that need it. */
export const address = isReceiver ? args.splice(0, 2)[1] : undefined
/** How the peer is to work, where it knows several ways. */
export const way = args.length > 2 ? args[0] : undefined
export const [workload = '', count = '0'] = args.slice(-2)
export const N = Number(count)
export const WARM_UP = Math.floor(N / 10) + 1000
/** The workers of a peer that hands connections on. */
export const workers = workload === 'w5' ? 2 : 1
/** Descriptors of each message. */
export const K = workload.startsWith('w3-') ? Number(workload.slice(3)) : 1
export const BYTE = Buffer.from('x')
const ANSWER = Buffer.alloc(64, 'answer')

/** What a worker does with a connection. */
export function answer(connection) {
  connection.on('error', () => {}).end(ANSWER)
}

export async function listenOnLoopback(onConnection) {
  const server = createServer({ pauseOnConnect: true }, onConnection).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

export function cpu() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

function status(key) {
  return Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))[1])
}

let messages = 0
let received = 0
let firstRss = 0
let cpuBegun = 0

/** For the receiver to call with what has come. Returns how many acknowledgements are due: behind the warm-up, and at the end. */
export function took(messageCount, fdCount) {
  if (messages === 0) firstRss = status('VmRSS')
  const before = messages
  messages += messageCount
  received += fdCount
  let due = 0
  if (before < WARM_UP && messages >= WARM_UP) {
    cpuBegun = cpu()
    due++
  }
  if (before < WARM_UP + N && messages >= WARM_UP + N) due++
  return due
}

/** For the receiver to call at the end. */
export function tell() {
  const open = readdirSync('/proc/self/fd').length - 1 // the folder itself
  const there = { cpu: cpu() - cpuBegun, received, firstRss, peakRss: status('VmHWM'), open }
  process.stdout.write(JSON.stringify(there), () => process.exit())
}

/** Starts the receiving end; `there` resolves to what it tells. */
export function startReceiver(file, { channel = 'ignore', at = '-' } = {}) {
  const receiver = spawn(process.execPath, [file, 'receive', at, ...args], {
    stdio: ['ignore', 'pipe', 'inherit', channel]
  })
  const there = text(receiver.stdout).then(JSON.parse)
  there.catch(() => {}) // of w4, which is killed
  return { receiver, there }
}

/** Measures round trips: `more()` at the end of each tells whether there is another one. */
export class RoundTrips {
  #latencies = new Float64Array(N)
  #number = -WARM_UP
  #begun = 0
  #cpuBegun = 0
  #before = 0

  more() {
    const now = performance.now()
    if (this.#number >= 0) this.#latencies[this.#number] = now - this.#before
    this.#before = now
    this.#number++
    if (this.#number === 0) {
      this.#begun = now
      this.#cpuBegun = cpu()
    }
    return this.#number < N
  }

  get result() {
    const latencies = this.#latencies.toSorted()
    return {
      seconds: (this.#before - this.#begun) / 1e3,
      cpu: cpu() - this.#cpuBegun,
      p50: latencies[Math.floor(N / 2)] * 1e3,
      p99: latencies[Math.floor(N * 0.99)] * 1e3
    }
  }
}

/** Measures a stream: `send(count)` resolves when so many messages are acknowledged. */
export async function streaming(send) {
  await send(WARM_UP)
  const [cpuHere, begun] = [cpu(), performance.now()]
  await send(N)
  return { seconds: (performance.now() - begun) / 1e3, cpu: cpu() - cpuHere }
}

/** Prints what both ends have measured. */
export function print(here, there) {
  console.log(JSON.stringify({ ...there, ...here, cpu: here.cpu + there.cpu, sent: (WARM_UP + N) * K }))
  process.exit()
}
