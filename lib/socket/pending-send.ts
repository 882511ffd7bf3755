import { Waiter } from '../base/waiters.ts'
import { fds } from '../native/shared-memory.ts'
import type { SentCredentials } from './credentials.ts'

const none: readonly number[] = []
const empty = new Uint8Array()

/** A message that is built anew for each attempt, because it describes the state of its descriptor, which changes meanwhile. */
export interface DeferredMessage {
  /** Returns the bytes, and puts the descriptor's number where the native calls expect it. */
  build(): Uint8Array
  /** Called when the attempt sent nothing. */
  rollback(): void
  /** Called when the descriptor was sent, with all of the bytes or with the first of them. */
  sent(whole: boolean): void
}

/** A send that waits for room. */
export abstract class PendingSend extends Waiter<void> {
  /** Keeps the socket from being collected. */
  readonly socket: object
  data: Uint8Array
  /** The number of bytes of `data` that were sent. */
  offset: number
  /** The credentials that go with every part, because a receiver may see the parts apart. */
  readonly credentials: SentCredentials | undefined

  constructor(socket: object, data: Uint8Array, offset: number, credentials: SentCredentials | undefined) {
    super()
    this.socket = socket
    this.data = data
    this.offset = offset
    this.credentials = credentials
  }

  /** Prepares an attempt: puts the descriptors into the shared numbers, and returns how many there are. */
  abstract prepare(): number
  /** Undoes what `prepare` did, because nothing was sent. */
  abstract rollback(): void
  /** Accounts for bytes that were sent. */
  abstract advance(count: number, whole: boolean): void
  /** Takes the duplicated descriptors that are no longer needed, for the caller to close. */
  abstract takeFds(): readonly number[]
}

/** A message whose descriptors were duplicated when `send` was called. */
export class CapturedSend extends PendingSend {
  /** The duplicates; none once they were sent with the first byte. */
  #fds: readonly number[]

  constructor(
    socket: object,
    data: Uint8Array,
    offset: number,
    credentials: SentCredentials | undefined,
    duplicates = none
  ) {
    super(socket, data, offset, credentials)
    this.#fds = duplicates
  }

  prepare(): number {
    fds.set(this.#fds)
    return this.#fds.length
  }

  rollback(): void {}

  advance(count: number): void {
    this.offset += count
  }

  takeFds(): readonly number[] {
    const duplicates = this.#fds
    this.#fds = none
    return duplicates
  }
}

/** A {@link DeferredMessage}; after its first byte was sent, the rest of the bytes. */
export class DeferredSend extends PendingSend {
  #message: DeferredMessage | undefined

  constructor(socket: object, message: DeferredMessage) {
    super(socket, empty, 0, undefined)
    this.#message = message
  }

  prepare(): number {
    if (this.#message === undefined) return 0
    this.data = this.#message.build()
    return 1
  }

  rollback(): void {
    this.#message?.rollback()
  }

  advance(count: number, whole: boolean): void {
    this.offset += count
    this.#message?.sent(whole)
    this.#message = undefined
  }

  takeFds(): readonly number[] {
    return none
  }
}
