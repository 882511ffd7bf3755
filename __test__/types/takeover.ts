import type { Server as HttpServer } from 'node:http'
import type { Server, Socket } from 'node:net'
import type { Credentials, Descriptor } from 'fdpass'
import * as takeovers from 'fdpass/takeover'
import type {
  ConnectionInfo,
  ListenSource,
  SuccessorHandOverOptions,
  TakenConnection,
  TakenConnectionsOptions,
  TakeoverOptions,
  TakeoverState
} from 'fdpass/takeover'
import { exactly, same } from './exactly.ts'

same<keyof typeof takeovers, 'Predecessor' | 'Successor' | 'Takeover' | 'takeover'>()
same<ListenSource, string | Descriptor>()

export type Types = [ConnectionInfo, SuccessorHandOverOptions, TakenConnectionsOptions, TakeoverState]

declare const descriptor: Descriptor
declare const http: HttpServer
declare const net: Server
declare const socket: Socket

/** A process that serves in the place of another one. */
export async function takeOver(): Promise<void> {
  const options: TakeoverOptions = {
    path: '/run/x.sock',
    listen: { web: 'tcp:80', admin: { path: '/run/a.sock', mode: 0o600 }, other: { port: 81 }, given: descriptor },
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
