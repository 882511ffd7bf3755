import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { text as readAll } from 'node:stream/consumers'
import test, { type ExecutionContext } from 'ava'
import { type UnixSocket, bind } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { newPort, socketAt, until } from '../helpers/inetds.ts'
import { fixturePath, startLimited } from '../helpers/processes.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'
import { type Client, call, isThere } from '../helpers/superserver.ts'

const folder = temporaryFolder()
const onLinux = onlyIf(isLinux, 'needs Linux')

type Services = Record<string, object>

/** The configuration of a service whose worker plays a scene of `superserver-worker.ts`. */
function service(port: number, scene = 'lines', more: object = {}): object {
  const module = fixturePath('superserver-worker')
  return { listen: `tcp:127.0.0.1:${port}`, module, args: [scene], workers: 1, ...more }
}

interface Daemon {
  readonly child: ChildProcess
  readonly file: string
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>
}

interface DaemonOptions {
  readonly args?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly stdout?: 'inherit' | 'pipe'
  readonly stderr?: 'inherit' | 'pipe'
}

/** Starts a superserver of its own process, by a file, and waits until it serves. It does not outlive the test. */
async function start(
  t: ExecutionContext,
  services: Services,
  { args = [], env = {}, stdout = 'inherit', stderr = 'inherit' }: DaemonOptions = {}
): Promise<Daemon> {
  const file = join(mkdtempSync(join(folder, 'process-')), 'services.json')
  writeFileSync(file, JSON.stringify({ services }))
  const child = spawn(process.execPath, [...process.execArgv, fixturePath('superserver'), 'daemon', file, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', stdout, stderr]
  })
  t.teardown(() => child.kill('SIGKILL'))
  const ended = once(child, 'exit') as Daemon['ended']
  const ports = Object.values(services).map(({ listen }: { listen?: string }) => Number(listen!.split(':').at(-1)))
  await until(() => child.exitCode !== null || ports.every((port) => socketAt(port) !== undefined))
  return { child, file, ended }
}

const client = (t: ExecutionContext, port: number): Promise<Client> => call(t, { host: '127.0.0.1', port })

/** Whether a connection is refused. */
async function isRefused(port: number): Promise<boolean> {
  const socket = createConnection(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ECONNREFUSED'
  } finally {
    socket.destroy()
  }
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  onLinux(`${signal} lets clients finish, refuses new ones, and ends the superserver`, async (t) => {
    const port = newPort()
    const { child, ended } = await start(t, { lines: service(port) })
    const one = await client(t, port)
    const worker = Number(await one.ask('pid'))
    child.kill(signal)
    await until(() => socketAt(port) === undefined)
    t.true(await isRefused(port))
    t.is(await one.ask('still here'), 'still here')
    one.say('bye')
    t.is(await one.next(), 'bye')
    t.is(await one.ended, 'end')
    t.deepEqual(await ended, [null, signal])
    await until(() => !isThere(worker))
  })
}

onLinux(
  "SIGTERM runs 'exit' listeners and removes the files of all sockets; the exit status is the signal [S150]",
  async (t) => {
    const port = newPort()
    const path = join(mkdtempSync(join(folder, 'process-')), 'socket')
    const { child, ended } = await start(t, { lines: service(port) }, { args: [path], stdout: 'pipe' })
    const output = readAll(child.stdout!)
    const one = await client(t, port) // its answer comes after the superserver has installed its signal handlers
    await one.ask('hello')
    one.close()
    await until(() => existsSync(path)) // the program makes it when the superserver serves
    child.kill('SIGTERM')
    t.deepEqual(await ended, [null, 'SIGTERM'])
    t.is(await output, 'exit')
    t.false(existsSync(path))
  }
)

onLinux('a second SIGTERM does not wait for the workers', async (t) => {
  const port = newPort()
  const { child, ended } = await start(t, { lines: service(port) })
  const one = await client(t, port)
  await one.ask('hello')
  child.kill('SIGTERM')
  await until(() => socketAt(port) === undefined)
  child.kill('SIGTERM')
  t.deepEqual(await ended, [null, 'SIGTERM'])
  t.is(await one.ended, 'ECONNRESET')
})

/** A service manager's socket, and the notifications that arrive there. */
function manager(t: ExecutionContext): { socket: UnixSocket; next: () => Promise<string>; env: NodeJS.ProcessEnv } {
  const path = join(mkdtempSync(join(folder, 'manager-')), 'notify')
  const socket = bind(path)
  t.teardown(() => socket.close())
  return { socket, next: async () => text(await receiveSoon(socket))!, env: { NOTIFY_SOCKET: path, LISTEN_FDS: '1' } }
}

onLinux('a service manager is notified of the start, reloads and the end; workers do not see it', async (t) => {
  const { next, env } = manager(t)
  const port = newPort()
  const { child, ended } = await start(t, { lines: service(port) }, { env })
  t.is(await next(), 'READY=1')
  const one = await client(t, port)
  t.is(await one.ask('env NOTIFY_SOCKET'), 'null')
  t.is(await one.ask('env LISTEN_FDS'), 'null')
  t.is(await one.ask('env FDPASS_WORKER'), 'null')
  one.close()
  const before = process.hrtime.bigint() / 1000n
  child.kill('SIGHUP')
  const [reloading, time] = (await next()).split('\n')
  t.is(reloading, 'RELOADING=1')
  const microseconds = BigInt(/^MONOTONIC_USEC=(\d+)$/.exec(time!)![1]!)
  t.true(microseconds >= before && microseconds <= process.hrtime.bigint() / 1000n)
  t.is(await next(), 'READY=1')
  child.kill('SIGTERM')
  t.is(await next(), 'STOPPING=1')
  t.deepEqual(await ended, [null, 'SIGTERM'])
})

onLinux(
  'SIGHUP reads the file again: services are begun, changed and ended, and a listener that stays is not closed',
  async (t) => {
    const { next, env } = manager(t)
    const [stays, goes, comes] = [newPort(), newPort(), newPort()]
    const { child, file } = await start(t, { stays: service(stays), goes: service(goes) }, { env })
    t.is(await next(), 'READY=1')
    const inode = socketAt(stays)
    const old = await client(t, stays)
    const oldWorker = await old.ask('pid')
    const gone = await client(t, goes)
    await gone.ask('hello')
    writeFileSync(
      file,
      JSON.stringify({
        services: { stays: service(stays, 'lines', { args: ['lines', 'changed'] }), comes: service(comes) }
      })
    )
    child.kill('SIGHUP')
    t.regex(await next(), /^RELOADING=1/)
    t.is(await next(), 'READY=1')
    t.is(socketAt(stays), inode)
    t.is(await (await client(t, stays)).ask('args'), 'lines changed')
    t.is(await (await client(t, comes)).ask('args'), 'lines')
    t.true(await isRefused(goes))
    // Each client is answered by the process that accepted it.
    t.is(await old.ask('pid'), oldWorker)
    t.is(await gone.ask('still'), 'still')
  }
)

onLinux('a file that is broken at SIGHUP changes nothing', async (t) => {
  const { next, env } = manager(t)
  const port = newPort()
  const { child, file } = await start(t, { lines: service(port) }, { env, stderr: 'pipe' })
  let warnings = ''
  child.stderr!.setEncoding('utf8').on('data', (part: string) => (warnings += part))
  t.is(await next(), 'READY=1')
  const worker = await (await client(t, port)).ask('pid')
  for (const broken of ['{', '[]', '{"services":{}}', JSON.stringify({ services: { lines: { listen: 'tcp:1' } } })]) {
    writeFileSync(file, broken)
    child.kill('SIGHUP')
    t.regex(await next(), /^RELOADING=1/)
    t.is(await next(), 'READY=1')
    t.is(await (await client(t, port)).ask('pid'), worker, broken)
  }
  // Nobody listens to 'failure'.
  await until(() => warnings.split('FDPASS_SERVICE_FAILED').length > 4)
  t.is(warnings.match(/FDPASS_SERVICE_FAILED\] Warning: superserver: /g)?.length, 4)
})

onLinux('a superserver that is killed leaves no worker: each finishes what it has, and ends', async (t) => {
  const port = newPort()
  const { child, ended } = await start(t, { lines: service(port, 'lines', { workers: 2 }) })
  const one = await client(t, port)
  const worker = Number(await one.ask('pid'))
  child.kill('SIGKILL')
  await ended
  t.is(await one.ask('still here'), 'still here')
  t.true(isThere(worker))
  one.say('bye')
  t.is(await one.next(), 'bye')
  await until(() => !isThere(worker))
})

onLinux('accepting and handing over go on while JavaScript is busy', async (t) => {
  const port = newPort()
  const done = join(folder, 'done')
  const program = `
    import { existsSync } from 'node:fs'
    import { superserve } from 'fdpass/superserver'
    await superserve(${JSON.stringify(service(port))})
    console.log('busy')
    while (!existsSync(${JSON.stringify(done)}));
    console.log('idle')`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => (said += part))
  await until(() => said.startsWith('busy'))
  for (let i = 0; i < 20; i++) {
    const one = await client(t, port)
    t.is(await one.ask(`question ${i}`), `question ${i}`)
    one.close()
  }
  t.is(said, 'busy\n')
  writeFileSync(done, '')
  await until(() => said === 'busy\nidle\n')
})

test('a superserver in a Worker thread that is terminated lets its workers go, and crashes nothing', async (t) => {
  const program = `
    const { Worker } = require('node:worker_threads')
    const source = ${JSON.stringify(`
      import { parentPort } from 'node:worker_threads'
      import { superserve } from 'fdpass/superserver'
      const server = await superserve(${JSON.stringify({ ...service(0), signals: false })})
      parentPort.postMessage([server.addresses[0].address.port, server.stats().workers[0].pid])`)}
    require('node:fs').writeFileSync('build/worker-superserver.mjs', source)
    const worker = new Worker(require('node:path').resolve('build/worker-superserver.mjs'))
    worker.on('message', async (told) => {
      console.log(JSON.stringify(told))
      await new Promise((resolve) => process.stdin.once('data', resolve))
      console.log(await worker.terminate())
      process.stdin.destroy()
    })`
  const child = spawn(process.execPath, ['--eval', program], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const lines: string[] = []
  child.stdout.setEncoding('utf8').on('data', (part: string) => lines.push(...part.trim().split('\n')))
  await until(() => lines.length > 0)
  const [port, worker] = JSON.parse(lines[0]!) as [number, number]
  const one = await client(t, port)
  t.is(await one.ask('pid'), `${worker}`)
  const ended = once(child, 'exit')
  child.stdin.write('terminate\n')
  await until(() => lines.length > 1)
  t.is(await one.ask('still here'), 'still here')
  one.say('bye')
  t.is(await one.next(), 'bye')
  await until(() => !isThere(worker))
  t.deepEqual(await ended, [0, null])
})

onLinux(
  'a shortage of descriptors is reported with its system call, and the client is served once there is room',
  async (t) => {
    const { socket, done } = startLimited(256, 'tables', ['superserver', join(folder, 'full')])
    socket.close()
    t.is(await done, 'EMFILE accept\nEMFILE pipe\nserved\n')
  }
)
