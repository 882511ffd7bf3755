import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { Server, Socket, connect as dial } from 'node:net'
import { Descriptor, bind, listen } from 'fdpass'
import {
  closeEach,
  contents,
  exchange,
  file,
  gather,
  keep,
  kept,
  path,
  pause,
  read,
  step,
  text,
  within
} from '../scenario.ts'

/** What a descriptor is; it is closed. */
function kindOf(descriptor: Descriptor): unknown {
  try {
    return [descriptor.kind, null]
  } finally {
    descriptor.closeSync()
  }
}

/** A broker in this process: the client, and what opens files. */
export async function brokers(): Promise<void> {
  const { connectBroker, serveBroker } = await import('fdpass/broker')
  mkdirSync(path('root/folder'), { recursive: true })
  writeFileSync(path('root/folder/file'), 'inside')
  const listener = keep(await step('listen', () => listen(path('broker'))))
  if (listener === undefined) return
  const services = [`unix:${path('service')}`, 'tcp:127.0.0.1:0']
  const service = keep(
    await step('serve', () =>
      serveBroker(listener, { roots: [path('root')], directories: true, services, allow: () => true })
    )
  )
  if (service === undefined) return
  const broker = keep(await step('connect', () => connectBroker(path('broker'))))
  if (broker !== undefined) {
    await step(
      'open',
      () => broker.open('folder/file'),
      (descriptor) => contents([descriptor])
    )
    await step(
      'open anew',
      () => broker.open('folder/new', 'w+'),
      (descriptor) => contents([descriptor])
    )
    await step(
      'open to append',
      () => broker.open('folder/new', 'a'),
      (descriptor) => descriptor.closeSync()
    )
    await step('kind of a folder', () => broker.open('folder'), kindOf)
    await step('open nothing', () => broker.open('folder/nothing'))
    await step('open outside', () => broker.open('../file'))
    const unix = keep(await step('listen at a path', () => broker.listen(path('service'), { mode: 0o600 })))
    if (unix !== undefined)
      await step('kind of a connection to it', () => broker.connect(`unix:${path('service')}`), kindOf)
    await step('kind of a listener on TCP', () => broker.listen('tcp:127.0.0.1:0'), kindOf)
  }
}

/** A helper that is started. */
export async function brokerHelper(): Promise<void> {
  const { startBroker } = await import('fdpass/broker')
  mkdirSync(path('root'))
  writeFileSync(path('root/file'), 'inside')
  const broker = await step('start', () => startBroker({ roots: [path('root')], allow: undefined }))
  if (broker === undefined) return
  await step(
    'open',
    () => broker.open('file'),
    (descriptor) => contents([descriptor])
  )
  await step('open nothing', () => broker.open('nothing'))
  await step(
    'open again',
    () => broker.open('file'),
    (descriptor) => contents([descriptor])
  )
  await step('end', () => broker[Symbol.asyncDispose]())
}

/** Entries of a store, and its successor. */
export async function stores(): Promise<void> {
  const { connectStore, serveStore } = await import('fdpass/store')
  const one = file('one')
  const address = path('store')
  const service = keep(
    await step('serve', () => serveStore({ path: address, takeover: path('store.takeover'), signal: within(3000) }))
  )
  if (service === undefined) return
  const store = keep(await step('connect', () => connectStore(address)))
  if (store === undefined) return
  const signal = within(4000)
  await step('put', () => store.put('a', one, { signal }))
  await step('put several', () => store.put('b', [one, one], { signal, expires: 60_000 }))
  await step('put again', () => store.put('a', one, { signal }))
  await step(
    'list',
    () => store.list({ signal }),
    (entries) => entries.map(({ name, kinds, uid }) => [name, kinds, uid])
  )
  await step('get', () => store.get('a', { signal }), contents)
  await step('get and remove', () => store.get('b', { signal, remove: true }), contents)
  const next = keep(
    await step('successor', () => serveStore({ path: address, takeover: path('store.takeover'), signal: within(3000) }))
  )
  if (next !== undefined) {
    await step('superseded', () => Promise.race([service.superseded, pause(1000)]))
    await step('get from it', () => store.get('a', { signal }), contents)
  }
  await step('delete', () => store.delete('a', { signal }))
}

/** One process in the place of another, here both in one. */
export async function takeovers(): Promise<void> {
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
    () => Promise.race([old.superseded, pause(1000)]),
    () => null
  )
  await step(
    'asked again',
    () => read(dial(path('served'))),
    (said) => said
  )
  if (!successor) return
  const connections = young.predecessor!.connections({ signal: within(1500) })
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

/** Notifications of a service manager. */
export async function systemd(): Promise<void> {
  const { barrier, notify, storeFds } = await import('fdpass/systemd')
  const one = file('one')
  const manager = keep(await step('bind', () => bind(path('notify'))))
  if (manager === undefined) return
  process.env.NOTIFY_SOCKET = path('notify')
  await exchange(
    'ready',
    () => notify({ ready: true }),
    (signal) => gather(manager, 1, signal),
    (got) => got
  )
  await exchange(
    'stored',
    () => storeFds('one', [one]),
    (signal) => manager.recv({ signal }),
    (message) => contents(message!.fds)
  )
  await exchange(
    'barrier',
    () => barrier({ signal: within(1000) }),
    (signal) => manager.recv({ signal }),
    (message) => {
      closeEach(message!.fds)
    }
  )
}
