import { once } from 'node:events'
import { closeSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import {
  type ClientInterface,
  Message,
  type MessageBus,
  MessageType,
  type SessionBusOptions,
  Variant,
  interface as dbusInterface,
  sessionBus
} from 'dbus-next'
import { memfd } from 'fdpass'
import { USocket } from 'fdpass/usocket'
import { onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'
import { hasBus, jeepney, startBus } from '../helpers/dbus.ts'
import { openFile, readAll, sameFile, temporaryFile } from '../helpers/descriptors.ts'
import { fixtureSource, runs, start } from '../helpers/processes.ts'

// dbus-next asks for usocket and gets ours, by the override in package.json.
const withBus = onlyIf(hasBus, 'needs dbus-daemon')
const withJeepney = onlyIf(hasBus && jeepney !== undefined, 'needs dbus-daemon, and Jeepney for Python')
const withGdbus = onlyIf(hasBus && runs('gdbus', 'help'), 'needs dbus-daemon and gdbus')

const NAME = 'fdpass.Next'

/** A service whose interface has a place for a descriptor everywhere. */
class Files extends dbusInterface.Interface {
  /** What came last. */
  last = -1

  Exchange(fd: number): [string, number] {
    this.last = openFile('from dbus-next')
    const content = readAll(fd)
    closeSync(fd)
    return [content, this.last]
  }

  Take(fd: number): void {
    this.last = fd
  }

  Signal(): number {
    return this.last
  }

  get Property(): number {
    return this.last
  }

  set Property(fd: number) {
    this.last = fd
  }
}

Files.configureMembers({
  methods: {
    Exchange: { inSignature: 'h', outSignature: 'sh' },
    Take: { inSignature: 'h' }
  },
  signals: { Signal: { signature: 'h' } },
  properties: { Property: { signature: 'h' } }
})

/** A connection; it ends with the test. */
function open(t: ExecutionContext, busAddress: string): MessageBus {
  // The declarations lack `negotiateUnixFd` of a session bus.
  const bus = sessionBus({ busAddress, negotiateUnixFd: true } as SessionBusOptions)
  bus.on('error', (error: Error) => t.fail(error.message))
  t.teardown(() => bus.disconnect())
  const { stream } = (bus as unknown as { _connection: { stream: unknown } })._connection
  t.true(stream instanceof USocket)
  return bus
}

/** A bus of its own, with a service and a client of dbus-next's. */
async function openBoth(t: ExecutionContext) {
  const { path, address } = startBus(t)
  ;(await connectWhenThere(path)).close()
  const [service, client] = [open(t, address), open(t, address)]
  const files = new Files('fdpass.Files')
  await service.requestName(NAME, 0)
  service.export('/files', files)
  const object = await client.getProxyObject(NAME, '/files')
  return { address, service, client, files, object, proxy: object.getInterface<ClientInterface>('fdpass.Files') }
}

withBus(
  'dbus-next sends and receives descriptors by methods [fd-passing: sending, receiving file descriptor]',
  async (t) => {
    const { files, proxy } = await openBoth(t)
    const file = openFile('from the client')
    const reply = proxy.Exchange!(file)
    closeSync(file) // captured: with usocket it would have to stay open
    const [content, fd] = (await reply) as [string, number]
    t.is(content, 'from the client')
    t.true(sameFile(fd, files.last))
    t.is(readAll(fd), 'from dbus-next')
    closeSync(fd)
    closeSync(files.last)
  }
)

withBus('dbus-next gets and sets a property that is a descriptor [fd-passing: get, set property]', async (t) => {
  const { files, object } = await openBoth(t)
  const properties = object.getInterface<ClientInterface>('org.freedesktop.DBus.Properties')
  const file = openFile('property')
  await properties.Set!('fdpass.Files', 'Property', new Variant('h', file))
  t.true(sameFile(file, files.last))
  const { value } = (await properties.Get!('fdpass.Files', 'Property')) as Variant<number>
  t.true(sameFile(file, value))
  for (const fd of [file, value, files.last]) closeSync(fd)
})

withBus('dbus-next receives a signal with a descriptor [fd-passing: signal file descriptor]', async (t) => {
  const { files, proxy, client } = await openBoth(t)
  const arrived = once(proxy as never, 'Signal', { signal: AbortSignal.timeout(30_000) })
  // A call's reply comes behind AddMatch's.
  await client.call(
    new Message({
      destination: 'org.freedesktop.DBus',
      path: '/',
      interface: 'org.freedesktop.DBus.Peer',
      member: 'Ping'
    })
  )
  files.last = openFile('signal')
  files.Signal()
  const [fd] = (await arrived) as [number]
  t.is(readAll(fd), 'signal')
  closeSync(fd)
  closeSync(files.last)
})

withBus('dbus-next keeps 50 pipelined calls with descriptors apart [B13]', async (t) => {
  const { service, client } = await openBoth(t)
  const seen: string[] = []
  service.addMethodHandler((call: Message) => {
    if (call.member !== 'Number') return false
    const [index, fd] = call.body as [number, number]
    seen.push(`${index}: ${readAll(fd)}`)
    closeSync(fd)
    service.send(Message.newMethodReturn(call, 'u', [index]))
    return true
  })
  const replies = Array.from({ length: 50 }, (_, i) => {
    const file = openFile(`file ${i}`)
    const call = { destination: NAME, path: '/', interface: 'fdpass.Files', member: 'Number', signature: 'uh' }
    const reply = client.call(new Message({ ...call, body: [i, file] }))
    closeSync(file)
    return reply
  })
  t.deepEqual(
    (await Promise.all(replies)).map((reply) => reply!.body[0] as number),
    Array.from({ length: 50 }, (_, i) => i)
  )
  t.deepEqual(
    seen,
    Array.from({ length: 50 }, (_, i) => `${i}: file ${i}`)
  )
})

withBus('dbus-next sends a message of 8 MiB with one descriptor', async (t) => {
  const { service, client } = await openBoth(t)
  const memory = memfd({ data: 'beside 8 MiB' })
  service.addMethodHandler((call: Message) => {
    if (call.member !== 'Large') return false
    const [text, fd] = call.body as [string, number]
    service.send(Message.newMethodReturn(call, 'us', [text.length, readAll(fd)]))
    closeSync(fd)
    return true
  })
  const call = { destination: NAME, path: '/', interface: 'fdpass.Files', member: 'Large', signature: 'sh' }
  const reply = client.call(new Message({ ...call, body: ['x'.repeat(8 * 1024 * 1024), memory.fd] }))
  memory.closeSync()
  const { type, body } = (await reply)!
  t.is(type, MessageType.METHOD_RETURN)
  t.deepEqual(body, [8 * 1024 * 1024, 'beside 8 MiB'])
})

withBus('dbus-next disconnects, and the bus sees it [disconnect]', async (t) => {
  const { service, client } = await openBoth(t)
  const { stream } = (client as unknown as { _connection: { stream: USocket } })._connection
  const closed = new Promise((resolve) => stream.once('close', resolve))
  const left = new Promise<string>((resolve) => {
    service.on('message', ({ member, body }: Message) => {
      if (member === 'NameOwnerChanged' && body[2] === '') resolve(body[0] as string)
    })
  })
  await service.call(
    new Message({
      destination: 'org.freedesktop.DBus',
      path: '/org/freedesktop/DBus',
      interface: 'org.freedesktop.DBus',
      member: 'AddMatch',
      signature: 's',
      body: ["type='signal',member='NameOwnerChanged'"]
    })
  )
  const { name } = client as unknown as { name: string }
  client.disconnect()
  t.is(await left, name)
  await closed
})

withJeepney('dbus-next calls a service in Python with a descriptor, and reads that of the reply', async (t) => {
  const { address, client } = await openBoth(t)
  const { child, done } = start(t, jeepney!, [fixtureSource('dbus.py'), address, 'serve', 'fdpass.Python'])
  await once(child.stdout!, 'data', { signal: AbortSignal.timeout(30_000) })
  const file = openFile('from dbus-next')
  const call = { destination: 'fdpass.Python', path: '/files', interface: 'fdpass.Files', member: 'Exchange' }
  const { body } = (await client.call(new Message({ ...call, signature: 'h', body: [file] })))!
  closeSync(file)
  const [content, fd] = body as [string, number]
  t.is(content, 'from dbus-next')
  t.is(readAll(fd), 'from dbus-next, of Python')
  closeSync(fd)
  t.is(await done, 'serving\n')
})

withJeepney(
  'a service of dbus-next reads the descriptor that Python sends, and Python that of the reply',
  async (t) => {
    const { address, files } = await openBoth(t)
    const args = [fixtureSource('dbus.py'), address, 'call', NAME, temporaryFile('from Python')]
    t.is(await start(t, jeepney!, args).done, '1\nfrom Python\nfrom dbus-next\n')
    closeSync(files.last)
  }
)

withGdbus('a service of dbus-next reads the descriptor that gdbus sends', async (t) => {
  const { address, files } = await openBoth(t)
  const input = openFile('input of gdbus')
  const target = ['--address', address, '--dest', NAME, '--object-path', '/files']
  const { done } = start(t, 'gdbus', ['call', ...target, '--method', 'fdpass.Files.Exchange', '@h 0'], {
    stdio: [input, 'pipe', 'inherit']
  })
  closeSync(input)
  t.is(await done, "('input of gdbus', handle 0)\n")
  closeSync(files.last)
})
