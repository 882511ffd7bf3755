import { setTimeout } from 'node:timers'
import { setWatcher } from '../event-loop/reactor.ts'
import { native } from '../native/binding.ts'

/**
 * How long after its creation a descriptor is registered with the garbage collector, in milliseconds. Registering costs as much as a
 * system call, and most descriptors are closed sooner.
 */
const REGISTRATION_DELAY_MS = 5

// Variables, not fields of an object: each received descriptor is added and removed, and fields cost 1 % of a batch.
// A descriptor that is closed early frees its position at once: each garbage collection copies what is held here.
let pending: (object | undefined)[] = []
let pendingCount = 0
let positions = 0
let isScheduled = false
let register: (descriptor: object) => void

/** Sets the function that calls `watchForLeak` for a descriptor which has outlived the delay. */
export function setRegistration(registerDescriptor: (descriptor: object) => void): void {
  register = registerDescriptor
}

/** Registers a descriptor after the delay; returns its position for `cancelRegistration`. */
export function registerLater(descriptor: object): number {
  const position = positions++
  pending[position] = descriptor
  pendingCount++
  if (!isScheduled) {
    isScheduled = true
    setTimeout(registerPending, REGISTRATION_DELAY_MS).unref()
  }
  return position
}

/** Cancels the registration of a descriptor that was closed or taken before. */
export function cancelRegistration(position: number): void {
  pending[position] = undefined
  if (--pendingCount === 0) positions = 0
}

function registerPending(): void {
  const descriptors = pending
  pending = []
  positions = pendingCount = 0
  isScheduled = false
  for (const descriptor of descriptors) if (descriptor !== undefined) register(descriptor)
}

/** What the finalizer knows of an open descriptor. It does not refer to the object, which could not be collected then. */
export interface LeakWatch {
  readonly fd: number
  /** Whether the program has read the number. */
  read: boolean
}

/** Reports a descriptor that is collected while it is open, and closes it unless the program has read its number. */
export function watchForLeak(descriptor: object, fd: number, read: boolean): LeakWatch {
  const watch = { fd, read }
  finalizer.register(descriptor, watch, watch)
  return watch
}

/** Ends the watch of a descriptor that was closed or taken. */
export function endWatch(watch: LeakWatch): void {
  finalizer.unregister(watch)
}

const finalizer = new FinalizationRegistry<LeakWatch>(({ fd, read }) => {
  const close = () => {
    setWatcher(fd, undefined) // of a descriptor that was read or polled
    native.close(fd)
  }
  closeUnused('A Descriptor', { fd, isLent: read, close })
})

/** What owns the descriptor of an object. */
interface Owner {
  readonly fd: number
  /** Whether the program has read the number. */
  readonly isLent: boolean
  close(): void
}

/** Reports an object that was collected while it was open, and closes its descriptor unless the program has read the number. */
export function closeUnused(name: string, owner: Owner): void {
  // The program may have closed a number that it read, and the number may be another file's now.
  if (!owner.isLent) owner.close()
  const outcome = owner.isLent ? '. Its number had been read, so it was left open' : ', and was closed'
  warnOnce(`${name} was garbage-collected while it was open${outcome}`, owner.fd)
}

const emitted = new Set<string>()

/** Emits a warning about a kind of leak, once per process: a program that leaks one descriptor usually leaks thousands. */
function warnOnce(text: string, fd: number): void {
  if (emitted.has(text)) return
  emitted.add(text)
  process.emitWarning(`${text} (number ${fd})`, {
    code: 'FDPASS_NOT_CLOSED',
    detail: 'Close what you own with close(), closeSync() or `using`. Further ones are not reported.'
  })
}
