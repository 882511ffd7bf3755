// fdpass as a peer of the descriptor-passing benchmark: one await per message.
//
//   node bench/peer.mjs <w1|w2|w3-64|w3-253> <N>      (MODE=iterate: `for await` and unawaited sends, 64 at a time)
//
// w1: N round trips of one descriptor and one byte each way, both ends close what they receive, after 1,000 for warm-up.
// w2, w3-K: N messages of one, or K, descriptors one way, and a byte back at the end. The last line of output is JSON:
// messages or descriptors per second, latency (w1), CPU of both processes, the receiver's memory and open descriptors.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { UnixSocket, socketpair } from 'fdpass'

const isChild = process.argv[2] === 'child'
const [workload, count] = process.argv.slice(isChild ? 3 : 2)
const N = Number(count)
const K = workload.startsWith('w3-') ? Number(workload.slice(3)) : 1
const iterate = process.env.MODE === 'iterate'
const WARM_UP = 1000
const X = Uint8Array.of(120)

const cpu = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}
const now = () => performance.now() / 1e3
const kb = (key) => Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))[1])
const listen = async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

async function receiver() {
  const fd = (await listen())._handle.fd
  const socket = UnixSocket.from(3)
  let [messages, fds, cpu0, rss0] = [0, 0, 0, 0]
  await socket.send('r') // ready
  const begin = () => {
    if (messages++ === 0) {
      cpu0 = cpu()
      rss0 = kb('VmRSS')
    }
  }
  if (workload === 'w1') {
    for (let received; (received = await socket.recvFd()) !== null;) {
      begin()
      received.fd.closeSync()
      fds++
      await socket.sendFd(fd, X)
    }
  } else if (iterate || K > 1) {
    for await (const message of socket) {
      begin()
      fds += message.fds.length
      message.close()
      if (messages === N) await socket.send(X)
    }
  } else {
    for (let received; (received = await socket.recvFd()) !== null;) {
      begin()
      received.fd.closeSync()
      fds++
      if (messages === N) await socket.send(X)
    }
  }
  const open = readdirSync('/proc/self/fd').length - 1
  const result = { cpu: cpu() - cpu0, hwm: kb('VmHWM'), rss0, open, fds }
  process.stdout.write(JSON.stringify(result), () => process.exit(0))
}

async function sender() {
  const fd = (await listen())._handle.fd
  const [socket, theirs] = socketpair()
  const number = theirs.release()
  const child = spawn(
    process.execPath,
    [...process.execArgv, fileURLToPath(import.meta.url), 'child', workload, count],
    {
      stdio: ['ignore', 'pipe', 'inherit', number]
    }
  )
  UnixSocket.from(number).close()
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text) => (output += text))
  const closed = once(child, 'close')
  await socket.recv()

  const latencies = workload === 'w1' ? new Float64Array(N) : undefined
  let [cpu0, start] = [cpu(), now()]
  if (latencies) {
    let before = start
    for (let i = -WARM_UP; i < N; i++) {
      if (i === 0) {
        cpu0 = cpu()
        start = before = now()
      }
      await socket.sendFd(fd, X)
      const received = await socket.recvFd()
      received.fd.closeSync()
      if (i >= 0) {
        const after = now()
        latencies[i] = after - before
        before = after
      }
    }
  } else {
    const fds = new Array(K).fill(fd)
    let last
    for (let i = 0; i < N; i++) {
      if (iterate) {
        last = K === 1 ? socket.sendFd(fd, X) : socket.send(X, { fds })
        if (i % 64 === 63) await last
      } else if (K === 1) {
        await socket.sendFd(fd, X)
      } else {
        await socket.send(X, { fds })
      }
    }
    await last
    await socket.recv()
  }
  const secs = now() - start
  const cpu1 = cpu()
  socket.shutdown('write')
  await closed
  const end = JSON.parse(output)
  latencies?.sort()
  console.log(
    JSON.stringify({
      peer: iterate ? 'fdpass-iterate' : 'fdpass',
      workload,
      n: N,
      secs,
      per_s: (N * K) / secs,
      p50_us: latencies ? latencies[N >> 1] * 1e6 : 0,
      p99_us: latencies ? latencies[Math.floor(N * 0.99)] * 1e6 : 0,
      cpu_s: end.cpu + cpu1 - cpu0,
      rss_kb: end.hwm,
      rss0_kb: end.rss0,
      open_fds: end.open,
      fds_received: end.fds,
      fds_lost: workload === 'w1' ? N + WARM_UP - end.fds : N * K - end.fds
    })
  )
  process.exit(0)
}

await (isChild ? receiver() : sender())
