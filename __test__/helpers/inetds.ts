import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type UnixSocket, bind } from 'fdpass'
import { hasPython, isLinux, onlyIf } from './conditions.ts'
import { newFolder, newPath } from './descriptors.ts'
import { fixturePath, fixtureSource } from './processes.ts'

/** A service as all three understand it, on the loopback interface. */
export interface Service {
  readonly port: number
  readonly command: readonly [string, ...string[]]
  readonly type?: 'stream' | 'dgram'
  readonly wait?: boolean
  readonly user?: string
  readonly group?: string
  /** How many programs may be started: in a minute, or xinetd's in a second. */
  readonly limit?: number
  /** How many programs one client may have at a time; openbsd-inetd knows no such thing. */
  readonly perClient?: number
}

/** A superserver that can be started. */
export interface Superserver {
  readonly name: 'openbsd-inetd' | 'xinetd' | 'superserve'
  readonly path: string | undefined
  /** The configuration file's text. */
  configure(services: readonly Service[]): string
  /** The arguments with which it stays in the foreground. */
  args(configuration: string): readonly string[]
}

/** A superserver that runs. */
export interface Daemon {
  readonly child: ChildProcess
  readonly configuration: string
  /** Changes its services, and waits until it serves them. */
  reload(services: readonly Service[], gone?: readonly number[]): Promise<void>
}

/** The environment's variables by which a program shows what it inherits. */
export const marks = { FDPASS_MARK: 'kept', PATH: process.env.PATH ?? '/usr/bin:/bin', TERM: 'dumb' }

// Debian's packages exclude each other, so that one of them, or both, may only be unpacked.
const paths = (name: string) => ['/usr/sbin', '/opt/superservers/usr/sbin'].map((folder) => join(folder, name))
const usage = (path: string) => spawnSync(path, ['-?'], { encoding: 'utf8' }).stderr
const inetd = paths('inetd').find((path) => existsSync(path) && usage(path).includes('[-dEil]')) // others are called so too
const xinetd = paths('xinetd').find((path) => existsSync(path))
// On kernels in user mode (5.10, 6.1) xinetd 2.3.15 stops responding now and then, at its start or later.
const isUserMode = isLinux && readFileSync('/proc/cpuinfo', 'utf8').includes('User Mode Linux')

/** The three superservers whose behaviour is compared. */
export const superservers: readonly Superserver[] = [
  {
    name: 'openbsd-inetd',
    path: inetd,
    configure: (services) =>
      services
        .map(({ port, command, type = 'stream', wait = false, user = 'root', group, limit }) => {
          const protocol = type === 'stream' ? 'tcp4' : 'udp4'
          const mode = `${wait ? 'wait' : 'nowait'}${limit === undefined ? '' : `.${limit}`}`
          const who = group === undefined ? user : `${user}:${group}`
          return `127.0.0.1:${port} ${type} ${protocol} ${mode} ${who} ${command[0]} ${command.join(' ')}\n`
        })
        .join(''),
    args: (configuration) => ['-i', configuration]
  },
  {
    name: 'xinetd',
    path: xinetd,
    configure: (services) =>
      services
        .map(({ port, command: [program, ...args], type = 'stream', wait = false, user = 'root', ...rest }) => {
          const attributes = {
            type: 'UNLISTED',
            socket_type: type,
            protocol: type === 'stream' ? 'tcp' : 'udp',
            bind: '127.0.0.1',
            port,
            wait: wait ? 'yes' : 'no',
            user,
            group: rest.group,
            server: program,
            server_args: args.length > 0 ? args.join(' ') : undefined,
            cps: rest.limit === undefined ? undefined : `${rest.limit} 1`,
            per_source: rest.perClient
          }
          const lines = Object.entries(attributes).filter(([, value]) => value !== undefined)
          return `service on-${port}\n{\n${lines.map(([name, value]) => `  ${name} = ${value}\n`).join('')}}\n`
        })
        .join(''),
    args: (configuration) => {
      const own = ['-pidfile', `${configuration}.pid`, '-filelog', `${configuration}.log`]
      return ['-dontfork', '-stayalive', '-f', configuration, ...own]
    }
  },
  {
    name: 'superserve',
    path: process.execPath,
    configure: (services) =>
      JSON.stringify({
        signals: true,
        services: Object.fromEntries(
          services.map(({ port, command, type = 'stream', wait = false, user, group, limit, perClient }) => [
            `on-${port}`,
            {
              listen: `${type === 'stream' ? 'tcp' : 'udp'}:127.0.0.1:${port}`,
              command,
              mode: wait ? 'wait' : 'nowait',
              user,
              group,
              maxSpawns: limit,
              maxPerClient: perClient,
              pause: 1000,
              drainTimeout: 5000
            }
          ])
        )
      }),
    args: (configuration) => [...process.execArgv, fixturePath('superserver'), 'daemon', configuration]
  }
]

/** The way to call a scene of `superserver-program.py`: a superserver needs the interpreter itself, by its absolute path. */
export function scene(name: string, ...args: readonly (string | number)[]): [string, ...string[]] {
  return [python, '-I', '-S', join(process.cwd(), fixtureSource('superserver-program.py')), name, ...args.map(String)]
}

const python = hasPython
  ? execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], { encoding: 'utf8' }).trim()
  : 'python3'

/** The kernel's rows of the TCP listeners and UDP sockets at a port. */
export function socketAt(port: number): string | undefined {
  const address = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const rows = ['tcp', 'udp'].flatMap((name) => readFileSync(`/proc/net/${name}`, 'utf8').split('\n').slice(1))
  const columns = rows.map((row) => row.trim().split(/\s+/))
  // 0A is a TCP socket that listens, 07 a UDP socket that is not connected.
  return columns.find(([, local, , state]) => local === address && (state === '0A' || state === '07'))?.[9]
}

/** The ports that one test process uses, below the ephemeral ports. */
const PORTS = 100
/** The sockets that reserve them. */
const reservations: UnixSocket[] = []
let nextPort = 0

/** Reserves ports by an abstract address, which no other test process can bind while this one runs. Returns the first port. */
function reservePorts(): number {
  for (let n = process.pid; ; n++) {
    const first = 20_000 + (n % 120) * PORTS
    try {
      reservations.push(bind(`\0fdpass-test-ports-${first}`))
      return first
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    }
  }
}

/** A free port. */
export function newPort(): number {
  do nextPort = nextPort % PORTS === 0 ? reservePorts() + 1 : nextPort + 1
  while (socketAt(nextPort) !== undefined)
  return nextPort
}

/** Waits until something is so. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 60_000
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`It did not become so: ${condition.toString()}`)
    await delay(10)
  }
}

/** Starts a superserver, and waits until it serves. It does not outlive the test. */
export async function startDaemon(
  t: ExecutionContext,
  server: Superserver,
  services: readonly Service[]
): Promise<Daemon> {
  const folder = newFolder()
  const configuration = join(folder, 'configuration')
  const serving = () => services.every(({ port }) => socketAt(port) !== undefined)
  writeFileSync(configuration, server.configure(services))
  const child = spawn(server.path!, server.args(configuration), {
    cwd: folder,
    env: { ...process.env, ...marks },
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'] // the pipe must not get to a program
  })
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    const patience = setTimeout(() => child.kill('SIGKILL'), 2000)
    await ended
    clearTimeout(patience)
  })
  await until(() => child.exitCode !== null || serving())
  if (!serving()) throw new Error(`${server.name} ended with code ${child.exitCode}`)
  return {
    child,
    configuration,
    async reload(changed, gone = []) {
      writeFileSync(configuration, server.configure(changed))
      child.kill('SIGHUP')
      await until(
        () =>
          changed.every(({ port }) => socketAt(port) !== undefined) &&
          gone.every((port) => socketAt(port) === undefined)
      )
    }
  }
}

const isRoot = process.getuid?.() === 0

/** What is observed of a superserver, and what all three show; where one differs on purpose, what that shows. */
export interface Scenario {
  readonly title: string
  observe(t: ExecutionContext, server: Superserver): Promise<unknown>
  readonly seen: unknown
  readonly but?: Partial<Record<Superserver['name'], readonly [title: string, seen: unknown]>>
  /** The one that has no such thing. */
  readonly lacking?: Superserver['name']
  /** Whether ours has to begin as root too. */
  readonly changesUser?: boolean
}

/** The text that a client received, and how its connection ended: 'open', 'end' or an error code. */
export type Heard = readonly [text: string, end: string]

/** A client of a service. */
export interface Client {
  /** Returns what it has received so far. */
  readonly heard: () => Heard
  /** Sends a text. */
  readonly say: (text: string) => void
  /** Resolves to what it has received at the end of its connection, or after a number of milliseconds. */
  readonly inTheEnd: (milliseconds?: number) => Promise<Heard>
}

/** Connects as a client, sends a text, and ends its sending side if `ended`. */
export function call(t: ExecutionContext, port: number, text = '', ended = false): Client {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
  let said = ''
  let end = 'open'
  const over = new Promise<void>((resolve) => {
    const finish = (how: string) => {
      end = how
      socket.destroy()
      resolve()
    }
    socket.setEncoding('utf8')
    socket.on('data', (part: string) => (said += part))
    socket.on('end', () => finish('end'))
    socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code!))
  })
  if (text !== '') socket.write(text)
  if (ended) socket.end()
  t.teardown(() => void socket.destroy())
  const heard = (): Heard => [said, end]
  return {
    heard,
    say: (more) => void socket.write(more),
    async inTheEnd(milliseconds = 10_000) {
      await Promise.race([over, delay(milliseconds, undefined, { ref: false })])
      return heard()
    }
  }
}

/** Connects to a service, and parses the JSON that it sends up to its end. */
export async function ask(t: ExecutionContext, port: number): Promise<Record<string, unknown>> {
  const [said, end] = await call(t, port).inTheEnd()
  if (end !== 'end') throw new Error(`The connection ended with ${end}: ${said}`)
  return JSON.parse(said) as Record<string, unknown>
}

/** The sender of datagrams to a service. */
export interface Sender {
  readonly send: (...texts: string[]) => void
  /** Resolves when the service has received all that was sent. */
  readonly taken: () => Promise<void>
  /** The answers, when there are so many, or so many milliseconds have gone by. */
  readonly answers: (count: number, milliseconds?: number) => Promise<Record<string, unknown>[]>
}

/** Opens a connected UDP socket, which only the service's own address can answer. */
export async function post(t: ExecutionContext, port: number): Promise<Sender> {
  const socket = createSocket('udp4')
  t.teardown(() => void socket.close())
  socket.connect(port, '127.0.0.1')
  await once(socket, 'connect')
  const received: Record<string, unknown>[] = []
  socket.on('message', (data) => received.push(JSON.parse(data.toString()) as Record<string, unknown>))
  const sent: Promise<void>[] = []
  // A line of /proc/net/udp: slot, local address, remote address, state, lengths of both queues; proc_net(5).
  const queue = new RegExp(`: \\w+:${port.toString(16).toUpperCase().padStart(4, '0')} \\S+ \\S+ \\w+:(\\w+)`)
  return {
    send: (...texts) => {
      for (const text of texts) sent.push(new Promise((resolve) => socket.send(text, () => resolve())))
    },
    async taken() {
      await Promise.all(sent)
      await until(() => Number(queue.exec(readFileSync('/proc/net/udp', 'utf8'))?.[1] ?? 1) === 0)
    },
    async answers(count, milliseconds = 5000) {
      const deadline = performance.now() + milliseconds
      while (received.length < count && performance.now() < deadline) await delay(10)
      return received
    }
  }
}

/** A program that can be taken away: a script, for the interpreter. */
export function temporaryProgram(command: readonly string[]): {
  path: string
  remove: () => void
  restore: () => void
} {
  const path = newPath('program')
  const restore = () => writeFileSync(path, `#!/bin/sh\nexec ${command.join(' ')}\n`, { mode: 0o755 })
  restore()
  return { path, restore, remove: () => rmSync(path) }
}

/** How the programs that answered followed one another, if each stayed so many seconds. */
export function succession(answers: readonly Record<string, unknown>[], stays: number): unknown {
  const starts = new Map(answers.map(({ pid, started }) => [pid, started as number]))
  const inOrder = [...starts.values()].toSorted((a, b) => a - b)
  return {
    answers: answers.length,
    programs: starts.size,
    overlapping: inOrder.some((start, i) => i > 0 && start - inOrder[i - 1]! < stays)
  }
}

export const served: Heard = ['hello', 'end']

/** Declares a test for each superserver of this machine: it shows what all show, or what it shows in its own way. */
export function compare({ title, observe, seen, but, lacking, changesUser = false }: Scenario): void {
  for (const server of superservers) {
    const { name, path } = server
    if (name === lacking) continue
    const [its, expected] = but?.[name] ?? [title, seen]
    const asRoot = name !== 'superserve' || changesUser
    const reason = `needs ${name}, Python 3.9 and Linux${asRoot ? ', and to begin as root' : ''}`
    const hangs = name === 'xinetd' && isUserMode
    const canRun = isLinux && hasPython && path !== undefined && (isRoot || !asRoot)
    const only = onlyIf(canRun && !hangs, hangs ? 'xinetd hangs on kernels in user mode' : reason, test.serial)
    only(`${name}: ${its}`, async (t) => {
      t.deepEqual(await observe(t, server), expected)
    })
  }
}
