import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, symlinkSync, existsSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bench, built } from '../build.mjs'
import { column, decimal, integer } from '../table.mjs'

const CLIENTS = 50
/** How many of them ask for what takes 200 ms. */
const SLOW = 5
/** A request without an answer after this time has failed, in milliseconds. */
const PATIENCE = 10_000

const apps = {
  express: `import express from 'express'
const app = express()
app.get('/', (request, response) => response.send('ok'))
app.get('/slow', (request, response) => setTimeout(() => response.send('slow'), 200))
app.listen(process.env.PORT, () => process.send?.('ready'))`,
  fastify: `import fastify from 'fastify'
const app = fastify()
app.get('/', async () => 'ok')
app.get('/slow', async () => { await new Promise((resolve) => setTimeout(resolve, 200)); return 'slow' })
await app.listen({ port: Number(process.env.PORT) })`
}

/** Parents: each starts two workers of the app in its first argument, and reloads at each line of standard input. */
const parents = {
  cluster: `import cluster from 'node:cluster'
cluster.setupPrimary({ exec: process.argv[2] })
const fork = () => new Promise((resolve) => { const worker = cluster.fork(); worker.once('listening', () => resolve(worker)) })
let workers = await Promise.all([fork(), fork()])
console.log('ready')
for await (const _ of process.stdin) {
  const old = workers
  workers = await Promise.all([fork(), fork()])
  for (const worker of old) worker.disconnect()
  console.log('ready')
}
process.exit()`,
  restart: `import { spawn } from 'node:child_process'
import { connect } from 'node:net'
const start = () => spawn(process.execPath, [process.argv[2]], { stdio: 'ignore' })
const listens = () => new Promise((resolve) => connect(process.env.PORT, '127.0.0.1').on('connect', function () { this.destroy(); resolve(true) }).on('error', () => resolve(false)))
let child = start()
while (!(await listens()));
console.log('ready')
for await (const _ of process.stdin) {
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill()
  await ended
  child = start()
  while (!(await listens()));
  console.log('ready')
}
child.kill()`,
  superserver: `import { superserve } from 'fdpass/superserver'
const [, , module, handoff, reusePort] = process.argv
const options = { module, preload: true, handoff, workers: 2, execArgv: [], ...(reusePort && { reusePort: true }) }
const server = await superserve({ listen: 'tcp:127.0.0.1:' + process.env.PORT, ...options })
console.log('ready')
for await (const _ of process.stdin) {
  await server.reload()
  console.log('ready')
}
await server.close()`,
  takeover: `import { spawn } from 'node:child_process'
import { once } from 'node:events'
const [, , module, cli] = process.argv
const { PORT } = process.env
const start = async () => {
  const args = [cli, 'serve', '--takeover', './takeover-' + PORT, '--listen', 'tcp:127.0.0.1:' + PORT, '--workers', '2', '--', module]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let text = ''
  child.stderr.setEncoding('utf8').on('data', (part) => (text += part))
  while (text.match(/is ready\\n/g)?.length !== 2) await once(child.stderr, 'data')
  return child
}
let child = await start()
console.log('ready')
for await (const _ of process.stdin) {
  const ended = once(child, 'exit')
  child = await start()
  await ended
  console.log('ready')
}
child.kill()
await once(child, 'exit')`,
  activation: `import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { bindListener } from 'fdpass'
const listener = bindListener({ host: '127.0.0.1', port: Number(process.env.PORT) })
const run = ['-c', 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', 'sh', process.execPath, '--import', 'fdpass/listen', process.argv[2]]
const start = () => spawn('sh', run, { stdio: ['ignore', 'ignore', 'inherit', listener.fd] })
let child = start()
console.log('ready')
for await (const _ of process.stdin) {
  const ended = once(child, 'exit')
  child.kill()
  await ended
  child = start()
  console.log('ready')
}
child.kill()
await once(child, 'exit')
listener.closeSync()`
}

const folder = built('reload')

/** Starts a parent; resolves when its workers serve. `reload` resolves when the new workers do. */
async function startParent(name, app, port, ...args) {
  writeFileSync(join(folder, `${name}.mjs`), parents[name])
  const child = spawn(process.execPath, [join(folder, `${name}.mjs`), app, ...args], {
    cwd: folder,
    env: { ...process.env, PORT: port },
    stdio: ['pipe', 'pipe', 'inherit']
  })
  const lines = child.stdout.setEncoding('utf8')[Symbol.asyncIterator]()
  await lines.next()
  return {
    async reload() {
      child.stdin.write('\n')
      await lines.next()
    },
    async stop() {
      child.stdin.end()
      await once(child, 'exit')
    }
  }
}

/** Starts an app with PM2, whose daemon is its own. */
async function startPm2(app, port) {
  const env = { ...process.env, PORT: port, PM2_HOME: mkdtempSync(join(tmpdir(), 'fdpass-pm2-')) }
  const pm2 = async (...args) => {
    const child = spawn(join(folder, 'node_modules/.bin/pm2'), [...args, '--silent'], {
      cwd: folder,
      env,
      stdio: 'ignore',
      timeout: 60_000 // it waits for ever if its daemon does not answer
    })
    const [code] = await once(child, 'exit')
    if (code !== 0) throw new Error(`pm2 ${args[0]}: code ${code}`)
  }
  await pm2('start', app, '-i', '2', '--name', 'app')
  return { reload: () => pm2('reload', 'app'), stop: () => pm2('kill') }
}

const peers = {
  'pm2-reload': { is: 'PM2: pm2 start -i 2, pm2 reload', start: startPm2 },
  cluster: {
    is: "node:cluster: fork, wait for 'listening', disconnect() the old ones",
    start: (...to) => startParent('cluster', ...to)
  },
  restart: { is: 'one process: SIGTERM, then a new one', start: (...to) => startParent('restart', ...to) },
  'fdpass-connection': {
    is: "fdpass/superserver with preload, handoff: 'connection'",
    start: (...to) => startParent('superserver', ...to, 'connection')
  },
  'fdpass-listener': {
    is: "fdpass/superserver with preload, handoff: 'listener'",
    start: (...to) => startParent('superserver', ...to, 'listener')
  },
  'fdpass-reuse-port': {
    is: "fdpass/superserver with preload, handoff: 'listener', reusePort",
    start: (...to) => startParent('superserver', ...to, 'listener', 'reuse')
  },
  'fdpass-takeover': {
    is: 'fdpass serve --takeover: the next one takes over',
    start: (...to) => startParent('takeover', ...to, join(bench, '..', 'dist', 'lib', 'cli', 'main.js'))
  },
  'fdpass-activation': {
    is: 'node --import fdpass/listen, one process with socket activation: SIGTERM, then a new one',
    start: (...to) => startParent('activation', ...to)
  }
}

function ask(port, path, agent) {
  return new Promise((resolve, reject) => {
    const request = http.get({ host: '127.0.0.1', port, path, agent }, (response) => {
      response
        .resume()
        .on('end', () => resolve())
        .on('error', reject)
    })
    request.on('error', reject)
    request.setTimeout(PATIENCE, () => request.destroy(new Error('no answer')))
  })
}

/** Reloads so many times under load; resolves to what the clients have seen. */
async function measure(peer, app, keepAlive, reloads) {
  const path = join(folder, `${app}.mjs`)
  writeFileSync(path, apps[app])
  if (!existsSync(join(folder, 'node_modules/fdpass')))
    symlinkSync(join(bench, '..'), join(folder, 'node_modules/fdpass'))
  const probe = http.createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  const server = await peers[peer].start(path, port)
  const times = []
  let failed = 0
  const done = new AbortController()
  const clients = Array.from({ length: CLIENTS }, async (_, index) => {
    const agent = new http.Agent({ keepAlive, maxSockets: 1 })
    while (!done.signal.aborted) {
      const begun = performance.now()
      const isSlow = index < SLOW
      await ask(port, isSlow ? '/slow' : '/', agent).then(
        () => isSlow || times.push(performance.now() - begun),
        () => failed++
      )
    }
    agent.destroy()
  })
  const begun = performance.now()
  for (let i = 0; i < reloads; i++) {
    await sleep(500)
    await server.reload()
  }
  await sleep(500)
  done.abort()
  await Promise.all(clients)
  const seconds = (performance.now() - begun) / 1e3
  await server.stop()
  const sorted = times.toSorted((a, b) => a - b)
  return {
    seconds,
    answers: times.length,
    failed,
    failedEach: failed / reloads,
    p99: sorted[Math.floor(sorted.length * 0.99)],
    max: sorted.at(-1)
  }
}

export default {
  title: 'Reloading a server',
  text: `An unmodified server of express or fastify with two workers, ${CLIENTS} clients, each of which asks again when it is answered, ${SLOW} of them
for what takes 200 ms. Five complete reloads. A request has failed if it got no answer.`,
  rounds: 1,
  needs: {},
  tools: ['reload'],
  describe: (peer) => peers[peer].is,
  workloads: Object.keys(apps).flatMap((app) => [`${app} keep-alive`, `${app} close`]),

  columns: () => [
    column('failed a reload', 'failedEach', decimal(1)),
    column('answers', 'answers', integer),
    column('p99 ms', 'p99', decimal(1)),
    column('max ms', 'max', integer)
  ],

  cases: ({ quick }) =>
    Object.keys(apps).flatMap((app) =>
      [true, false].flatMap((keepAlive) =>
        Object.keys(peers)
          .filter((peer) => !quick || (peer.startsWith('fdpass') && app === 'express'))
          .map((peer) => ({
            workload: `${app} ${keepAlive ? 'keep-alive' : 'close'}`,
            peer,
            fixed: quick ? 1 : 5,
            measure: (n) => measure(peer, app, keepAlive, n)
          }))
      )
    )
}
