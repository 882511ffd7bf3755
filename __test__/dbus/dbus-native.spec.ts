import { closeSync } from 'node:fs'
import test from 'ava'
import { type Message, messageType } from 'dbus-native'
import { memfd } from 'fdpass'
import { Bus, hasBus, startBus } from '../helpers/buses.ts'
import { onlyIf } from '../helpers/conditions.ts'
import { openPeers } from '../helpers/dbus-streams.ts'
import { openFile, readAll } from '../helpers/descriptors.ts'

const withBus = onlyIf(hasBus, 'needs dbus-daemon')

const call = (serial: number, fds: number[], text = '') => ({
  type: messageType.methodCall,
  serial,
  path: '/files',
  interface: 'fdpass.Files',
  member: 'Take',
  signature: 'sah',
  body: [text, fds.map((_, i) => i)],
  fds
})

/** Collects messages, until there are so many. */
async function messages(connection: Awaited<ReturnType<typeof openPeers>>['server'], count: number) {
  const received: Message[] = []
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${received.length} of ${count} came`)), 60_000)
    connection.on('message', (message: Message) => {
      received.push(message)
      if (received.length < count) return
      clearTimeout(timer)
      resolve()
    })
  })
  return received
}

test('dbus-native passes descriptors both ways, each with its own message', async (t) => {
  const { server, client } = await openPeers(t)
  t.true(server.canPassFds && server.unixFdsAgreed && client.canPassFds && client.unixFdsAgreed)
  for (const [from, to] of [
    [client, server],
    [server, client]
  ] as const) {
    const arriving = messages(to, 3)
    const files = ['one', 'two', 'three'].map((content) => openFile(content))
    from.message(call(1, [files[0]!]) as Message)
    from.message({ type: messageType.methodCall, serial: 2, path: '/files', member: 'Plain' } as Message)
    from.message(call(3, [files[1]!, files[2]!]) as Message)
    files.forEach((file) => closeSync(file))
    const received = await arriving
    t.deepEqual(
      received.map(({ fds = [] }) => fds.map((fd) => readAll(fd))),
      [['one'], [], ['two', 'three']]
    )
    for (const { fds = [] } of received) fds.forEach((fd) => closeSync(fd))
  }
})

withBus('50 pipelined calls arrive over a bus in order, each with its descriptors [B13]', async (t) => {
  const { path } = startBus(t)
  const [caller, service] = [await Bus.open(t, path), await Bus.open(t, path)]
  service.serve('answered')
  const files = Array.from({ length: 50 }, (_, i) => openFile(`file ${i}`))
  const calls = files.map((file) => {
    const more = { signature: 'h', body: [0], fds: [file] }
    const reply = caller.call(service.name, '/files', 'fdpass.Files', 'Exchange', more)
    closeSync(file) // what it means has been captured
    return reply
  })
  for (const [i, { body, fds }] of (await Promise.all(calls)).entries()) {
    t.deepEqual(body, [`file ${i}`, 0])
    t.is(fds!.length, 1)
    t.is(readAll(fds![0]!), 'answered')
    closeSync(fds![0]!)
  }
})

test('messages with descriptors keep their order between plain ones that are corked', async (t) => {
  const { server, client } = await openPeers(t)
  const arriving = messages(server, 200)
  for (let i = 0; i < 200; i++) {
    if (i % 3 === 0) {
      const file = openFile(`file ${i}`)
      client.message(call(i + 1, [file]) as Message)
      closeSync(file)
    } else {
      client.message(call(i + 1, []) as Message)
    }
  }
  for (const [i, { serial, fds = [] }] of (await arriving).entries()) {
    t.is(serial, i + 1)
    t.deepEqual(
      fds.map((fd) => readAll(fd)),
      i % 3 === 0 ? [`file ${i}`] : []
    )
    fds.forEach((fd) => closeSync(fd))
  }
})

withBus('a message of 8 MiB with one descriptor goes over a bus, and is answered with another', async (t) => {
  const { path } = startBus(t)
  const [caller, service] = [await Bus.open(t, path), await Bus.open(t, path)]
  service.serve('answered')
  const memory = memfd({ data: 'beside 8 MiB' })
  const more = { signature: 'hs', body: [0, 'x'.repeat(8 * 1024 * 1024)], fds: [memory.fd] }
  const reply = caller.call(service.name, '/files', 'fdpass.Files', 'Exchange', more)
  memory.closeSync()
  const { body, fds } = await reply
  t.deepEqual(body, ['beside 8 MiB', 0])
  t.is(readAll(fds![0]!), 'answered')
  closeSync(fds![0]!)
})
