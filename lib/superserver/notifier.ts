import { systemError, native } from '../native/internal.ts'
import { Handle } from '../event-loop/internal.ts'

/** What rings where one of the native services has news; the services hear it all. It does not hold the process. */
class Notifier extends Handle {
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
    native.hearServices()
    for (const hear of this.listeners) hear()
  }

  protected fail(): void {
    this.watchLater()
  }

  protected end(): number[] {
    return []
  }
}

let notifier: Notifier | undefined

/** Has the native services run, and calls back where there is news; the result ends that. */
export function onServiceEvents(hear: () => void): () => void {
  if (notifier === undefined) {
    const fd = native.startServices()
    if (fd < 0) throw systemError(fd, 'pipe')
    notifier = new Notifier(fd)
  }
  const { listeners } = notifier
  listeners.add(hear)
  return () => listeners.delete(hear)
}
