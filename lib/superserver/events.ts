import type { EventEmitter } from 'node:events'
import { warnOfService } from '../socket/internal.ts'
import type { ExitStatus } from './child.ts'

/** An event about a process of a service. */
export interface ProcessEvent {
  /** The service's name. */
  readonly service: string
  /** The process's pid. */
  readonly pid: number
}

/** Why a superserver kills a worker. */
export type KillReason = 'readyTimeout' | 'acknowledgeTimeout' | 'drainTimeout' | 'channel'

/** An event about the exit of a process. */
export interface ExitEvent extends ProcessEvent, ExitStatus {
  /** The number of connections lost with it: see {@link ConnectionCounters.lost}. */
  readonly lost: number
  /**
   * Why the superserver killed it: the limit of {@link ServiceOptions} that it exceeded (`drainTimeout` stands for the timeout of `close`
   * too), or `'channel'` if it broke the protocol of its channel. Null if it ended for another reason.
   */
  readonly reason: KillReason | null
}

/** An event about a service that starts no process for a while. */
export interface PauseEvent {
  /** The service's name. */
  readonly service: string
  /** The length of the pause. */
  readonly milliseconds: number
}

/** An event about a failure. */
export interface FailureEvent {
  /** The service's name; `'superserver'` for a failure of the whole superserver. */
  readonly service: string
  /** The error. */
  readonly error: Error
}

/** The events of a {@link Superserver}. */
export interface SuperserverEventMap {
  /** A worker, or the program of a `wait` service, was started. */
  spawn: [ProcessEvent]
  /** A worker is ready. */
  ready: [ProcessEvent]
  /** A worker or the program of a `wait` service exited, or the program of a `nowait` service failed. */
  exit: [ExitEvent]
  /** A service has reached `maxSpawns` and pauses. */
  pause: [PauseEvent]
  /**
   * An operation failed: a program could not be executed, the descriptor table was full, or a reload by SIGHUP failed. Without a
   * listener for this event, each distinct failure is emitted once as a process warning.
   */
  failure: [FailureEvent]
}

/** The emitter of a superserver's events. */
export type Events = EventEmitter<SuperserverEventMap>

/** Emits `'failure'`, or a process warning if the event has no listener, so that no failure passes unnoticed. */
export function emitFailure(events: Events, service: string, error: unknown): void {
  if (events.emit('failure', { service, error: error as Error })) return
  warnOfService(service, error)
}
