// Our superserver, for w4 and w5 alone, in its ways to hand over: `connection`, `listener`, and `reuse`, a listener for each worker.
import { createServer } from 'node:net'
import { isWorker, serve, superserve } from 'fdpass/superserver'
import { answer, way, workers } from './ends.mjs'

if (isWorker) {
  await serve(createServer(answer))
} else {
  const { addresses } = await superserve({
    listen: 'tcp:127.0.0.1:0',
    module: import.meta.url,
    handoff: way === 'connection' ? way : 'listener',
    ...(way === 'reuse' && { reusePort: true }),
    workers
  })
  console.log(addresses[0].address.port)
}
