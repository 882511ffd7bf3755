// Bun and Deno: what their own classes lack is refused before anything has changed. macOS: so is what it lacks itself.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, writeFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, type Socket, connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { ExecutionContext } from 'ava'
import {
  Descriptor,
  adoptConnection,
  bind,
  bindListener,
  eventfd,
  handOver,
  memfd,
  receiveConnection,
  socketpair
} from 'fdpass'
import { startBroker } from 'fdpass/broker'
import { serve, superserve } from 'fdpass/superserver'
import { takeover } from 'fdpass/takeover'
import { folderInPackage } from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath, temporaryFile } from '../helpers/descriptors.ts'

const isBun = 'bun' in process.versions
const isDeno = 'deno' in process.versions
const onBun = onlyIf(isBun, 'Bun only')
const onDeno = onlyIf(isDeno, 'Deno only')
const onBoth = onlyIf(isBun || isDeno, 'Bun and Deno only')
const onLinux = onlyIf(isLinux && !isBun && !isDeno, 'needs Node on Linux')

const unsupported = { code: 'ERR_UNSUPPORTED_PLATFORM' }

/** Returns both ends of a TCP connection, which are closed when the test ends. */
async function connection(t: ExecutionContext): Promise<[client: Socket, accepted: Socket]> {
  const server = createServer().listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const client = dial((server.address() as AddressInfo).port, '127.0.0.1')
  const [accepted] = (await once(server, 'connection')) as [Socket]
  t.teardown(() => accepted.destroy())
  t.teardown(() => client.destroy())
  return [client, accepted]
}

/** Writes a worker's module, and returns its path. */
function writeModule(content: string): string {
  const path = join(folderInPackage(), 'worker.mjs')
  writeFileSync(path, content)
  return path
}

onBun('receiveConnection on Bun receives nothing', async (t) => {
  const [a, b] = socketpair()
  await a.sendFd(memfd({ data: 'sent' }), 'bytes')
  await t.throwsAsync(receiveConnection(b), unsupported)
  const { fd, data } = (await b.recvFd())!
  t.deepEqual([String(data), await fd!.text()], ['bytes', 'sent'])
  fd!.closeSync()
  for (const socket of [a, b]) socket.close()
})

onBun('adoptConnection on Bun leaves the connection as it was', async (t) => {
  const [client, accepted] = await connection(t)
  t.throws(() => adoptConnection(createHttp(), accepted), unsupported)
  accepted.end('still open')
  t.is(await text(client), 'still open')
})

onDeno('handOver on Deno sends nothing, and leaves the connection as it was', async (t) => {
  const [client, accepted] = await connection(t)
  const [a, b] = socketpair()
  await t.throwsAsync(handOver(a, accepted), unsupported)
  a.close()
  t.is(await b.recv(), null)
  b.close()
  accepted.end('still open')
  t.is(await text(client), 'still open')
})

onBun('superserve on Bun passes no connections to a module, and does not listen', async (t) => {
  const path = newPath()
  const module = writeModule('')
  await t.throwsAsync(superserve({ listen: `unix:${path}`, module }), unsupported)
  t.false(existsSync(path))
})

onBoth('a worker on Bun and Deno accepts from the listener of a superserver', async (t) => {
  const module = writeModule(`
    import { listeners } from 'fdpass/superserver'
    for await (const { fd } of listeners()) {
      const server = await fd.toServer()
      server.on('connection', (socket) => socket.end('served'))
    }
    process.exit()
  `)
  const server = await superserve({ listen: 'tcp:127.0.0.1:0', module, handoff: 'listener', workers: 1 })
  const { port } = server.addresses[0]!.address as AddressInfo
  t.is(await text(dial(port, '127.0.0.1')), 'served')
  await server.close()
})

onBoth('superserve on Bun and Deno refuses preload, and does not listen', async (t) => {
  const path = newPath()
  const module = writeModule('')
  const options = { listen: `unix:${path}`, module, handoff: 'listener', preload: true } as const
  await t.throwsAsync(superserve(options), unsupported)
  t.false(existsSync(path))
})

onBun('serve of a takeover on Bun refuses an HTTP server, and leaves the listener to another one', async (t) => {
  const place = await takeover({ path: newPath(), listen: { web: 'tcp:127.0.0.1:0' } })
  const { port } = place.listeners.web!.address as AddressInfo
  await t.throwsAsync(place.serve(createHttp() as never, 'web'), unsupported)
  const ended = place.serve(
    createServer((socket) => socket.end('served')),
    'web'
  )
  await place.ready()
  t.is(await text(dial(port, '127.0.0.1')), 'served')
  place.close()
  await ended
})

onBun('serve on Bun refuses every server', async (t) => {
  const message = "Bun's net.Socket is made of no descriptor: run workers on Node or Deno"
  await t.throwsAsync(serve(createServer()), { ...unsupported, message })
})

onBoth('fdpass/listen on Bun and Deno fails where sockets were passed', async (t) => {
  const module = writeModule(`
    Object.assign(process.env, { LISTEN_PID: String(process.pid), LISTEN_FDS: '1' })
    import('fdpass/listen').catch(({ code, message }) => console.log(code, message))
  `)
  using listener = bindListener({ host: '127.0.0.1', port: 0 })
  const child = spawn(process.execPath, [module], { stdio: ['ignore', 'pipe', 'inherit', listener.fd] })
  const message = 'fdpass/listen needs Node, of whose net.Server it replaces a method'
  t.is(await text(child.stdout!), `ERR_UNSUPPORTED_PLATFORM ${message}\n`)
})

onDeno('Descriptor.from on Deno refuses a file of node:fs, which Deno would close again', async (t) => {
  const file = openSync(temporaryFile('content'), 'r')
  t.throws(() => Descriptor.from(file), { code: 'ERR_INVALID_ARG_VALUE' })
  const [a, b] = socketpair()
  await a.sendFd(file)
  const { fd } = (await b.recvFd())!
  t.is(await fd!.text(), 'content')
  fd!.closeSync()
  for (const socket of [a, b]) socket.close()
  closeSync(file) // Deno has it still
})

onDeno('a number that Deno was started with is closed once', async (t) => {
  const module = writeModule(`
    import { openSync, readFileSync } from 'node:fs'
    import { Descriptor, UnixSocket } from 'fdpass'
    UnixSocket.from(3).close()
    Descriptor.from(4).closeSync()
    for (const number of [3, 4]) {
      const file = openSync(process.argv[2])
      console.log(file === number, readFileSync(file, 'utf8'))
    }
  `)
  const [socket, theirs] = socketpair()
  const memory = memfd()
  const stdio = ['ignore', 'pipe', 'inherit', theirs.fd, memory.fd] as const
  const child = spawn(process.execPath, [module, temporaryFile('content')], { stdio: [...stdio] })
  for (const end of [socket, theirs]) end.close()
  memory.closeSync()
  t.is(await text(child.stdout!), 'true content\ntrue content\n')
})

onDeno('a broker on Deno refuses another user', async (t) => {
  await t.throwsAsync(startBroker({ user: process.getuid!() }), unsupported)
  await t.throwsAsync(startBroker({ group: process.getgid!() }), unsupported)
})

onLinux('macOS, which this process claims to be, is refused what only Linux has, with what is missing', async (t) => {
  const platform = Object.getOwnPropertyDescriptor(process, 'platform')!
  const service = { listen: 'tcp:127.0.0.1:0', module: 'x.mjs' }
  Object.defineProperty(process, 'platform', { ...platform, value: 'darwin' })
  t.teardown(() => Object.defineProperty(process, 'platform', platform))
  t.throws(() => eventfd(), { ...unsupported, message: 'macOS has no eventfd(2): use a pipe' })
  t.throws(() => bind('\0name'), { message: /^The "address" argument must be a path: abstract addresses are Linux'$/ })
  await t.throwsAsync(superserve({ ...service, maxMemory: 2 ** 30 }), {
    ...unsupported,
    message: 'maxMemory needs Linux: darwin has no /proc/PID/status'
  })
  await t.throwsAsync(superserve({ ...service, handoff: 'listener', reusePort: true }), {
    ...unsupported,
    message: 'reusePort needs Linux, whose SO_REUSEPORT distributes connections: this is darwin'
  })
})
