import { systemError } from '../native/system-error.ts'
import { unsupportedPlatform } from '../base/errors.ts'
import { type Dispatch, isSupported, loadFailure, native, openNative } from '../native/binding.ts'
import { addHeld, armedEvents, isInCallback, readyEvents, readyFd } from '../native/results.ts'
import { startTick } from './tick-budget.ts'

/** A handle that receives a descriptor's events. */
export interface Watched {
  /** Called when the descriptor is ready for `events` and still armed for `armed`. */
  ready(events: number, armed: number): void
}

const watched: (Watched | undefined)[] = []

// The descriptor of an event may have been closed since.
const dispatch: Dispatch = () => {
  startTick()
  watched[readyFd()]?.ready(readyEvents(), armedEvents())
}

let afterOpen: (() => void) | undefined

/** Sets what runs when the native half has been opened. */
export function setAfterOpen(task: () => void): void {
  afterOpen = task
}

/** Opens the native half of this environment if it is not open; throws ERR_UNSUPPORTED_PLATFORM without a binary. */
export function openReactor(): void {
  if (native !== undefined) return
  if (!isSupported) throw unsupportedPlatform(loadFailure)
  const failure = openNative(dispatch)
  if (failure !== undefined) throw systemError(failure.errno, failure.syscall)
  afterOpen?.()
}

/**
 * Adds or removes a handle that keeps the process alive. During a callback of the loop this only counts: the native side reads the count
 * after the callback and its microtasks, so that releasing and holding again, as each message of a ping-pong does, costs no call.
 */
export function hold(on: boolean): void {
  const held = addHeld(on ? 1 : -1)
  if (!isInCallback()) native.hold(held === 0 ? 0 : 1)
}

/** Sets the handle that receives a descriptor's events; undefined for none. */
export function setWatcher(fd: number, watcher: Watched | undefined): void {
  watched[fd] = watcher
}
