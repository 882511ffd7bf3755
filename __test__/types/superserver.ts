import type { Server as HttpServer } from 'node:http'
import type { AddressInfo, Server, Socket } from 'node:net'
import type { Descriptor } from 'fdpass'
import * as superserver from 'fdpass/superserver'
import type {
  CloseOptions,
  ConnectionCounters,
  ConnectionsOptions,
  ExitStatus,
  ExitEvent,
  FailureEvent,
  ListenSource,
  PauseEvent,
  ProcessEvent,
  ResourceLimit,
  ServiceOptions,
  Services,
  SuperserveOptions,
  SuperserverAddress,
  SuperserverEventMap,
  SuperserverOptions,
  SuperserverStats,
  WorkerListener,
  WorkerState
} from 'fdpass/superserver'
import { exactly, same } from './exactly.ts'

same<
  keyof typeof superserver,
  'Superserver' | 'connections' | 'isWorker' | 'listeners' | 'serve' | 'superserve' | 'worker'
>()
same<keyof SuperserverEventMap, 'exit' | 'failure' | 'pause' | 'ready' | 'spawn'>()
same<ListenSource, string | Descriptor>()

export type Types = [CloseOptions, ConnectionsOptions, ResourceLimit, ServiceOptions, Services, SuperserverOptions]

declare const descriptor: Descriptor
declare const http: HttpServer
declare const net: Server

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
  exactly<'starting' | 'ready' | 'draining'>()(stats.workers[0]!.state)
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
