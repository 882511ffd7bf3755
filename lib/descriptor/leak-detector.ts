import { setTimeout } from 'node:timers'
import { warnOnce } from '../base/warnings.ts'
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
  // The program may have closed a number that it read, and the number may be another file's now.
  if (!read) native.close(fd)
  warnOnce(
    read
      ? 'A Descriptor was garbage-collected while it was open. Its number had been read, so it was left open'
      : 'A Descriptor was garbage-collected while it was open, and was closed',
    fd
  )
})
