// Small messages from one process to another, and requests, over a Channel of ours, child_process's IPC, or a net.Socket.
// usage: node channel.mjs channel|ipc|net messages|descriptors|requests N
import { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { Channel, UnixSocket, socketpair } from 'fdpass'
import * as ends from './ends.mjs'

const { N, WARM_UP, way, workload } = ends
const hasDescriptors = workload === 'descriptors'
/** A sender waits after so many. */
const WINDOW = 64
const sample = (n) => ({ n, method: 'open', path: '/var/log/syslog' })

// Each way: a connection's end, which sends a value with a descriptor or without, and calls for each that comes.
// `send` returns a promise of the kernel having it; `take` is told how many descriptors came, which are closed.

const overChannel = (channel) => ({
  send: (value, server) => channel.send(value, server && [server]),
  async each(take) {
    for await (const message of channel) {
      const { length } = message.fds
      message.close()
      await take(message.value, length)
    }
  },
  request: async (value) => (await channel.request(value)).value,
  respond: (answer) => channel.onRequest(({ value }) => ({ value: answer(value) })),
  close: () => channel.close()
})

const overIpc = (ipc) => ({
  send: (value, server) => new Promise((resolve) => ipc.send(value, server, resolve)),
  each(take) {
    ipc.on('message', (value, handle) => {
      handle?.close()
      return take(value, handle ? 1 : 0)
    })
  },
  close: () => ipc.connected && ipc.disconnect()
})

const overNet = (socket) => ({
  send(value) {
    const json = JSON.stringify(value)
    const length = Buffer.byteLength(json)
    const frame = Buffer.allocUnsafe(4 + length)
    frame.writeUInt32BE(length)
    frame.write(json, 4)
    return new Promise((resolve) => socket.write(frame, resolve))
  },
  each(take) {
    let rest = Buffer.alloc(0)
    socket.on('data', (chunk) => {
      const data = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
      let from = 0
      for (let to; data.length >= from + 4 && data.length >= (to = from + 4 + data.readUInt32BE(from)); from = to) {
        take(JSON.parse(data.toString('utf8', from + 4, to)), 0)
      }
      rest = data.subarray(from)
    })
  },
  close: () => socket.end()
})

function receiverSide() {
  if (way === 'channel') return overChannel(new Channel(UnixSocket.from(3)))
  return way === 'ipc' ? overIpc(process) : overNet(new Socket({ fd: 3, readable: true, writable: true }))
}

function senderSide() {
  const file = fileURLToPath(import.meta.url)
  if (way !== 'channel') {
    const { receiver, there } = ends.startReceiver(file, { channel: way === 'ipc' ? 'ipc' : 'pipe' })
    return { end: way === 'ipc' ? overIpc(receiver) : overNet(receiver.stdio[3]), there }
  }
  const [socket, theirs] = socketpair()
  const { there } = ends.startReceiver(file, { channel: theirs.fd })
  theirs.close()
  return { end: overChannel(new Channel(socket)), there }
}

if (ends.isReceiver) await receive(receiverSide())
else await send(senderSide())

async function receive(end) {
  let arrived = 0
  const take = async (value, descriptors) => {
    if (value.end) {
      await end.send({ arrived })
      return ends.tell()
    }
    if (value.n === arrived && descriptors === (hasDescriptors ? 1 : 0)) arrived++
    const due = ends.took(1, descriptors)
    if (workload === 'requests') await end.send(value)
    else if (due > 0) await end.send({ due })
  }
  end.respond?.((value) => {
    ends.took(1, 0)
    arrived++
    return value
  })
  await end.each(take)
}

async function send({ end, there }) {
  const server = hasDescriptors ? await ends.listenOnLoopback() : undefined
  let answered
  const request = end.request ?? ((value) => answer(() => end.send(value)))
  const answer = (ask) =>
    new Promise((resolve) => {
      answered = resolve
      ask()
    })
  const listening = end.each((value) => answered?.(value))
  let here
  let number = 0
  if (workload === 'requests') {
    const trips = new ends.RoundTrips()
    do await request(sample(number++))
    while (trips.more())
    here = trips.result
  } else {
    here = await ends.streaming((count) =>
      answer(async () => {
        for (let left = count; left > 0; left--) {
          const sent = end.send(sample(number++), server)
          if (left % WINDOW === 1) await sent
        }
      })
    )
  }
  const { arrived } = await answer(() => end.send({ end: true }))
  const told = await there
  end.close()
  await listening
  ends.print({ ...here, arrived, expected: N + WARM_UP }, told)
}
