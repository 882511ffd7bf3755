// Round trips on one socket while another one of the same process streams descriptors; and the lateness of a timer.
// usage: node load.mjs quiet|receiving|sending MILLISECONDS
import { spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { UnixSocket, socketpair } from 'fdpass'
import { quantile } from '../../table.mjs'
import { BYTE, listenOnLoopback } from './ends.mjs'

const TICK = 10

const [way, time] = process.argv.slice(2)
if (way === 'echo') await echo(UnixSocket.from(3))
else if (way === 'stream') await stream(UnixSocket.from(3))
else if (way === 'drain') await drain(UnixSocket.from(3), { value: 0 })
else await measure()

async function echo(socket) {
  const { fd } = (await listenOnLoopback())._handle
  for (let received; (received = await socket.recvFd()) !== null;) {
    received.fd.closeSync()
    await socket.sendFd(fd, BYTE)
  }
  process.exit()
}

/** Sends at full speed until it is over, or the other end is closed; and counts. */
async function stream(socket, sent = { value: 0 }, isOver = () => false) {
  const { fd } = (await listenOnLoopback())._handle
  try {
    while (!isOver()) {
      for (let i = 1; i < 64; i++) socket.sendFd(fd, BYTE).catch(() => {})
      await socket.sendFd(fd, BYTE)
      sent.value += 64
    }
  } catch (error) {
    if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') throw error
  }
  if (way === 'stream') process.exit()
}

/** Receives until the other end is closed, and counts; a process of its own tells the count. */
async function drain(socket, received) {
  for await (const message of socket) {
    received.value += message.fds.length
    message.close()
  }
  if (way === 'drain') {
    await socket.send(`${received.value}`)
    process.exit()
  }
}

function start(role) {
  const [socket, theirs] = socketpair()
  spawn(process.execPath, [fileURLToPath(import.meta.url), role], { stdio: ['ignore', 'ignore', 'inherit', theirs.fd] })
  theirs.close()
  return socket
}

async function measure() {
  const { fd } = (await listenOnLoopback())._handle
  const partner = start('echo')
  const other = way === 'quiet' ? undefined : start(way === 'receiving' ? 'stream' : 'drain')
  const passed = { value: 0 }
  let isOver = false
  const busy =
    way === 'receiving' ? drain(other, passed) : way === 'sending' ? stream(other, passed, () => isOver) : undefined
  const trip = async () => {
    await partner.sendFd(fd, BYTE)
    const answer = await partner.recvFd()
    answer.fd.closeSync()
  }
  for (let i = 0; i < 100; i++) await trip() // the partner is there
  await delay(time / 5)
  for (let i = 0; i < 100; i++) await trip() // and all are warm
  const before = passed.value

  const latencies = []
  const lateness = []
  let due = performance.now() + TICK
  const tick = () => {
    lateness.push(performance.now() - due)
    due = performance.now() + TICK
    timer = setTimeout(tick, TICK)
  }
  let timer = setTimeout(tick, TICK)
  const begun = performance.now()
  for (let now = begun; now < begun + Number(time);) {
    await trip()
    const after = performance.now()
    latencies.push((after - now) * 1e3)
    now = after
  }
  const seconds = (performance.now() - begun) / 1e3
  clearTimeout(timer)
  const streamed = passed.value - before
  isOver = true
  let lost = 0
  if (way === 'sending') {
    await busy
    other.shutdown('write')
    const there = Number(Buffer.from((await other.recv()).data).toString())
    lost = passed.value - there
  }
  partner.close()
  other?.close()
  const result = {
    seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    latenessP50: quantile(lateness, 0.5),
    latenessP99: quantile(lateness, 0.99),
    latenessMost: Math.max(...lateness),
    perSecond: latencies.length / seconds,
    streamed: streamed / seconds,
    lost
  }
  process.stdout.write(JSON.stringify(result), () => process.exit())
}
