// The parent of node:cluster: `cluster.mjs rr`, where the primary accepts and passes each connection, or `cluster.mjs none`, where
// the worker accepts. Speaks as parent.c does.
import cluster from 'node:cluster'
import { createServer } from 'node:net'
import { answering, speak } from './speak.mjs'

cluster.schedulingPolicy = process.argv[2] === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR
if (cluster.isPrimary) {
  const worker = cluster.fork()
  worker.once('listening', ({ port }) => speak(port, () => worker.kill('SIGKILL')))
} else {
  createServer(answering).listen(0, '127.0.0.1')
}
