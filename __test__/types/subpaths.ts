import type { ChildProcess } from 'node:child_process'
import type { Server as HttpServer } from 'node:http'
import type { Server, Socket, AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import * as broker from 'fdpass/broker'
import * as stores from 'fdpass/store'
import * as takeovers from 'fdpass/takeover'
import * as systemd from 'fdpass/systemd'
import * as superserver from 'fdpass/superserver'
import * as dbus from 'fdpass/dbus'
import * as usocket from 'fdpass/usocket'
import type {
  BrokerListenOptions,
  BrokerOffer,
  BrokerPolicy,
  BrokerRequest,
  OpenRequest,
  ServeBrokerOptions,
  ServiceRequest,
  StartBrokerOptions
} from 'fdpass/broker'
import { type Credentials, Descriptor, type UnixServer, type UnixSocket } from 'fdpass'
import type { GetOptions, PutOptions, ServeStoreOptions, StoreEntry } from 'fdpass/store'
import type {
  ConnectionInfo,
  ListenSource,
  SourceOptions,
  SuccessorHandOverOptions,
  TakenConnection,
  TakenConnectionsOptions,
  TakeoverOptions,
  TakeoverState
} from 'fdpass/takeover'
import {
  superserve,
  type CloseOptions,
  type ConnectionCounters,
  type ConnectionsOptions,
  type ExitStatus,
  type ExitEvent,
  type FailureEvent,
  type PauseEvent,
  type ProcessEvent,
  type ResourceLimit,
  type ServiceOptions,
  type Services,
  type SuperserveOptions,
  type SuperserverAddress,
  type SuperserverEventMap,
  type SuperserverOptions,
  type SuperserverStats,
  type WorkerListener,
  type WorkerState
} from 'fdpass/superserver'
import type { BarrierOptions, KeepWatchdogOptions, ServiceState, StoreFdsOptions } from 'fdpass/systemd'
import type { UServerListenOptions, USocketMessage, USocketOptions, USocketRead } from 'fdpass/usocket'
import { exactly, same } from './exports.ts'

same<keyof typeof broker, 'Broker' | 'BrokerService' | 'connectBroker' | 'serveBroker' | 'startBroker'>()

export type BrokerTypes = [BrokerListenOptions, BrokerOffer, ServeBrokerOptions, ServiceRequest, StartBrokerOptions]

declare const server: UnixServer

/** A policy sees what is asked for by its operation. */
const policy: BrokerPolicy = (request, { uid }) => {
  exactly<BrokerRequest>()(request)
  if (request.operation !== 'open') return request.address === 'tcp:127.0.0.1:80'
  exactly<OpenRequest>()(request)
  return uid === 0 && request.kind === 'file' && request.resolved !== null
}

export async function use(): Promise<void> {
  const one = await broker.startBroker({ user: 'nobody', roots: ['/var/log'], services: [], allow: policy })
  exactly<Descriptor>()(await one.open('syslog', 'r', 0o600))
  exactly<Descriptor>()(await one.connect('/run/x.sock', { signal: AbortSignal.timeout(1) }))
  exactly<number | null>()(one.pid)
  // @ts-expect-error A policy is needed where others connect.
  broker.serveBroker(server, { roots: [] })
  // @ts-expect-error There is a function that makes it.
  new broker.Broker()
}

same<keyof typeof stores, 'Store' | 'StoreService' | 'connectStore' | 'serveStore'>()

export type StoreTypes = [GetOptions, PutOptions]

declare const descriptor: Descriptor

/** A store, and a client of it. */
export async function keep(): Promise<void> {
  const options: ServeStoreOptions = {
    path: '/run/store.sock',
    mode: 0o660,
    allow: async ({ uid }) => uid === 0,
    maxFds: 10,
    maxPerUser: 5,
    takeover: '\0takeover',
    signal: AbortSignal.timeout(1)
  }
  using service = await stores.serveStore(options)
  exactly<stores.StoreService>()(service)
  exactly<string>()(service.address)
  exactly<boolean>()(service.closed)
  exactly<Promise<void>>()(service.superseded)
  using store = await stores.connectStore('/run/store.sock', { signal: AbortSignal.timeout(1) })
  exactly<stores.Store>()(store)
  exactly<void>()(await store.put('x', descriptor, { expires: 5, mode: 0o640, group: 'www', replace: true }))
  await store.put('x', [descriptor, 5] as const, { group: 5 })
  exactly<readonly Descriptor[]>()(await store.get('x', { remove: true }))
  exactly<readonly StoreEntry[]>()(await store.list())
  exactly<void>()(await store.delete('x'))
  // @ts-expect-error a name is needed
  await store.put(descriptor)
  // @ts-expect-error the path is needed
  await stores.serveStore({})
  // @ts-expect-error connectStore() makes it
  new stores.Store('x')
}

same<keyof typeof takeovers, 'Predecessor' | 'Successor' | 'Takeover' | 'takeover'>()
same<ListenSource, string | Descriptor>()

export type TakeoverTypes = [
  ConnectionInfo,
  SuccessorHandOverOptions,
  TakenConnectionsOptions,
  TakeoverState,
  SourceOptions
]
declare const http: HttpServer
declare const net: Server
declare const socket: Socket

/** A process that serves in the place of another one. */
export async function takeOver(): Promise<void> {
  const options: TakeoverOptions = {
    path: '/run/x.sock',
    listen: {
      web: 'tcp:80',
      admin: { path: '/run/a.sock', mode: 0o600 },
      other: { port: 81 },
      given: { source: descriptor, backlog: 5 }
    },
    mode: 0o660,
    allow: ({ uid }) => uid === 0,
    state: (signal) => ({ data: signal.aborted ? '' : 'bytes', fds: [descriptor, 5] as const }),
    connections: true,
    timeout: 5000,
    signal: AbortSignal.timeout(1)
  }
  using place = await takeovers.takeover(options)
  exactly<takeovers.Takeover>()(place)
  const { listeners, ready, superseded, predecessor } = place
  exactly<Readonly<Record<string, Descriptor>>>()(listeners)
  exactly<takeovers.Predecessor | null>()(predecessor)
  exactly<void>()(await place.serve(http, 'web'))
  exactly<void>()(await place.serve(net, 'other'))
  exactly<void>()(await ready())
  const successor = await superseded
  exactly<takeovers.Successor>()(successor)
  exactly<Credentials>()(successor.credentials)
  exactly<boolean>()(successor.takesConnections)
  exactly<void>()(await successor.handOver(socket, { name: 'x', state: new Uint8Array() }))
  for await (const taken of predecessor!.connections({ allowHalfOpen: true })) exactly<TakenConnection>()(taken)

  await takeovers.takeover({ path: '/x', state: () => 'text' })
  await takeovers.takeover({ path: '/x', state: async () => new Uint8Array() })
  // @ts-expect-error the path is needed
  await takeovers.takeover({ listen: {} })
  // @ts-expect-error listeners have names
  await takeovers.takeover({ path: '/x', listen: ['tcp:80'] })
  // @ts-expect-error a port and a path are two things
  await takeovers.takeover({ path: '/x', listen: { a: { port: 1, path: '/y' } } })
  // @ts-expect-error takeover() makes it
  new takeovers.Takeover()
}

same<
  keyof typeof systemd,
  | 'barrier'
  | 'keepWatchdog'
  | 'listenFds'
  | 'notify'
  | 'removeFds'
  | 'spawnWithListeners'
  | 'storeFds'
  | 'watchdogInterval'
>()

export type SystemdTypes = [BarrierOptions, KeepWatchdogOptions, StoreFdsOptions]

declare const connection: Socket

/** A service. */
export async function serve(): Promise<void> {
  const passed = systemd.listenFds()
  exactly<ReadonlyMap<string, Descriptor[]>>()(passed)
  await superserve({ listen: passed.get('web') ?? 'tcp:8080', module: 'worker.js' })

  const state: ServiceState = {
    ready: true,
    reloading: false,
    stopping: undefined,
    status: 'fine',
    errno: -2,
    busError: 'org.freedesktop.DBus.Error.TimedOut',
    exitStatus: 0,
    watchdog: 'trigger',
    watchdogTimeout: 1000,
    extendTimeout: 1000,
    mainPid: process.pid,
    notifyAccess: 'main',
    variables: { X_ONE: '1' } as const
  }
  exactly<boolean>()(await systemd.notify(state, { signal: AbortSignal.timeout(1) }))
  exactly<boolean>()(await systemd.storeFds('name', [connection, 3] as const, { poll: false }))
  exactly<boolean>()(await systemd.removeFds('name'))
  exactly<boolean>()(await systemd.barrier({ timeout: 1000 }))
  exactly<number | undefined>()(systemd.watchdogInterval())
  using watchdog = systemd.keepWatchdog({ interval: 1000 })
  exactly<Disposable>()(watchdog)
  const listeners = { web: [connection, 3] as const, api: connection }
  exactly<ChildProcess>()(systemd.spawnWithListeners('program', ['argument'] as const, listeners))
  systemd.spawnWithListeners('program', [], { web: 3 }, { stdio: 'inherit', env: { A: 'b' }, cwd: '/' })

  // @ts-expect-error: descriptors by name
  systemd.spawnWithListeners('program', [], [3])
  // @ts-expect-error: a descriptor
  systemd.spawnWithListeners('program', [], { web: '3' })

  // @ts-expect-error: not a string of assignments
  await systemd.notify('READY=1')
  // @ts-expect-error: a line of text
  await systemd.notify({ status: 5 })
  // @ts-expect-error: descriptors in an array
  await systemd.storeFds('name', 3)
  // @ts-expect-error: nobody adds to what was passed
  passed.set('web', [])
}

same<
  keyof typeof superserver,
  'Superserver' | 'connections' | 'isWorker' | 'listeners' | 'serve' | 'superserve' | 'worker'
>()
same<keyof SuperserverEventMap, 'exit' | 'failure' | 'pause' | 'ready' | 'spawn'>()
same<superserver.ListenSource, string | Descriptor>()

export type SuperserverTypes = [
  CloseOptions,
  ConnectionsOptions,
  ResourceLimit,
  ServiceOptions,
  Services,
  SuperserverOptions
]

/** A superserver, and what it tells. */
export async function supervise(): Promise<void> {
  const options: SuperserveOptions = {
    listen: ['tcp:80', 'unix:/run/x.sock', descriptor],
    module: new URL('worker.js', import.meta.url),
    args: ['argument'] as const,
    workers: 2,
    user: 'nobody',
    group: 65_534,
    groups: ['adm', 4] as const,
    env: { ...process.env, NAME: undefined },
    rlimits: { nofile: 256, core: [0, 0] as const, cpu: Infinity },
    signals: false,
    signal: AbortSignal.timeout(1)
  }
  await using server = await superserver.superserve(options)
  exactly<superserver.Superserver>()(server)
  exactly<superserver.Superserver>()(await superserver.superserve('/etc/services.json'))
  await superserver.superserve(new URL('file:///etc/services.json'), { notify: false, beforeAccept() {} })
  await superserver.superserve({ services: { web: { listen: 'tcp:80', command: ['/bin/cat'], mode: 'wait' } } })

  server.on('spawn', (event) => exactly<ProcessEvent>()(event)).on('ready', ({ pid }) => exactly<number>()(pid))
  server.once('exit', (event) => {
    exactly<ExitEvent>()(event)
    const status: ExitStatus = event
    exactly<number | null>()(status.code)
    exactly<NodeJS.Signals | `SIG${number}` | null>()(status.signal)
    exactly<number>()(event.lost)
    exactly<'readyTimeout' | 'acknowledgeTimeout' | 'drainTimeout' | 'channel' | null>()(event.reason)
  })
  server.on('pause', (event) => exactly<PauseEvent>()(event))
  server.on('failure', (event) => {
    exactly<FailureEvent>()(event)
    exactly<Error>()(event.error)
  })

  exactly<readonly SuperserverAddress[]>()(server.addresses)
  exactly<AddressInfo | string | null>()(server.addresses[0]!.address)
  const stats = server.stats()
  exactly<SuperserverStats>()(stats)
  const counters: ConnectionCounters = stats
  exactly<number>()(counters.handedOn)
  exactly<WorkerState[]>()(stats.workers)
  exactly<'starting' | 'ready' | 'draining' | 'running'>()(stats.workers[0]!.state)
  exactly<number | null>()(stats.workers[0]!.connections)
  exactly<void>()(await server.reload())
  exactly<void>()(await server.ref().unref().close({ timeout: 5 }))
  exactly<boolean>()(server.closed)
}

export async function refused(): Promise<void> {
  // @ts-expect-error It has to be said what is listened on.
  await superserver.superserve({ module: 'worker.js' })
  // @ts-expect-error A port has the name of its protocol.
  await superserver.superserve({ listen: 80, module: 'worker.js' })
  // @ts-expect-error What has to be done before is a function, and not what it has come to.
  await superserver.superserve({ listen: 'tcp:80', module: 'worker.js', beforeAccept: Promise.resolve() })
  // @ts-expect-error There is no such mode.
  await superserver.superserve({ listen: 'tcp:80', module: 'worker.js', mode: 'fork' })
  // @ts-expect-error A misspelt limit would be none.
  await superserver.superserve({ listen: 'tcp:80', module: 'worker.js', maxConection: 5 })
  // @ts-expect-error A command is a list.
  await superserver.superserve({ listen: 'tcp:80', command: '/bin/cat' })
  // @ts-expect-error A file is no service: it has no options of one.
  await superserver.superserve('/etc/services.json', { workers: 2 })
  // @ts-expect-error There is a function that makes it.
  new superserver.Superserver()
}

/** A worker. */
export async function work(): Promise<void> {
  exactly<boolean>()(superserver.isWorker)
  for await (const socket of superserver.connections({ allowHalfOpen: true })) exactly<Socket>()(socket)
  for await (const listener of superserver.listeners()) {
    exactly<WorkerListener>()(listener)
    exactly<Descriptor>()(listener.fd)
  }
  exactly<void>()(await superserver.serve(http))
  exactly<void>()(await superserver.serve(net))
  // @ts-expect-error An address is the superserver's.
  await superserver.serve(80)
}

same<keyof typeof dbus, 'DBusStream' | 'connectBus'>()
same<keyof typeof usocket, 'UServer' | 'USocket'>()

declare const unix: UnixSocket

/** Streams to a bus. */
export async function buses(): Promise<Duplex> {
  const stream = new dbus.DBusStream(unix)
  exactly<boolean>()(stream.writeWithFds(Buffer.from('x'), [3, Descriptor.from(4)]))
  exactly<void>()(stream.closeFds([3]))
  exactly<dbus.DBusStream>()(stream.ref().unref())
  exactly<dbus.DBusStream>()(await dbus.connectBus())
  exactly<dbus.DBusStream>()(await dbus.connectBus('system', { signal: AbortSignal.timeout(1) }))
  stream.on('fds', (fds) => stream.closeFds(fds))
  exactly<boolean>()(stream.writeWithFds('x', [3], (error) => exactly<Error | null | undefined>()(error)))
  // @ts-expect-error
  new dbus.DBusStream(3)
  // @ts-expect-error
  stream.writeWithFds(Buffer.from('x'), 3)
  // @ts-expect-error
  await dbus.connectBus('session', { timeout: 5 })
  return stream
}

/** Sockets and servers as usocket has them. */
export function sockets(options: USocketOptions, message: USocketMessage, where: UServerListenOptions): Duplex {
  const client = new usocket.USocket(options, () => {})
  client.connect('/run/x', () => {})
  exactly<number | undefined>()(client.fd)
  exactly<boolean>()(client.write(message))
  client.write([3])
  client.write('x', 'utf8', (error) => exactly<Error | null | undefined>()(error))
  client.end({ data: Buffer.from('x'), fds: [3], callback() {} })
  exactly<Buffer | null>()(client.read(1))
  exactly<USocketRead | null>()(client.read(1, null))
  client.unshift(Buffer.from('x'), [3])
  client.on('fds', (fds) => exactly<number[]>()(fds))
  const server = new usocket.UServer()
  exactly<usocket.UServer>()(server.listen(where, () => {}).unref())
  server.listen('/run/x', 5, () => {})
  server.on('connection', (connection: usocket.USocket) => connection.destroy())
  // @ts-expect-error
  client.write({ data: 'x', fds: '3' })
  // @ts-expect-error
  server.listen(80)
  return client
}
