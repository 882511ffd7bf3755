// npm's usocket, in two ways:
//   plain   each write waits for the callback of the one before
//   acked   no more than 128 messages are on their way: usocket loses the descriptors of a message that the socket does not
//           take at once
import { createRequire } from 'node:module'
import { closeSync, mkdtempSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as ends from './ends.mjs'

// bench/build.mjs has installed it there. (In this repository `usocket` is our own, of the same interface.)
const { USocket, UServer } = createRequire(new URL('../../.build/usocket/', import.meta.url))('usocket')
const { BYTE, K, workload } = ends
const isAcked = ends.way === 'acked'
const WINDOW = 64

if (ends.isReceiver) await receive()
else await send()

async function receive() {
  const own = await ends.listenOnLoopback()
  const fds = [own._handle.fd]
  const socket = new USocket()
  let taken = 0
  await new Promise((resolve) => socket.connect(ends.address, resolve)) // 'readable' before that aborts the process
  socket.on('readable', () => {
    for (let message; (message = socket.read(undefined, null)) && (message.data || message.fds.length > 0);) {
      const length = message.data?.length ?? 0
      const due = ends.took(length, message.fds.length)
      if (workload === 'w4') {
        for (const fd of message.fds) ends.answer(new Socket({ fd, readable: true, writable: true }))
        continue
      }
      for (const fd of message.fds) closeSync(fd)
      taken += length
      if (workload === 'w1') {
        socket.write({ data: BYTE, fds })
      } else if (isAcked) {
        if (taken < WINDOW && due === 0) continue
        socket.write(Buffer.alloc(taken))
        taken = 0
      } else if (due > 0) {
        socket.write(Buffer.alloc(due))
      }
    }
  })
  socket.on('end', () => ends.tell())
}

async function send() {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  const at = join(folder, 'socket')
  const server = new UServer()
  const connected = new Promise((resolve) => server.on('connection', resolve))
  await new Promise((resolve) => server.listen(at, resolve))
  const { there } = ends.startReceiver(fileURLToPath(import.meta.url), { at })
  const socket = await connected
  rmSync(folder, { recursive: true })
  if (workload === 'w4') {
    const listener = await ends.listenOnLoopback((connection) => {
      socket.write({ data: BYTE, fds: [connection._handle.fd], callback: () => connection.destroy() })
    })
    console.log(listener.address().port)
    return
  }

  const own = await ends.listenOnLoopback()
  const fds = Array.from({ length: K }, () => own._handle.fd)
  let here
  if (workload === 'w1') {
    const trips = new ends.RoundTrips()
    await new Promise((resolve) => {
      socket.on('readable', () => {
        const message = socket.read(undefined, null)
        if (!message || message.fds.length === 0) return
        for (const fd of message.fds) closeSync(fd)
        if (trips.more()) socket.write({ data: BYTE, fds })
        else resolve()
      })
      socket.write({ data: BYTE, fds })
    })
    here = trips.result
  } else {
    let acknowledged
    socket.on('readable', () => {
      const message = socket.read(undefined, null)
      if (message?.data) acknowledged?.(message.data.length)
    })
    here = await ends.streaming(
      (count) =>
        new Promise((resolve) => {
          let sent = 0
          let confirmed = 0
          let isWriting = false
          let isWaiting = false
          const pump = () => {
            isWriting = true
            while (sent < count && !isWaiting) {
              if (isAcked && sent - confirmed >= 2 * WINDOW) break
              sent++
              isWaiting = true
              socket.write({ data: BYTE, fds, callback: written })
            }
            isWriting = false
          }
          const written = () => {
            isWaiting = false
            if (!isWriting) pump()
          }
          acknowledged = (length) => {
            confirmed += length
            if (!isAcked || confirmed === count) resolve()
            else pump()
          }
          pump()
        })
    )
  }
  socket.end()
  ends.print(here, await there)
}
