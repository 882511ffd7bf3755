import type { ListeningSocket } from '../socket/internal.ts'
import type { UnixServer } from '../socket/index.ts'

/** What a process keeps for its successor. */
export class HandoverSockets {
  /** Where they meet. */
  readonly control: UnixServer
  /** Second descriptors of the listeners, by name. */
  readonly listeners: Map<string, ListeningSocket>

  constructor(control: UnixServer, listeners = new Map<string, ListeningSocket>()) {
    this.control = control
    this.listeners = listeners
  }

  /** Closes all, and removes the files of those sockets that are this process's. */
  close(): void {
    this.control.close()
    for (const listening of this.listeners.values()) listening.close()
    this.listeners.clear()
  }
}
