// `npm run test:servers [-- PROGRAM…] [--set NAME] [--reloads N] [--handoff NAME] [--mode MODE] [--restarts N] [--package PATH]`: servers that people have,
// unmodified, under `superserve({ preload: true })`, with reloads while clients ask; and one of them under `fdpass serve --takeover` and under
// socket activation, with N restarts. No request may fail.
//
// The programs of a set (server-programs.mjs), `small` (default), `frameworks` or `release`, are installed from npm, once, into
// node_modules/.fdpass/servers-SET, and built there. It prints a line for each run, and `N passed, N failed` in the last one.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'
import { folderOf, prepare, programsOf } from './server-programs.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    set: { type: 'string', default: 'small' },
    reloads: { type: 'string', default: '5' },
    restarts: { type: 'string', default: '10' },
    handoff: { type: 'string', multiple: true, default: ['connection', 'listener'] },
    mode: { type: 'string', multiple: true, default: ['keep', 'close'] },
    package: { type: 'string', default: root }
  }
})
const programs = programsOf(values.set)
const chosen = positionals.length > 0 ? positionals.filter((name) => name !== 'restarts') : Object.keys(programs)

/** Requires a package that is installed for the programs that share an installation. */
const requireThere = (name) => createRequire(join(folderOf(values.set), 'x.js'))(name)

/** Returns the file of an entry point of the package that is tested: this check-out (default), or an installed one. */
const entryPoint = createRequire(join(values.package, 'package.json')).resolve

/** What the clients of one run have seen. */
class Record {
  answers = 0
  pids = new Set()
  failures = new Map()
  done = false

  answer(text) {
    this.answers++
    const [, pid] = /^ok (\d+)/.exec(text) ?? []
    if (pid !== undefined) this.pids.add(pid)
  }

  fail(error) {
    const key = error.code ?? error.message
    this.failures.set(key, (this.failures.get(key) ?? 0) + 1)
  }

  get failed() {
    return [...this.failures.values()].reduce((sum, count) => sum + count, 0)
  }
}

function request(port, path, agent, headers) {
  return new Promise((resolve, reject) => {
    const asking = http.get({ host: '127.0.0.1', port, path, agent, headers }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (data) => (text += data))
      response.on('error', reject).on('end', () => {
        if (response.statusCode < 400) resolve(text)
        else reject(new Error(`status ${response.statusCode}`))
      })
    })
    asking.on('error', reject)
  })
}

/** Fifty HTTP clients, each of which asks again when it has its answer; five of them for what takes 200 ms. */
async function httpClients(port, record, keepAlive, slow, { path: usual = '/', headers } = {}) {
  const clients = Array.from({ length: 50 }, async (_, index) => {
    const agent = new http.Agent({ keepAlive, maxSockets: 1 })
    while (!record.done) {
      const path = slow && index < 5 ? '/slow' : usual
      await request(port, path, agent, headers).then(
        (text) => record.answer(text),
        (error) => record.fail(error)
      )
    }
    agent.destroy()
  })
  await Promise.all(clients)
}

/** Twenty WebSocket clients, which ask, and connect again after the close frame 1001 (going away). */
async function webSockets(port, record) {
  const { WebSocket } = requireThere('ws')
  const clients = Array.from({ length: 20 }, async () => {
    while (!record.done) {
      const socket = new WebSocket(`ws://127.0.0.1:${port}`)
      let code
      const closed = new Promise((resolve) => socket.on('close', (number) => resolve((code = number))))
      socket.on('error', (error) => record.fail(error))
      socket.on('message', (text) => {
        record.answer(String(text))
        if (record.done) socket.close()
        else setTimeout(() => socket.readyState === 1 && socket.send('x'), 5)
      })
      socket.on('open', () => socket.send('x'))
      await closed
      if (!record.done && code !== 1001) record.fail(new Error(`close ${code}`))
    }
  })
  await Promise.all(clients)
}

/** Twenty socket.io clients, which reconnect by themselves, and ask again what was not answered. */
async function socketIo(port, record) {
  const { io } = requireThere('socket.io-client')
  const clients = Array.from({ length: 20 }, async () => {
    const socket = io(`http://127.0.0.1:${port}`, { transports: ['websocket'], reconnectionDelay: 10, forceNew: true })
    socket.on('connect_error', (error) => record.fail(error))
    while (!record.done) {
      await socket
        .timeout(10_000)
        .emitWithAck('ask', 'x')
        .then(
          (text) => record.answer(text),
          (error) => {
            if (socket.active === false) record.fail(error)
          }
        )
      await sleep(5)
    }
    socket.close()
  })
  await Promise.all(clients)
}

/** Twenty MQTT clients, which connect again by themselves, and ask again what was not answered. */
async function mqtt(port, record) {
  const { connectAsync } = requireThere('mqtt')
  const clients = Array.from({ length: 20 }, async (_, index) => {
    const clientId = `client-${index}`
    const client = await connectAsync(`mqtt://127.0.0.1:${port}`, { clientId, reconnectPeriod: 10 })
    client.on('error', (error) => record.fail(error)).on('message', (_topic, text) => record.answer(String(text)))
    await client.subscribeAsync(`answer/${clientId}`)
    while (!record.done) {
      // Of QoS 1: the client sends it again after it has connected again.
      await client.publishAsync('ask', 'x', { qos: 1 }).catch((error) => record.fail(error))
      await sleep(5)
    }
    await client.endAsync()
  })
  await Promise.all(clients)
}

/** Twenty HTTP/2 clients of Node's, which connect again at GOAWAY, and repeat nothing. */
async function http2Clients(port, record) {
  const clients = Array.from({ length: 20 }, async () => {
    let session
    while (!record.done) {
      if (session === undefined || session.closed || session.destroyed) {
        session = http2.connect(`http://127.0.0.1:${port}`)
        session
          .on('error', (error) => record.fail(error))
          .on('goaway', function () {
            this.close()
          })
      }
      let text = ''
      try {
        for await (const part of session.request({ ':path': '/' }).setEncoding('utf8')) text += part
        record.answer(text)
      } catch (error) {
        record.fail(error)
      }
    }
    session.close()
  })
  await Promise.all(clients)
}

/** gRPC's serializer of bytes. */
const as = (value) => value

/** Twenty gRPC clients over one connection each: GOAWAY moves them to another one, and no call fails. */
async function grpc(port, record) {
  const { Client, credentials } = requireThere('@grpc/grpc-js')
  const clients = Array.from({ length: 20 }, async () => {
    const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1
    })
    while (!record.done) {
      await new Promise((resolve) =>
        client.makeUnaryRequest('/test/ask', as, as, Buffer.from('x'), (error, answer) => {
          if (error) record.fail(Object.assign(error, { code: `grpc ${error.code}: ${error.details}` }))
          else record.answer(String(answer))
          resolve()
        })
      )
    }
    client.close()
  })
  await Promise.all(clients)
}

const clients = { webSockets, socketIo, mqtt, grpc, http2Clients }

/** Runs a program with reloads under load; returns what is wrong. */
async function run(name, handoff, mode) {
  const { superserve } = await import(entryPoint('fdpass/superserver'))
  const { source, files, module = `${name}.mjs`, args = () => [], client } = programs[name]
  const folder = prepare(values.set, name)
  const probe = http.createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  await once(probe, 'close')
  const server = await superserve({
    listen: `tcp:127.0.0.1:${port}`,
    module: join(folder, module),
    args: args(port),
    cwd: folder,
    preload: true,
    handoff,
    workers: 2,
    execArgv: ['--no-deprecation'],
    signals: false,
    drainTimeout: 20_000
  })
  const exits = []
  server.on('exit', (event) => exits.push(event))
  const record = new Record()
  const started = performance.now()
  const asking =
    client === undefined
      ? httpClients(port, record, mode === 'keep', files !== undefined || source?.includes('/slow'), programs[name])
      : clients[client](port, record)
  const reloads = Number(values.reloads)
  for (let i = 0; i < reloads; i++) {
    await untilMoved(record)
    await server.reload()
  }
  await untilMoved(record)
  record.done = true
  await asking
  await server.close()
  const { lost } = server.stats()
  const killed = exits.filter(({ signal }) => signal === 'SIGKILL').length
  const expected = 2 * (reloads + 1)
  const hasPids = record.pids.size > 0
  const problems = [
    ...(record.failed > 0 ? [`${record.failed} requests failed: ${JSON.stringify([...record.failures])}`] : []),
    ...(lost > 0 ? [`${lost} lost`] : []),
    ...(killed > 0 ? [`${killed} workers killed`] : []),
    ...(exits.length === expected ? [] : [`${exits.length} workers ended, not ${expected}`]),
    ...(hasPids && record.pids.size > expected ? [`${record.pids.size} processes answered`] : [])
  ]
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  const what = `${name} ${handoff} ${client === undefined ? mode : 'stays connected'}`
  console.log(
    `${problems.length === 0 ? 'ok' : 'not ok'} ${what}: ${record.answers} answers of ${record.pids.size || '?'} processes, ${problems.join('; ') || 'none failed'} (${seconds} s)`
  )
  return problems.length === 0
}

/** Restarts a program in a way, under load; returns whether no request has failed. */
async function restart(name, way, mode) {
  const path = join(prepare(values.set, name), `${name}.mjs`)
  const { bindListener } = await import(entryPoint('fdpass'))
  const listener = await bindListener({ port: 0, host: '127.0.0.1' })
  const probe = await listener.duplicate().toServer()
  const { port } = probe.address()
  probe.close()
  const start = { takeover: startSuccessor, activation: startActivated }[way]
  if (way === 'takeover') listener.closeSync()
  const record = new Record()
  let current = await start(path, port, listener)
  const asking = httpClients(port, record, mode === 'keep', true)
  const codes = []
  for (let i = 0; i < Number(values.restarts); i++) {
    await untilMoved(record)
    const before = current
    if (way === 'activation') before.kill('SIGTERM')
    const ended = once(before, 'exit')
    if (way === 'activation') await ended
    current = await start(path, port, listener)
    codes.push((await ended).join())
  }
  await untilMoved(record)
  record.done = true
  await asking
  current.kill('SIGTERM')
  await once(current, 'exit')
  listener.closeSync()
  const isRight = record.failed === 0
  const failures = isRight ? 'none failed' : `${record.failed} requests failed: ${JSON.stringify([...record.failures])}`
  console.log(
    `${isRight ? 'ok' : 'not ok'} ${name} ${way} ${mode}: ${record.answers} answers, ${failures}; processes ended with ${[...new Set(codes)].join(' ')}`
  )
  return isRight
}

/** Starts `fdpass serve --takeover`, which replaces the one that serves; resolves when its workers are ready. */
async function startSuccessor(path, port) {
  const cli = join(dirname(entryPoint('fdpass')), 'lib', 'cli', 'main.js')
  const options = [
    '--takeover',
    join(dirname(path), `takeover-${port}.sock`),
    '--listen',
    `tcp:127.0.0.1:${port}`,
    '--workers',
    '2'
  ]
  const child = spawn(process.execPath, [cli, 'serve', ...options, '--', path], { stdio: ['ignore', 'ignore', 'pipe'] })
  let text = ''
  for await (const part of child.stderr.setEncoding('utf8')) {
    text += part
    if (text.match(/is ready\n/g)?.length === 2) break
  }
  return child
}

/** Starts a program as a service manager with socket activation does. */
async function startActivated(path, port, listener) {
  const script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
  const args = ['-c', script, 'sh', process.execPath, '--import', entryPoint('fdpass/listen'), path]
  return spawn('sh', args, {
    cwd: dirname(path),
    env: { ...process.env, PORT: port },
    stdio: ['ignore', 'ignore', 'inherit', listener.fd]
  })
}

/** Waits until the clients have had some answers more. */
async function untilMoved(record) {
  const target = record.answers + 200
  while (record.answers < target && record.failed < 1000) await sleep(10)
}

const setUp = spawn(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: ['ignore', 2, 2] })
if ((await once(setUp, 'exit'))[0] !== 0) process.exit(1)
let [passed, failed] = [0, 0]
for (const name of chosen) {
  const modes = programs[name].client === undefined ? values.mode : ['keep']
  for (const handoff of values.handoff) {
    for (const mode of modes) {
      const isRight = await run(name, handoff, mode).catch((error) => {
        console.log(`not ok ${name} ${handoff} ${mode}: ${error.message}`)
        return false
      })
      if (isRight) passed++
      else failed++
    }
  }
}
if ((positionals.length === 0 && values.set === 'small') || positionals.includes('restarts')) {
  for (const way of ['takeover', 'activation']) {
    for (const mode of values.mode) {
      const isRight = await restart('express', way, mode).catch((error) => {
        console.log(`not ok express ${way} ${mode}: ${error.message}`)
        return false
      })
      if (isRight) passed++
      else failed++
    }
  }
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
