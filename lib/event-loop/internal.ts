// What this room offers to the rooms above it, and not to users.
export { KeepAlive } from './keep-alive.ts'
export { PollHandle } from './poll-handle.ts'
export { hold, openReactor } from './reactor.ts'
export { yieldToLoop } from './tick-budget.ts'
