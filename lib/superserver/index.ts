/**
 * A superserver listens, and has others serve: a program for each connection, as inetd does, or workers with fewer rights, as nginx
 * does: what a worker has not taken on when it dies goes to another one.
 *
 * - The superserver: {@link superserve} with {@link ServiceOptions}, {@link Superserver}, {@link SuperserverStats}
 * - A worker: {@link connections}, {@link serve}, {@link listeners}, {@link isWorker}
 *
 * @module fdpass/superserver
 */
import '../socket/index.ts' // adds the casts to Descriptor
export type { ListenSource } from '../socket/internal.ts'
export type { ExitStatus } from './child.ts'
export { type ConnectionsOptions, type WorkerListener, connections, listeners, serve } from './connections.ts'
export type {
  ConnectionCounters,
  ExitEvent,
  FailureEvent,
  PauseEvent,
  ProcessEvent,
  SuperserverEventMap,
  SuperserverStats,
  WorkerState
} from './service.ts'
export type { ResourceLimit, ServiceOptions } from './settings.ts'
export {
  type CloseOptions,
  type Services,
  type SuperserveOptions,
  Superserver,
  type SuperserverAddress,
  type SuperserverOptions,
  superserve
} from './superserver.ts'
export { isWorker } from './worker-environment.ts'
