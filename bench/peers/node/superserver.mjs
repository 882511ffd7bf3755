// Our superserver, for w4 alone, in its two ways to hand over: `connection` and `listener`.
import { createServer } from 'node:net'
import { isWorker, serve, superserve } from 'fdpass/superserver'
import { answer, way } from './ends.mjs'

if (isWorker) {
  await serve(createServer(answer))
} else {
  const { addresses } = await superserve({
    listen: 'tcp:127.0.0.1:0',
    module: import.meta.url,
    handoff: way,
    workers: 1
  })
  console.log(addresses[0].address.port)
}
