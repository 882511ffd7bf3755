import { once } from 'node:events'
import { join } from 'node:path'
import { type AddressInfo, connect as dial, createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { Channel, Descriptor, connect } from 'fdpass'
import { type Takeover, takeover } from 'fdpass/takeover'
import { countFds, openFile, temporaryFolder } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'

const folder = temporaryFolder()
const listen = { a: 'tcp:127.0.0.1:0', b: 'udp:127.0.0.1:0', c: `unix:${join(folder, 'c')}` }
const ROUNDS = 50

function end(place: Takeover): void {
  place.close()
  for (const fd of [...Object.values(place.listeners), ...(place.predecessor?.fds ?? [])]) fd.closeSync()
}

test.serial(`${ROUNDS} takeovers in a row leave nothing open`, async (t) => {
  const path = join(folder, 'row')
  const options = { path, listen, connections: true, state: () => ({ fds: [Descriptor.from(openFile('state'))] }) }
  const first = await takeover(options)
  await first.ready()
  end(first)
  await delay(50)
  const before = countFds()
  let last = await takeover(options)
  await last.ready()
  for (let i = 0; i < ROUNDS; i++) {
    const next = await takeover(options)
    await next.ready()
    await last.superseded
    end(last)
    last = next
  }
  end(last)
  await until(() => countFds() <= before) // connections are closed in a later turn, or by another thread
  t.pass()
})

test.serial(`${ROUNDS} successors that fail in each way leave nothing open`, async (t) => {
  const path = join(folder, 'failing')
  let fails = false
  const state = () => {
    const fd = Descriptor.from(openFile('state'))
    if (!fails) return { fds: [fd] }
    fd.closeSync()
    throw new Error('not now')
  }
  const old = await takeover({ path, listen, state, allow: () => true })
  await old.ready()
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const busy = `tcp:127.0.0.1:${(taken.address() as AddressInfo).port}`
  const before = countFds()
  for (let i = 0; i < ROUNDS; i++) {
    const given = await takeover({ path, listen, connections: true })
    end(given) // before it is ready
    fails = true
    await t.throwsAsync(takeover({ path, listen, connections: true }))
    fails = false
    const channel = new Channel(await connect(path))
    await t.throwsAsync(channel.request('hostile', [0]))
    channel.close()
    const socket = await connect(path)
    await socket.send('no frame at all, but longer than a header')
    socket.close()
    await t.throwsAsync(takeover({ path, allow: () => false }))
    const hasty = takeover({ path, signal: AbortSignal.timeout(1) })
    await hasty.then(end, () => {})
  }
  await t.throwsAsync(takeover({ path, listen: { ...listen, busy } }), { code: 'EADDRINUSE' })
  await until(() => countFds() <= before) // connections are closed in a later turn, or by another thread
  t.pass()
  taken.close()
  end(old)
})

test.serial('connections that were handed over, and not taken, are closed with the successor', async (t) => {
  const path = join(folder, 'connections')
  const before = countFds()
  const old = await takeover({ path })
  await old.ready()
  const next = await takeover({ path, connections: true })
  await next.ready()
  const successor = await old.superseded
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  for (let i = 0; i < 20; i++) {
    const client = dial((server.address() as AddressInfo).port, '127.0.0.1')
    client.on('error', () => {})
    const [ours] = await once(server, 'connection')
    await successor.handOver(ours, { state: Buffer.alloc(1000) })
  }
  server.close()
  end(next)
  end(old)
  await until(() => countFds() <= before) // connections are closed in a later turn, or by another thread
  t.pass()
})
