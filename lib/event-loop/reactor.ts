import { systemError } from '../native/system-error.ts'
import { unsupportedPlatform } from '../base/errors/unsupported.ts'
import { type Dispatch, isSupported, loadFailure, native, openNative } from '../native/binding.ts'
import { turn } from '../native/shared-memory.ts'
import { startTick } from './tick-budget.ts'

/** What the reactor tells a socket. */
export interface Watched {
  /** Ready for `events`, and still armed for `armed`. */
  ready(events: number, armed: number): void
}

// Places in the shared memory of the turn.
const RUNNING = 0
const HELD = 1
const FD = 2
const EVENTS = 3
const ARMED = 4

const watched: (Watched | undefined)[] = []

// An event may be of a socket that was closed while it was on its way.
const dispatch: Dispatch = () => {
  startTick()
  watched[turn[FD]!]?.ready(turn[EVENTS]!, turn[ARMED]!)
}

/** Makes sure that the native calls can be made. */
export function openReactor(): void {
  if (!isSupported) throw unsupportedPlatform(loadFailure)
  const failure = openNative(dispatch)
  if (failure !== undefined) throw systemError(failure.errno, failure.syscall)
}

/**
 * Counts a socket that keeps the process alive, or one that no longer does. In a callback of the loop the count is all:
 * the native side looks at it when the callback and its microtasks have run, so that letting go and holding again, as
 * each message of a ping-pong does, costs no call.
 */
export function hold(on: boolean): void {
  turn[HELD]! += on ? 1 : -1
  if (turn[RUNNING] === 0) native.hold(turn[HELD] === 0 ? 0 : 1)
}

/** Tells `watcher` of a socket's events; undefined for no more. */
export function setWatcher(fd: number, watcher: Watched | undefined): void {
  watched[fd] = watcher
}
