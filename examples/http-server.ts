// http-server [PORT]: an HTTP server of several workers. It listens on port 80 as root; whoever reads what comes is `nobody`.
import { createServer } from 'node:http'
import { isWorker, serve, superserve } from 'fdpass/superserver'

if (isWorker) {
  const http = createServer((request, response) => {
    response.end(`${request.url} answered by process ${process.pid}, user ${process.getuid!()}\n`)
  })
  await serve(http) // until the superserver wants this worker to go
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
  console.log('listening') // SIGHUP brings new workers, SIGTERM lets all finish
}
