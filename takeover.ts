/**
 * Restarts that drop no connection: a process takes the listeners of the one that serves, and serves in its place when it is ready.
 *
 * - {@link takeover} with {@link TakeoverOptions}, {@link Takeover}
 * - What came: {@link Takeover.listeners}, {@link Predecessor}
 * - What goes: {@link Takeover.superseded}, {@link Successor}
 *
 * @module takeover
 */
export type { ListenSource } from './lib/socket/listening.ts'
export type { Knowledge } from './lib/takeover/connection-message.ts'
export { Predecessor, type TakenConnection, type TakenConnectionsOptions } from './lib/takeover/predecessor.ts'
export type { TakeoverOptions, TakeoverState } from './lib/takeover/settings.ts'
export { Successor, type SuccessorHandOverOptions } from './lib/takeover/successor.ts'
export { Takeover, takeover } from './lib/takeover/takeover.ts'
