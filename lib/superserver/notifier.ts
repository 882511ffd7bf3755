import { systemError, native } from '../native/internal.ts'
import { PollHandle } from '../event-loop/internal.ts'

/** The descriptor by which the services' thread reports events. One serves all services, and it does not keep the process alive. */
class Notifier extends PollHandle {
  readonly listeners = new Set<() => void>()

  constructor(fd: number) {
    super(fd)
    this.referenced = false
    this.update()
  }

  protected get waitsForInput(): boolean {
    return true
  }

  protected flushInput(): void {
    native.drainServices()
    for (const drain of this.listeners) drain()
  }

  protected fail(): void {
    this.watchLater()
  }

  protected end(): number[] {
    return []
  }
}

let notifier: Notifier | undefined

/** Starts the services' thread if necessary, and calls `drain` whenever a service may have events. Returns a function that stops that. */
export function onServiceEvents(drain: () => void): () => void {
  if (notifier === undefined) {
    const fd = native.startServices()
    if (fd < 0) throw systemError(fd, 'pipe')
    notifier = new Notifier(fd)
  }
  const { listeners } = notifier
  listeners.add(drain)
  return () => listeners.delete(drain)
}
