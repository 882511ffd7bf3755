// A superserver near the limit of its descriptors: connections are handed to workers that are killed and reloaded, its table is full
// now and then, and clients are killed. Each connection of the clients that live is answered, or was told as lost.
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isWorker, serve, superserve } from 'fdpass/superserver'
import { answer } from '../helpers/connections.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { type Scene, play, programPath } from './scene.ts'

if (isWorker) await serve(createServer({ allowHalfOpen: true }, answer))
else await superviseAll()

async function superviseAll(): Promise<void> {
  const module = fileURLToPath(import.meta.url)
  const path = join(temporaryFolder(), 'clients')
  const server = await superserve({
    signals: false,
    services: {
      counted: { listen: 'tcp:127.0.0.1:0', module, execArgv: [], workers: 3, maxConnections: 60, maxPerWorker: 30 },
      killed: { listen: `unix:${path}`, module, execArgv: [], workers: 1, maxPerClient: 30, maxConnections: 50 }
    }
  })
  const { port } = server.addresses[0]!.address as { port: number }
  let lost = 0
  let scene: Scene | undefined
  server.on('exit', (event) => {
    if (event.service === 'counted') lost += event.lost
  })
  server.on('failure', ({ service, error }) => {
    // Without a descriptor nothing can be accepted, and no worker be started; both are tried again.
    scene?.told(`superserver failure, ${service}`, error, ['EMFILE'])
  })

  await play(async (current) => {
    scene = current
    const { random } = scene
    const [lostBefore, before] = [lost, server.stats()]
    const base = { ...scene.counts }
    const tally = () => {
      const now = server.stats()
      for (const name of ['handedOn', 'spawned'] as const)
        current.counts[name] = (base[name] ?? 0) + now[name] - before[name]
      current.counts.connections = (base.connections ?? 0) + now.accepted - before.accepted
    }
    const clients = scene.start(programPath('clients'), ['superserver', 'tcp', `${port}`, `${random.below(2 ** 31)}`], {
      stdio: ['pipe', 'pipe', 'inherit']
    })
    await Promise.all([
      scene.repeat(1000, 1001, tally),
      scene.repeat(1000, 4000, async () => {
        const alive = server.stats().workers.filter(({ state }) => state !== 'starting')
        if (alive.length === 0) return
        process.kill(alive[random.below(alive.length)]!.pid, 'SIGKILL')
        current.count('kills')
      }),
      current.repeat(5000, 15_000, async () => {
        await current.room()
        try {
          await server.reload()
          current.count('reloads')
        } catch (error) {
          // Its worker was killed before it was ready, or there was no descriptor for one.
          current.told('reload', error, ['ERR_WORKER_FAILED', 'EMFILE'])
        }
      }),
      current.repeat(3000, 9000, () => current.fillTable(300)),
      current.repeat(500, 3000, async () => {
        await current.room()
        const some = current.start(programPath('clients'), ['superserver', 'unix', path, `${random.below(2 ** 31)}`])
        await delay(random.below(1500))
        some.child.kill('SIGKILL')
        current.count('kills')
        await some.ended
      })
    ])
    clients.child.stdin!.end()
    const seen = JSON.parse((await clients.line()) ?? '{}') as Record<string, number>
    await clients.ended
    // As many workers as at the start, and no connection.
    const deadline = Date.now() + 30_000
    const rest = () => {
      const { active, waiting, workers } = server.stats()
      return active + waiting > 0 || workers.length !== 4 || workers.some(({ state }) => state !== 'ready')
    }
    while (rest() && Date.now() < deadline) await delay(50)
    if (rest()) current.problem(`the superserver does not come to rest: ${JSON.stringify(server.stats())}`)

    const after = server.stats()
    const of = (name: 'accepted' | 'completed' | 'lost' | 'refused') => after[name] - before[name]
    tally()
    current.count('answered', seen.answered)
    current.count('lost and reported', seen.reset)
    if (seen.refused !== 0 || seen.odd !== 0) current.problem(`clients of the superserver: ${JSON.stringify(seen)}`)
    if (seen.answered! + seen.reset! !== seen.asked) current.problem(`answers are missing: ${JSON.stringify(seen)}`)
    if (seen.reset !== lost - lostBefore) current.problem(`${seen.reset} were reset, ${lost - lostBefore} told as lost`)
    const ended = of('completed') + of('lost') + of('refused')
    if (of('accepted') !== ended)
      current.problem(`${of('accepted')} accepted, ${ended} ended: ${JSON.stringify(after)}`)
  })
}
