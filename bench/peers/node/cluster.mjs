// node:cluster, for w4 alone, in two ways:
//   rr     the primary accepts and passes each connection, which is Node's default
//   none   the worker accepts: nothing is passed
import cluster from 'node:cluster'
import { createServer } from 'node:net'
import { answer, way } from './ends.mjs'

cluster.schedulingPolicy = way === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR
if (cluster.isPrimary) {
  cluster.fork().once('listening', ({ port }) => console.log(port))
} else {
  createServer(answer).listen(0, '127.0.0.1')
}
