// Ours: `fdpass.mjs connection` or `fdpass.mjs listener`. Speaks as parent.c does.
import { createServer } from 'node:net'
import { isWorker, serve, superserve } from '../../dist/superserver.js'
import { answering, speak } from './speak.mjs'

if (isWorker) {
  await serve(createServer(answering))
} else {
  const server = await superserve({
    listen: 'tcp:127.0.0.1:0',
    module: import.meta.url,
    handoff: process.argv[2],
    workers: 1
  })
  speak(server.addresses[0].address.port, () => server.close({ timeout: 0 }))
}
