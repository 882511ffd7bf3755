// node:child_process: process.send(message, handle), with a net.Server for w1 and w2, which may be sent again and again, and
// net.Sockets for w4. A message takes one handle, of a stream or of UDP: w3 cannot be said.
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import * as ends from './ends.mjs'

const { workload } = ends

if (ends.isReceiver) await receive()
else await send()

async function receive() {
  const own = await ends.listenOnLoopback()
  process.on('message', (message, handle) => {
    if (message === 'end') return ends.tell()
    if (workload === 'w4') {
      if (handle) ends.answer(handle)
      return
    }
    const due = ends.took(1, handle ? 1 : 0)
    handle?.close()
    if (workload === 'w1') process.send('x', own)
    else if (due > 0) process.send('x')
  })
  process.on('disconnect', () => process.exit())
  process.send('ready')
}

async function send() {
  const { receiver, there } = ends.startReceiver(fileURLToPath(import.meta.url), { channel: 'ipc' })
  await once(receiver, 'message')
  if (workload === 'w4') {
    const server = await ends.listenOnLoopback((connection) => receiver.send('x', connection, () => {}))
    console.log(server.address().port)
    return
  }

  const own = await ends.listenOnLoopback()
  let here
  if (workload === 'w1') {
    const trips = new ends.RoundTrips()
    await new Promise((resolve) => {
      receiver.on('message', (_message, handle) => {
        handle.close()
        if (trips.more()) receiver.send('x', own)
        else resolve()
      })
      receiver.send('x', own)
    })
    here = trips.result
  } else {
    here = await ends.streaming((count) => {
      let sent = 0
      let pending = 0
      const pump = () => {
        for (; sent < count && pending < 64; sent++, pending++) receiver.send('x', own, written)
      }
      const written = () => {
        pending--
        pump()
      }
      pump()
      return once(receiver, 'message')
    })
  }
  receiver.send('end')
  ends.print(here, await there)
}
