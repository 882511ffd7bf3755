// Named views of the results that the native calls leave in the shared arrays. A result is valid until the next native call.
import type * as Binding from '#binding'
import { binding } from './binding.ts'
import { SMALL, batch, bytes, fds, outcome, turn } from './shared-memory.ts'

// Without a binary no call is made, and no result is read.
const layout = (binding ?? {
  TurnField: {},
  ReceiveField: {},
  BatchField: {},
  BatchEntryField: {},
  ControlStatus: {}
}) as typeof Binding
const receiveField = layout.ReceiveField
const FD_COUNT = receiveField.FdCount
const STATUS = receiveField.Status
const SIZE = receiveField.Size
const EXTRAS = receiveField.Extras
const NAME_LENGTH = receiveField.NameLength
const { HAS_CREDENTIALS, HAS_PIDFD, BATCH_HEADER_LENGTH, BATCH_ENTRY_LENGTH } = layout
const BATCH_BYTES = BATCH_HEADER_LENGTH + layout.BatchEntryField.ByteCount
const BATCH_FDS = BATCH_HEADER_LENGTH + layout.BatchEntryField.FdCount

/** The outcomes of a received message's descriptors. */
export const ControlStatus: typeof Binding.ControlStatus = layout.ControlStatus

/** The result of a receive, beside the number of bytes, which the call returns. */
export const receiveResult = {
  /** The number of descriptors. */
  get fdCount(): number {
    return outcome[FD_COUNT]!
  },
  /** What became of the descriptors: a `ControlStatus`. */
  get status(): number {
    return outcome[STATUS]!
  },
  /** The size of the message in bytes; more than the number of bytes returned if the message was truncated. */
  get size(): number {
    return outcome[SIZE]!
  },
  /** Whether credentials or a pidfd arrived. */
  get hasExtras(): boolean {
    return outcome[EXTRAS] !== 0
  },
  /** The sender's credentials; a pid of null if the kernel does not know it. */
  get credentials(): { pid: number | null; uid: number; gid: number } | undefined {
    if ((outcome[EXTRAS]! & HAS_CREDENTIALS) === 0) return undefined
    const pid = outcome[receiveField.Pid]!
    return {
      pid: pid === 0 ? null : pid,
      uid: outcome[receiveField.Uid]! >>> 0,
      gid: outcome[receiveField.Gid]! >>> 0
    }
  },
  /** The number of the sender's pidfd, which the native side owns. */
  get pidfd(): number | undefined {
    return (outcome[EXTRAS]! & HAS_PIDFD) === 0 ? undefined : outcome[receiveField.Pidfd]!
  },
  /** The length of the sender's address in the shared name; 0 if it has none. */
  get nameLength(): number {
    return outcome[NAME_LENGTH]!
  }
}

/** The result of a receive of several messages. Their bytes and descriptors follow each other in the shared arrays. */
export const batchResult = {
  /** The number of messages. */
  get count(): number {
    return batch[layout.BatchField.Count]!
  },
  byteCount(message: number): number {
    return batch[BATCH_BYTES + message * BATCH_ENTRY_LENGTH]!
  },
  fdCount(message: number): number {
    return batch[BATCH_FDS + message * BATCH_ENTRY_LENGTH]!
  }
}

const { Running: RUNNING, Held: HELD, Fd: EVENT_FD, Events: EVENTS, Armed: ARMED } = layout.TurnField

/** The state of the event loop's current callback. */
export const loopCallback = {
  /** Whether a callback is running. */
  get isRunning(): boolean {
    return turn[RUNNING] !== 0
  },
  /** The number of handles that keep the process alive. The native side reads it after each callback. */
  get held(): number {
    return turn[HELD]!
  },
  set held(count: number) {
    turn[HELD] = count
  },
  /** The descriptor that is ready. */
  get fd(): number {
    return turn[EVENT_FD]!
  },
  /** The events that it is ready for. */
  get events(): number {
    return turn[EVENTS]!
  },
  /** The events that it is still armed for. */
  get armed(): number {
    return turn[ARMED]!
  }
}

/** Returns a copy of received bytes. */
export function copyBytes(from: number, count: number): Uint8Array {
  const data = new Uint8Array(count)
  if (count <= SMALL) for (let i = 0; i < count; i++) data[i] = bytes[from + i]!
  else data.set(bytes.subarray(from, from + count))
  return data
}

/** Puts the bytes of a small message, at most {@link SMALL}, where `send` expects them. */
export function putBytes(data: Uint8Array): void {
  for (let i = 0; i < data.length; i++) bytes[i] = data[i]!
}

/** Returns one of the received descriptor numbers. */
export function fdAt(position: number): number {
  return fds[position]!
}

/** Puts descriptor numbers where the native calls expect them. */
export function putAllFds(numbers: readonly number[]): void {
  for (let i = 0; i < numbers.length; i++) fds[i] = numbers[i]!
}

/** Puts a descriptor number where the native calls expect it. */
export function putFdAt(position: number, fd: number): void {
  fds[position] = fd
}
