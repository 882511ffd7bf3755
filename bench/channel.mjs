// Small messages without descriptors, from one process to another: a Channel against child_process's IPC, interleaved in
// one run.
//
//   node bench/channel.mjs [MESSAGES] [ROUNDS]
//
// Prints the messages per second of each round, and the ratio of the medians.
import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Channel, UnixSocket, socketpair } from 'fdpass'

const self = fileURLToPath(import.meta.url)
/** How many messages are on their way before the sender waits for them. */
const WINDOW = 64
/** The loop is warm behind so many. */
const WARM_UP = 20_000

const [role, ...args] = process.argv.slice(2)
if (role === 'receive-channel') {
  const [messages] = args.map(Number)
  const channel = new Channel(UnixSocket.from(3))
  let received = 0
  for await (const { value } of channel) {
    if (value.n !== received++) throw new Error('out of order')
    if (received === WARM_UP || received === WARM_UP + messages) await channel.send(received)
  }
} else if (role === 'receive-ipc') {
  const [messages] = args.map(Number)
  let received = 0
  process.on('message', (value) => {
    if (value.n !== received++) throw new Error('out of order')
    if (received === WARM_UP || received === WARM_UP + messages) process.send(received)
  })
} else {
  const messages = Number(role ?? 300_000)
  const rounds = Number(args[0] ?? 7)
  const results = { channel: [], ipc: [] }
  for (let round = 0; round < rounds; round++) {
    results.channel.push(await overChannel(messages))
    results.ipc.push(await overIpc(messages))
    console.log(`channel ${results.channel.at(-1)}/s, child_process ${results.ipc.at(-1)}/s`)
  }
  const [channel, ipc] = [results.channel, results.ipc].map(median)
  console.log(`medians: channel ${channel}/s, child_process ${ipc}/s, ratio ${(channel / ipc).toFixed(2)}`)
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
}

function sample(n) {
  return { n, method: 'open', path: '/var/log/syslog' }
}

async function overChannel(messages) {
  const [socket, theirs] = socketpair()
  const number = theirs.release()
  const child = spawn(process.execPath, [self, 'receive-channel', messages], {
    stdio: ['ignore', 'inherit', 'inherit', number]
  })
  UnixSocket.from(number).close()
  const channel = new Channel(socket)
  const send = async (from, to) => {
    for (let n = from; n < to; n++) {
      const sent = channel.send(sample(n))
      if (n % WINDOW === 0) await sent
    }
    await channel.receive()
  }
  await send(0, WARM_UP)
  const started = performance.now()
  await send(WARM_UP, WARM_UP + messages)
  const rate = Math.round((messages * 1000) / (performance.now() - started))
  channel.close()
  await once(child, 'exit')
  return rate
}

async function overIpc(messages) {
  const child = fork(self, ['receive-ipc', messages])
  const send = async (from, to) => {
    const answered = once(child, 'message')
    for (let n = from; n < to; n++) {
      const sent = new Promise((resolve) => child.send(sample(n), resolve))
      if (n % WINDOW === 0) await sent
    }
    await answered
  }
  await send(0, WARM_UP)
  const started = performance.now()
  await send(WARM_UP, WARM_UP + messages)
  const rate = Math.round((messages * 1000) / (performance.now() - started))
  child.disconnect()
  await once(child, 'exit')
  return rate
}
