import { unsupportedPlatform } from './errors.ts'
import { type Dispatch, isSupported, loadFailure, openNative } from './native.ts'
import { beginTurn } from './turn.ts'

/** What the reactor tells a socket. */
export interface Watched {
  /** Ready for `events`, and still armed for `armed`. */
  ready(events: number, armed: number): void
}

const watched: (Watched | undefined)[] = []

// An event may be of a socket that was closed while it was on its way.
const dispatch: Dispatch = (fd, events, armed) => {
  beginTurn()
  watched[fd]?.ready(events, armed)
}

/** Makes sure that the native calls can be made. */
export function openReactor(): void {
  if (!isSupported) throw unsupportedPlatform(loadFailure)
  openNative(dispatch)
}

/** Tells `watcher` of a socket's events; undefined for no more. */
export function setWatcher(fd: number, watcher: Watched | undefined): void {
  watched[fd] = watcher
}
