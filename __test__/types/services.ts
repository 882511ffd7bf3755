import type { ChildProcess } from 'node:child_process'
import type { Server as HttpServer } from 'node:http'
import type { Server, Socket } from 'node:net'
import * as broker from 'fdpass/broker'
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
import type { Credentials, Descriptor, UnixServer } from 'fdpass'
import * as stores from 'fdpass/store'
import type { GetOptions, PutOptions, ServeStoreOptions, StoreEntry } from 'fdpass/store'
import * as takeovers from 'fdpass/takeover'
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
import { superserve } from 'fdpass/superserver'
import * as systemd from 'fdpass/systemd'
import type { BarrierOptions, KeepWatchdogOptions, ServiceState, StoreFdsOptions } from 'fdpass/systemd'
import { exactly, same } from './exactly.ts'

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
