// Accepts so many connections, opened as fast as another process can, and says how many calls of accept(2) that took:
//
//   strace -f -c -e trace=accept4 node bench/accept.mjs [CONNECTIONS] [iterate|accept]
//
// Then sends messages over one of them while the others are idle: `idle` tells the system calls of a wake.
import { spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { listen } from 'fdpass'

const count = Number(process.argv[2] ?? 10_000)
const mode = process.argv[3] ?? 'iterate'
const rounds = Number(process.argv[4] ?? 0)
const address = `\0fdpass-bench-${process.pid}`

const client = `
import socket, sys
sockets = []
for i in range(${count}):
    s = socket.socket(socket.AF_UNIX)
    s.connect("\\0" + sys.argv[1])
    sockets.append(s)
print("connected", flush=True)
s = sockets[0]
for i in range(${rounds}):
    s.send(b"x")
    s.recv(1)
sys.stdin.read()
`
const server = await listen(address, { backlog: 4096 })
const child = spawn('python3', ['-c', client, address.slice(1)], { stdio: ['pipe', 'pipe', 'inherit'] })
const connections = []
const started = performance.now()
if (mode === 'iterate') {
  for await (const connection of server) {
    connections.push(connection)
    if (connections.length === count) break
  }
} else {
  while (connections.length < count) connections.push(await server.accept())
}
const milliseconds = performance.now() - started
console.log(`${connections.length} connections in ${Math.round(milliseconds)} ms`)
if (rounds > 0) {
  for (const idle of connections.slice(1)) idle.recv().catch(() => {})
  await delay(100)
  const active = connections[0]
  for (let i = 0; i < rounds; i++) {
    await active.recv()
    await active.send('y')
  }
  console.log(`${rounds} round trips over one of ${count} connections`)
}
child.stdin.end()
for (const connection of connections) connection.close()
server.close()
