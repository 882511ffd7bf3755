// Ours, in two ways:
//   await     each send is awaited; the receiver calls recvFd, or iterates where a message has several descriptors
//   iterate   64 sends at a time, of which the last is awaited; the receiver iterates
import { fileURLToPath } from 'node:url'
import { UnixSocket, socketpair } from 'fdpass'
import * as ends from './ends.mjs'

const { BYTE, K, workload } = ends
const isIterating = ends.way === 'iterate'

if (ends.isReceiver) await receive()
else await send()

async function receive() {
  const socket = UnixSocket.from(3)
  const own = await ends.listenOnLoopback()
  await socket.send(BYTE) // ready
  if (workload === 'w4') {
    for (let received; (received = await socket.recvFd()) !== null;) ends.answer(await received.fd.toSocket())
  } else if (workload === 'w1') {
    for (let received; (received = await socket.recvFd()) !== null;) {
      ends.took(1, 1)
      received.fd.closeSync()
      await socket.sendFd(own._handle.fd, BYTE)
    }
  } else if (isIterating || K > 1) {
    for await (const message of socket) {
      const due = ends.took(1, message.fds.length)
      message.close()
      if (due > 0) await socket.send(BYTE)
    }
  } else {
    for (let received; (received = await socket.recvFd()) !== null;) {
      const due = ends.took(1, 1)
      received.fd.closeSync()
      if (due > 0) await socket.send(BYTE)
    }
  }
  ends.tell()
}

async function send() {
  const [socket, theirs] = socketpair()
  const { there } = ends.startReceiver(fileURLToPath(import.meta.url), { channel: theirs.fd })
  theirs.close()
  await socket.recv()
  if (workload === 'w4') {
    const server = await ends.listenOnLoopback(async (connection) => {
      await socket.sendFd(connection, BYTE)
      connection.destroy()
    })
    console.log(server.address().port)
    return
  }

  const own = await ends.listenOnLoopback()
  const { fd } = own._handle
  const fds = Array.from({ length: K }, () => fd)
  const sendOne = K === 1 ? () => socket.sendFd(fd, BYTE) : () => socket.send(BYTE, { fds })
  let here
  if (workload === 'w1') {
    const trips = new ends.RoundTrips()
    do {
      await socket.sendFd(fd, BYTE)
      const received = await socket.recvFd()
      received.fd.closeSync()
    } while (trips.more())
    here = trips.result
  } else {
    here = await ends.streaming(async (count) => {
      if (isIterating) {
        for (let left = count; left > 0; left--) {
          const sent = sendOne()
          if (left % 64 === 1) await sent
        }
      } else {
        for (let left = count; left > 0; left--) await sendOne()
      }
      await socket.recv()
    })
  }
  socket.shutdown('write')
  ends.print(here, await there)
}
