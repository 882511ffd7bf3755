// A server whose connections each answer every byte. Prints the size of the heap without a connection, and again when all are made.
// usage: node --expose-gc crowd.mjs net-server|fdpass-server PATH COUNT
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { listen } from 'fdpass'
import { BYTE } from './ends.mjs'

const [way, path, count] = process.argv.slice(2)
let connected = 0

async function printHeap() {
  await delay(50) // the last ones wait for their byte
  gc()
  console.log(process.memoryUsage().heapUsed)
}

function connection() {
  connected++
  if (connected === Number(count)) printHeap()
}

async function answer(socket) {
  while ((await socket.recv()) !== null) await socket.send(BYTE)
}

if (way === 'net-server') {
  const server = createServer((socket) => {
    connection()
    socket.on('data', () => socket.write(BYTE))
  })
  server.listen({ path, backlog: 4096 }, printHeap)
} else {
  const server = await listen(path, { backlog: 4096 })
  await printHeap()
  for await (const socket of server) {
    answer(socket)
    connection()
  }
}
