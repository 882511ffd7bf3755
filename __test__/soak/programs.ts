// Programs that know nothing of fdpass, express and a WebSocket server, under a superserver that reloads them again and again. Hostile clients
// connect to them, and a hostile worker floods the superserver: no honest client sees anything. `programs.js SEED FOLDER`: where the programs are.
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { createRequire } from 'node:module'
import { type Socket, connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { superserve } from 'fdpass/superserver'
import { readAllOf } from '../helpers/connections.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { fixtureSource } from '../helpers/processes.ts'
import { type Scene, play } from './scene.ts'

/** What is used of the package ws, whose types are not installed. */
interface WebSocketClient {
  readonly readyState: number
  on(event: string, listener: (value: never) => void): this
  send(text: string): void
  close(): void
}

/** The `keepAliveTimeout` of Node's servers, which express has. */
const KEEP_ALIVE_MS = 5000
/** The `drainTimeout` of the workers. */
const DRAIN_MS = 30_000
/** The time for which a client has to hold a connection so that its worker cannot drain in time: less what passes until the worker knows that it drains. */
const HELD_MS = DRAIN_MS - 5000
/** The state of a WebSocket in which messages can be sent. */
const OPEN = 1

const folder = process.argv[3]!
const { WebSocket } = createRequire(join(folder, 'x.js'))('ws') as { WebSocket: new (url: string) => WebSocketClient }
const mark = join(temporaryFolder(), 'mark')

const program = (name: string, handoff: 'connection' | 'listener') => ({
  listen: 'tcp:127.0.0.1:0',
  module: join(folder, `${name}.mjs`),
  cwd: folder,
  preload: true,
  execArgv: [],
  workers: 2,
  drainTimeout: DRAIN_MS,
  handoff
})
const server = await superserve({
  signals: false,
  services: {
    'express by connection': program('express', 'connection'),
    'express by listener': program('express', 'listener'),
    'ws by connection': program('ws', 'connection'),
    'ws by listener': program('ws', 'listener'),
    hostile: {
      listen: 'tcp:127.0.0.1:0',
      command: ['/usr/bin/env', 'python3', '-I', '-S', fixtureSource('hostile.py'), 'flooding_worker', 'shut', mark],
      mode: 'workers',
      workers: 1
    }
  }
})
const ports = server.addresses.map(({ address }) => (address as { port: number }).port)
let scene: Scene | undefined
/** The workers that drain, by process id: how long each had waited for a processor at first, and at last, in milliseconds. */
const draining = new Map<number, { readonly first: number; last: number }>()

/** Returns how long the first thread of a process has waited for a processor, in milliseconds: the second number of its schedstat. */
function waitOf(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[1]) / 1e6
  } catch {
    return 0 // it has just ended, or this is not Linux
  }
}

/** Looks how long the workers that drain have waited. */
function lookAtDraining(): void {
  for (const { pid, state } of server.stats().workers) {
    if (state !== 'draining') continue
    const wait = waitOf(pid)
    const seen = draining.get(pid)
    if (seen === undefined) draining.set(pid, { first: wait, last: wait })
    else if (wait > 0) seen.last = wait
  }
}

/** A connection of a hostile client, which it holds until a time. */
interface Hold {
  readonly port: number
  readonly since: number
  until: number
}
const holds = new Set<Hold>()

/** Returns the longest time for which a hostile client has lately held a connection of a service, in milliseconds. */
function longestHold(service: string): number {
  const now = performance.now()
  const port = ports[server.addresses.findIndex((one) => one.service === service)]
  const recent = [...holds].filter((hold) => hold.port === port && hold.until > now - DRAIN_MS)
  return Math.max(0, ...recent.map(({ since, until }) => Math.min(until, now) - since))
}

server.on('exit', ({ service, pid, lost, signal, reason }) => {
  const { first, last } = draining.get(pid) ?? { first: 0, last: 0 }
  draining.delete(pid)
  if (service === 'hostile' || (lost === 0 && signal !== 'SIGKILL')) return
  const longest = longestHold(service)
  // On a busy machine the few pieces of a request can take so long.
  if (reason === 'drainTimeout' && longest >= HELD_MS) return scene?.count('workers that a hostile client held')
  const waited = last - first
  if (reason === 'drainTimeout' && lost === 0 && waited >= DRAIN_MS / 2)
    return scene?.count('workers without a processor')
  scene?.problem(
    `a worker of ${service} ended with ${signal} (${reason}), and lost ${lost}; it was held for ${longest} ms, and without a processor for ${waited}`
  )
})
server.on('failure', ({ service, error }) => {
  if (service !== 'hostile') scene?.problem(`${service}: ${error.stack}`)
})

/** A client of express that asks again when it has its answer, over one connection or one each. */
async function ask(current: Scene, port: number, keepAlive: boolean): Promise<void> {
  const agent = new Agent({ keepAlive, maxSockets: 1 })
  let sent = 0
  await current.repeat(0, 100, async () => {
    const path = current.oneIn(20) ? '/slow' : '/'
    current.count('requests')
    const before = sent
    sent = performance.now()
    const since = sent - before
    const answered = new Promise<string | undefined>((resolve, reject) => {
      const asking = get({ host: '127.0.0.1', port, path, agent }, (response) => {
        let text = `${response.statusCode} `
        response.setEncoding('utf8').on('data', (data: string) => (text += data))
        response.on('error', reject).on('end', () => resolve(text))
      }).on('error', (error) => {
        // The server may close a connection that this process, on a busy machine, has left idle for so long.
        if (asking.reusedSocket && since >= KEEP_ALIVE_MS) return resolve(undefined)
        const over = asking.reusedSocket ? `the connection of a request ${since} ms before` : 'a new connection'
        reject(new Error(`GET ${path} over ${over}`, { cause: error }))
      })
    })
    const text = await current.settles(`GET ${path}`, answered)
    if (text === undefined) return current.count('requests later than keepAliveTimeout')
    if (!/^200 (ok \d+|slow)$/.test(text)) current.problem(`GET ${path} was answered: ${text}`)
    current.count('answered')
  })
  agent.destroy()
}

/** A WebSocket client, which connects again where the server says that it is going away (1001). */
async function talk(current: Scene, port: number): Promise<void> {
  while (!current.stopped) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    let asked = 0
    let answered = 0
    const closed = new Promise<number>((resolve) => socket.on('close', resolve))
    socket
      .on('error', (error: Error) => current.problem(error))
      .on('open', () => next())
      .on('message', (text: Buffer) => {
        if (String(text).split(' ')[2] !== `${asked}`) current.problem(`${asked} was answered: ${String(text)}`)
        answered++
        current.count('answered')
        if (current.stopped) socket.close()
        else setTimeout(next, current.random.below(100))
      })
    const next = () => {
      if (socket.readyState !== OPEN) return
      current.count('requests')
      socket.send(`${++asked}`)
    }
    const code = await closed
    current.count('connections')
    if (asked > answered) current.count('messages that a close frame overtook')
    if (code !== 1001 && !current.stopped) current.problem(`a WebSocket was closed with ${code}`)
  }
}

const upgrade = `GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}\r\n\r\n`

/** What hostile clients do with a connection, before they reset it. */
const attacks: readonly ((socket: Socket, scene: Scene) => unknown)[] = [
  (_, { random }) => delay(random.below(2000)),
  (socket) => socket.end(),
  (socket, { random }) => socket.write(Buffer.from(Array.from({ length: 2000 }, () => random.below(256)))),
  (socket) => socket.write('GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf'),
  (socket) => socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(500)),
  async (socket, current) => {
    // A few pieces only: on a busy machine the turns for each byte would take longer than `drainTimeout`, and a reload end the worker.
    for (const piece of upgrade.match(/[^]{1,16}/g)!) {
      if (socket.destroyed || current.stopped) return
      socket.write(piece)
      await delay(100)
    }
  },
  async (socket, { random }) => {
    socket.write(upgrade)
    await delay(random.below(200))
    socket.write(Buffer.from(Array.from({ length: 500 }, () => random.below(256))))
  },
  // Frames that are sent without end, by one who reads no answer.
  async (socket, current) => {
    socket.write(upgrade)
    const frame = Buffer.from([0x81, 0xfd, ...Buffer.alloc(4), ...Buffer.alloc(125, 'x')])
    const frames = Buffer.concat(Array.from({ length: 500 }, () => frame))
    for (let left = 20; left > 0 && !socket.destroyed && !current.stopped; left--) {
      socket.write(frames)
      await delay(20)
    }
  }
]

async function attack(current: Scene, port: number): Promise<void> {
  await current.repeat(0, 300, async () => {
    const hold: Hold = { port, since: performance.now(), until: Infinity }
    holds.add(hold)
    const socket = connect({ host: '127.0.0.1', port }).on('error', () => {})
    const closed = new Promise((resolve) => socket.on('close', resolve))
    await once(socket, 'connect')
    await attacks[current.random.below(attacks.length)]!(socket, current)
    await delay(current.random.below(300))
    socket.resetAndDestroy()
    await closed
    hold.until = performance.now()
    if (hold.until - hold.since < HELD_MS) holds.delete(hold)
    current.count('hostile clients')
  })
}

/** Resolves when a hostile worker's children fill its channel. */
async function flooded(): Promise<void> {
  while (!existsSync(`${mark}.flooded`)) await delay(20)
}

/** Has a new worker flood the superserver, which receives no more. Its successor answers both connections that it has got, or could not get. */
async function flood(current: Scene): Promise<void> {
  for (const path of [mark, `${mark}.flooded`]) rmSync(path, { force: true })
  for (const { service, pid } of server.stats().workers) if (service === 'hostile') process.kill(pid, 'SIGKILL')
  const taken = readAllOf(connect(ports[4]!, '127.0.0.1'))
  await current.settles('the flood', flooded())
  const refused = readAllOf(connect(ports[4]!, '127.0.0.1'))
  for (const answer of await current.settles('the successor of a hostile worker', Promise.all([taken, refused])))
    if (String(answer) !== 'answer\n') current.problem(`a successor answered: ${String(answer)}`)
  current.count('hostile workers')
}

await play(async (current) => {
  scene = current
  // A reload would leave its connection to the hostile worker until `drainTimeout`.
  let turn: Promise<unknown> = Promise.resolve()
  const alone = (task: () => Promise<void>) => (turn = turn.then(task, task))
  await Promise.all([
    ...[0, 1].flatMap((place) =>
      [true, false].flatMap((keep) => [1, 2, 3].map(() => ask(current, ports[place]!, keep)))
    ),
    ...[2, 3].flatMap((place) => [1, 2, 3].map(() => talk(current, ports[place]!))),
    ...[0, 1, 2, 3].map((place) => attack(current, ports[place]!)),
    current.repeat(5000, 15_000, () =>
      alone(async () => {
        await server.reload()
        current.count('reloads')
      })
    ),
    current.repeat(100, 101, lookAtDraining),
    current.repeat(20_000, 60_000, () => alone(() => flood(current)))
  ])
  const deadline = Date.now() + 60_000
  const rest = () => server.stats().active === 0 && server.stats().workers.length === 9
  while (!rest() && Date.now() < deadline) await delay(50)
  if (!rest()) current.problem(`the superserver does not come to rest: ${JSON.stringify(server.stats())}`)
})
