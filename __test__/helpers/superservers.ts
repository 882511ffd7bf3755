import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { hasPython } from './conditions.ts'
import { temporaryFolder } from './descriptors.ts'
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
    args: (configuration) => [...process.execArgv, fixturePath('superserver-daemon'), configuration]
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

let nextPort = 20_000 + (process.pid % 10_000)

/** A free port, below the ephemeral ports. */
export function newPort(): number {
  do nextPort++
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
  const configuration = join(mkdtempSync(join(folder, 'daemon-')), 'configuration')
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

const folder = temporaryFolder()
