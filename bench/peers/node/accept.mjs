// Accepts connections on a Unix domain socket and closes each; prints how long the last N took, and the CPU of that.
// usage: node accept.mjs iterate|accept|net PATH WARM-UP N    prints: ready, then SECONDS CPU
import { createServer } from 'node:net'
import { listen } from 'fdpass'
import { cpu } from './ends.mjs'

const [way, path, ...numbers] = process.argv.slice(2)
const [warmUp, N] = numbers.map(Number)
let accepted = 0
let begun = performance.now()
let cpuBegun = cpu()

/** Whether another connection is to come. */
function more() {
  accepted++
  if (accepted === warmUp) {
    begun = performance.now()
    cpuBegun = cpu()
  }
  if (accepted < warmUp + N) return true
  console.log(`${(performance.now() - begun) / 1e3} ${cpu() - cpuBegun}`)
  return false
}

if (way === 'net') {
  const server = createServer((connection) => {
    connection.destroy()
    if (!more()) server.close()
  })
  server.listen({ path, backlog: 511 }, () => console.log('ready'))
} else {
  const server = await listen(path, { backlog: 511 })
  console.log('ready')
  if (way === 'iterate') {
    for await (const connection of server) {
      connection.close()
      if (!more()) break
    }
  } else {
    do (await server.accept()).close()
    while (more())
  }
  server.close()
}
