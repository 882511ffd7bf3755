// node:cluster, for w4 and w5 alone, in three ways:
//   rr      the primary accepts and passes each connection, which is Node's default
//   none    the workers accept from one listener: nothing is passed
//   reuse   each worker has a listener of its own on the port (`reusePort`, from Node 23.1 on)
import cluster from 'node:cluster'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { answer, listenOnLoopback, way, workers } from './ends.mjs'

cluster.schedulingPolicy = way === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE
if (cluster.isPrimary) {
  const probe = await listenOnLoopback(() => {})
  const { port } = probe.address()
  await once(probe.close(), 'close')
  const started = Array.from({ length: workers }, () => once(cluster.fork({ PORT: port }), 'message'))
  await Promise.all(started)
  console.log(port)
} else {
  const server = createServer(answer)
  server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', reusePort: way === 'reuse' })
  server.on('listening', () => process.send('listening')) // with reusePort the primary does not know of it
}
