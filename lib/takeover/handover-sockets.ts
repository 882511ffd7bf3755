import type { ListeningSocket } from '../socket/internal.ts'
import type { UnixServer } from '../socket/index.ts'

/** The sockets that a process keeps open for its successor. */
export class HandoverSockets {
  /** The listener at `path`. */
  readonly control: UnixServer
  /** Duplicates of the listeners, by name. */
  readonly listeners: Map<string, ListeningSocket>

  constructor(control: UnixServer, listeners = new Map<string, ListeningSocket>()) {
    this.control = control
    this.listeners = listeners
  }

  /** Closes all sockets, and removes the files of those that belong to this process. */
  close(): void {
    this.control.close()
    for (const listening of this.listeners.values()) listening.close()
    this.listeners.clear()
  }
}
