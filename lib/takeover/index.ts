/**
 * Restarts that drop no connection: a process takes over the listeners of the serving process, and serves when it is ready.
 *
 * - {@link takeover} with {@link TakeoverOptions}, {@link Takeover}
 * - From the predecessor: {@link Takeover.listeners}, {@link Predecessor}
 * - To the successor: {@link Takeover.superseded}, {@link Successor}
 *
 * @module fdpass/takeover
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export type { ListenSource } from '../socket/internal.ts'
export type { ConnectionInfo } from './protocol.ts'
export { Predecessor, type TakenConnection, type TakenConnectionsOptions } from './predecessor.ts'
export type { SourceOptions, TakeoverOptions, TakeoverState } from './settings.ts'
export { Successor, type SuccessorHandOverOptions } from './successor.ts'
export { Takeover, takeover } from './takeover.ts'
