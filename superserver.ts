/**
 * A superserver listens, and has others serve: a program for each connection, as inetd does, or workers with fewer rights, as nginx
 * does: what a worker has not taken on when it dies goes to another one.
 *
 * - The superserver: {@link superserve} with {@link ServiceOptions}, {@link Superserver}, {@link SuperserverStats}
 * - A worker: {@link connections}, {@link serve}, {@link listeners}, {@link isWorker}
 *
 * @module superserver
 */
export type { ListenSource } from './lib/socket/listening.ts'
export type { Ending } from './lib/superserver/child.ts'
export {
  type ConnectionsOptions,
  type WorkerListener,
  connections,
  listeners,
  serve
} from './lib/superserver/connections.ts'
export type {
  ConnectionCounters,
  ExitEvent,
  FailureEvent,
  PauseEvent,
  ProcessEvent,
  SuperserverEventMap,
  SuperserverStats,
  WorkerState
} from './lib/superserver/service.ts'
export type { ResourceLimit, ServiceOptions } from './lib/superserver/settings.ts'
export {
  type CloseOptions,
  type Services,
  type SuperserveOptions,
  Superserver,
  type SuperserverAddress,
  type SuperserverOptions,
  superserve
} from './lib/superserver/superserver.ts'
export { isWorker } from './lib/superserver/worker-environment.ts'
