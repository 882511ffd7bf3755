import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Channel, capabilities, connect, listen } from 'fdpass'
import { connectBroker, serveBroker } from 'fdpass/broker'
import { connectStore } from 'fdpass/store'
import { REQUEST, frame } from '../helpers/channels.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, readAll, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { fixturePath, startLimited } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { newPath } from '../helpers/strangers.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')

asRoot(
  'what one peer does not read holds up what its user sends to others with descriptors, and bytes not [S67]',
  async (t) => {
    const { socket, child, done } = startLimited(64, 'in-flight', ['others', temporaryFile('in flight')])
    let told = ''
    child.stdout!.on('data', (part) => (told += part))
    await once(child.stdout!, 'data')
    t.is(told, 'waits true\n')
    // Once the peer reads, all goes on.
    for (let message = await socket.recv(); message !== null; message = await socket.recv()) {
      t.is(text(message), 'unread')
      message.close()
    }
    await done
    t.is(told, 'waits true\nto another 1\n')
    socket.close()
  }
)

onLinux(
  'connections that fill the table of a store keep new ones waiting, and those that are there are served [S70]',
  async (t) => {
    const path = newPath()
    const child = spawn(process.execPath, [...process.execArgv, fixturePath('store-service'), path], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    t.regex(String(await once(child.stdout, 'data')), /^ready/)
    // Not before: Node opens many of a program's modules at a time.
    execFileSync('prlimit', ['--pid', `${child.pid}`, '--nofile=64'])
    using early = await connectStore(path)
    await early.list()
    const flood = await Promise.all(Array.from({ length: 100 }, () => connect(path)))
    using late = await connectStore(path)
    const waiting = late.list()
    t.deepEqual(await early.list(), [])
    t.true(await isPending(waiting))
    for (const socket of flood) socket.close()
    t.deepEqual(await waiting, [])
    const file = openFile('kept')
    await late.put('file', file)
    closeSync(file)
    child.kill()
    await once(child, 'exit')
  }
)

onLinux('a client of a broker that reads no answers keeps no other client waiting [S46]', async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'content')
  const address = newPath()
  using _service = serveBroker(await listen(address), { roots: [root], allow: () => true })
  using hostile = await connect(address)
  const wish = frame(REQUEST, JSON.stringify({ operation: 'open', path: 'file', flags: 0, mode: 0 }), {
    id: 1,
    format: 1
  })
  const flood = hostile.send(Buffer.concat(Array.from({ length: 20_000 }, () => wish)))
  flood.catch(() => {})
  t.true(await isPending(flood), 'it is not even read')
  using broker = await connectBroker(address)
  for (let i = 0; i < 20; i++) {
    using file = await broker.open('file')
    t.is(readAll(file.fd), 'content')
  }
})

onLinux('a broker whose listener refuses descriptors receives none, and sends them [S45]', async (t) => {
  const root = temporaryFolder()
  writeFileSync(join(root, 'file'), 'content')
  const path = newPath()
  using _service = serveBroker(await listen(path, { descriptors: false }), { roots: [root], allow: () => true })
  using channel = new Channel(await connect(path))
  const wish = { operation: 'open', path: 'file', flags: 0, mode: 0 }
  const answer = await channel.request(wish)
  t.is(readAll(answer.fds[0]!.fd), 'content')
  answer.close()
  await t.throwsAsync(channel.request(wish, [0]), { code: capabilities().passRights ? 'EPERM' : 'EMSGSIZE' })
})
