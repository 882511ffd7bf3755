// http-server [PORT]: an HTTP server with several workers. Root listens on port 80; the workers run as `nobody`.
import { createServer } from 'node:http'
import { isWorker, serve, superserve } from 'fdpass/superserver'

if (isWorker) {
  const http = createServer((request, response) => {
    response.end(`${request.url} answered by process ${process.pid}, user ${process.getuid!()}\n`)
  })
  await serve(http) // until the superserver stops this worker
} else {
  const server = await superserve({
    listen: `tcp:${process.argv[2] ?? 80}`,
    module: import.meta.url,
    workers: 2,
    user: 'nobody',
    cwd: '/',
    rlimits: { nofile: 4096, core: 0 }
  })
  server.on('exit', ({ pid, code, signal, lost }) => {
    console.log(`worker ${pid} has ended by ${signal ?? `code ${code}`}, with ${lost} connections`)
  })
  console.log('listening') // SIGHUP replaces the workers; SIGTERM drains them and exits
}
