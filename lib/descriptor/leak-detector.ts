import { setTimeout } from 'node:timers'
import { warnOnce } from '../base/warnings.ts'
import { native } from '../native/binding.ts'

/**
 * How long after its creation a descriptor is registered with the garbage collector, in milliseconds. Registering costs as much as a
 * system call, and most descriptors are closed sooner.
 */
const REGISTRATION_DELAY_MS = 5

/** Objects to register with the garbage collector once they have outlived a delay. */
export class PendingRegistrations<T extends object> {
  readonly #register: (object: T) => void
  // An object that is closed early frees its position at once: each garbage collection copies what is held here.
  #objects: (T | undefined)[] = []
  #count = 0
  #positions = 0
  #isScheduled = false

  constructor(register: (object: T) => void) {
    this.#register = register
  }

  /** Adds an object, and returns its position for `remove`. */
  add(object: T): number {
    if (!this.#isScheduled) {
      this.#isScheduled = true
      setTimeout(() => this.#registerAll(), REGISTRATION_DELAY_MS).unref()
    }
    this.#count++
    const position = this.#positions++
    this.#objects[position] = object
    return position
  }

  /** Removes an object that is not registered yet. */
  remove(position: number): void {
    this.#objects[position] = undefined
    if (--this.#count === 0) this.#positions = 0
  }

  #registerAll(): void {
    const objects = this.#objects
    this.#objects = []
    this.#positions = this.#count = 0
    this.#isScheduled = false
    for (const object of objects) if (object !== undefined) this.#register(object)
  }
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
