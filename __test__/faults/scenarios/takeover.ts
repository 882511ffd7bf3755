import { once } from 'node:events'
import { Server, Socket, connect as dial } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { contents, file, keep, kept, path, read, step, text } from '../scenario.ts'

/** One process in the place of another, here both in one. */
export async function run(): Promise<void> {
  const { takeover } = await import('fdpass/takeover')
  const one = file('one')
  const options = {
    path: path('takeover'),
    listen: { unix: `unix:${path('served')}`, tcp: 'tcp:127.0.0.1:0' },
    timeout: 2500,
    connections: true,
    state: () => ({ data: 'state', fds: [one] })
  }
  const begin = async (name: string) => {
    const place = await step(name, () => takeover(options))
    if (place === undefined) return undefined
    kept.push({
      close: () => {
        place.close()
        for (const listener of Object.values(place.listeners)) listener.closeSync()
        for (const fd of place.predecessor?.fds ?? []) fd.closeSync()
      }
    })
    return place
  }
  // Its server failed: clients wait in the backlog until the process exits.
  const unserved = new Set<string>()
  const serve = (place: Awaited<ReturnType<typeof takeover>>, name: string) => {
    const server = new Server((connection) => connection.on('error', () => {}).end(name))
    kept.push({ close: () => server.listening && server.close() })
    void step(`${name} serves`, () =>
      place.serve(server, 'unix').catch((error: unknown) => {
        unserved.add(name)
        throw error
      })
    )
  }
  const old = await begin('old')
  if (old === undefined) return
  serve(old, 'old')
  if ((await step('old is ready', () => old.ready().then(() => true))) === undefined) return
  if (unserved.has('old')) return
  await step(
    'asked',
    () => read(dial(path('served'))),
    (said) => said
  )
  const young = await begin('young')
  if (young === undefined) {
    await step(
      'asked after all',
      () => read(dial(path('served'))),
      (said) => said
    )
    return
  }
  await step(
    'state',
    () => [text(young.predecessor!.state), contents(young.predecessor!.fds)],
    (state) => state
  )
  serve(young, 'young')
  if ((await step('young is ready', () => young.ready().then(() => true))) === undefined) return
  if (unserved.has('young')) return
  // Where the answer to `ready` is lost, both serve: PROTOCOL.md.
  const successor = await step(
    'superseded',
    () => Promise.race([old.superseded, delay(1000)]),
    () => null
  )
  await step(
    'asked again',
    () => read(dial(path('served'))),
    (said) => said
  )
  if (!successor) return
  const connections = young.predecessor!.connections({ signal: AbortSignal.timeout(1500) })
  const server = new Server().listen(path('live'))
  await once(server, 'listening')
  const client = dial(path('live')).on('error', () => {})
  const [connection] = (await once(server, 'connection')) as [Socket]
  server.close()
  connection.on('error', () => {})
  const arriving = step(
    'arrives',
    () => connections.next(),
    (result) => [result.done, result.value?.name]
  ).then((result) => keep(result?.value?.socket))
  await step('live', () => successor.handOver(connection, { name: 'live', state: 'its' }))
  await arriving
  client.destroy()
  connection.destroy()
}
