/**
 * Restarts that drop no connection: a process takes the listeners of the one that serves, and serves in its place when it is ready.
 *
 * - {@link takeover} with {@link TakeoverOptions}, {@link Takeover}
 * - What came: {@link Takeover.listeners}, {@link Predecessor}
 * - What goes: {@link Takeover.superseded}, {@link Successor}
 *
 * @module fdpass/takeover
 */
import '../socket/index.ts' // adds the casts to Descriptor
export type { ListenSource } from '../socket/internal.ts'
export type { ConnectionInfo } from './connection-message.ts'
export { Predecessor, type TakenConnection, type TakenConnectionsOptions } from './predecessor.ts'
export type { TakeoverOptions, TakeoverState } from './settings.ts'
export { Successor, type SuccessorHandOverOptions } from './successor.ts'
export { Takeover, takeover } from './takeover.ts'
