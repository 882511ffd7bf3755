/**
 * A superserver listens on sockets and passes the connections to other processes: to a program for each connection, as inetd does, or
 * to unprivileged workers, as nginx does. Connections that a worker has not acknowledged when it dies go to another worker.
 *
 * - The superserver: {@link superserve} with {@link ServiceOptions}, {@link Superserver}, {@link SuperserverStats}
 * - A worker: {@link connections}, {@link serve}, {@link listeners}, {@link isWorker}, {@link worker}
 *
 * @module fdpass/superserver
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export type { ListenSource } from '../socket/internal.ts'
export type { ExitStatus } from './child.ts'
export { type ConnectionsOptions, type WorkerListener, connections, listeners } from './connections.ts'
export type { ExitEvent, FailureEvent, KillReason, PauseEvent, ProcessEvent, SuperserverEventMap } from './events.ts'
export type { ListenAlias, ReadyCondition } from './passed-socket.ts'
export type { ResourceLimit, ServiceOptions } from './service-options.ts'
export type { ConnectionCounters, SuperserverStats, WorkerState } from './stats.ts'
export { type Services, type SuperserveOptions, superserve } from './superserve.ts'
export { type CloseOptions, Superserver, type SuperserverAddress, type SuperserverOptions } from './superserver.ts'
export { type ServeOptions, serve } from './serve.ts'
export { type Draining, type ThisWorker, isWorker, worker } from './worker-channel.ts'
